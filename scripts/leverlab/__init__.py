"""leverlab measures what each serving lever does to an LLM inference engine, and says how sure it is."""

__version__ = "0.1.0"

MEASUREMENT_VERSION = 1
"""Raised by hand when the way of measuring changes, with a line in CHANGELOG.md: every cell gets a new id."""
