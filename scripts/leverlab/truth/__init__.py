"""The truth engine: an OpenAI-compatible streaming server that declares its times and logs when it really sent.

It is the ruler that the instrument is checked against, and an engine like any other, on which the whole pipeline runs in
seconds. Its "tokens" are words separated by white space.
"""

from typing import Final

TRUTH_VERSION: Final = "1"
"""Raised when the engine's declared times mean something else than before; `versions` in config/engines.yaml follows it."""
