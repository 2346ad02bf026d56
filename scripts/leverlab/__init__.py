"""leverlab measures what each serving lever does to an LLM inference engine, and says how sure it is."""

__version__ = "0.1.0"

MEASUREMENT_VERSION = 1
"""Raised by hand when the way of measuring changes, with a line in CHANGELOG.md: every cell gets a new id."""

DRAWING_VERSION = 1
"""Raised by hand when the same workload and seed would be drawn differently: every workload gets a new id."""

SYNTHETIC_VERSION = 1
"""Raised by hand when the files of a synthetic model change: every server of such a model gets a new id."""
