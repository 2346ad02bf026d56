"""Engines: one module each, behind the contract of `leverlab.engines.base`."""

from collections.abc import Callable
from typing import Final

from leverlab.engines.base import Engine
from leverlab.engines.sglang import SglangEngine
from leverlab.engines.static import StaticEngine
from leverlab.engines.truth import TruthEngine
from leverlab.engines.vllm import VllmEngine

_ENGINES: Final[dict[str, Callable[[], Engine]]] = {
    "vllm": VllmEngine,
    "sglang": SglangEngine,
    "static": StaticEngine,
    "truth": TruthEngine,
}


def engine_for(kind: str) -> Engine:
    """The module that drives engines of `kind` (`kind` in config/engines.yaml). Raises ValueError for an unknown one."""
    if kind not in _ENGINES:
        raise ValueError(f"there is no module for engines of kind {kind!r}; there are {', '.join(_ENGINES)}")
    return _ENGINES[kind]()
