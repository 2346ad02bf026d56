"""Which tiers below an engine's own cache tell of each load from them."""

from collections.abc import Mapping
from typing import Any

from leverlab.engines.lmcache import logs_each_load, serves_in_process
from leverlab.engines.vllm_connectors import OFFLOADING, connectors


def tells_of_loads(identity: Mapping[str, Any]) -> str | None:
    """The tier of the server `identity` that tells of each load from it; None where it has none, or one that may not.

    LMCache in vLLM's processes has a line for each in the log, vLLM's own offloading counts them. LMCache's daemon tells nothing
    here; what SGLang's hierarchical cache counts was not seen on a GPU.
    """
    flags = identity.get("flags", {})
    if identity.get("engine", {}).get("kind") != "vllm":
        return None
    if serves_in_process(flags):
        return "LMCache" if logs_each_load(identity.get("environment", {})) else None
    return "vLLM's own offloading" if OFFLOADING in connectors(flags) else None
