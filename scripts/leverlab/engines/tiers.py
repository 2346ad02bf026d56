"""Which tiers below an engine's own cache tell of each load from them."""

from collections.abc import Mapping
from typing import Any, Final

from leverlab.engines.lmcache import logs_each_load, serves_in_process

_OFFLOADING: Final = "OffloadingConnector"


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
    connector = flags.get("kv-transfer-config")
    offloads = isinstance(connector, Mapping) and connector.get("kv_connector") == _OFFLOADING
    if offloads or (flags.get("kv-offloading-size") and flags.get("kv-offloading-backend", "native") == "native"):
        return "vLLM's own offloading"
    return None
