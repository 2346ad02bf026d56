"""Which tier a server keeps KV blocks in below its own cache, and which of them tell of each load from them."""

from collections.abc import Mapping
from typing import Any, Final

from leverlab.engines.lmcache import logs_each_load
from leverlab.engines.vllm_connectors import LMCACHE, LMCACHE_DAEMON, OFFLOADING, connectors

_TIERS: Final = {LMCACHE: "LMCache", OFFLOADING: "vLLM's own offloading", LMCACHE_DAEMON: "LMCache's daemon"}
_WITH_DAEMON: Final = "cache-daemon"
"""The topology whose daemon a server's connector is made for as it starts: its identity names none."""


def tier_of(identity: Mapping[str, Any]) -> str | None:
    """The tier of the vLLM server `identity`, in words; None where it has none, and of another engine.

    What SGLang's hierarchical cache counts as found and as loaded was not seen on a GPU.
    """
    if identity.get("engine", {}).get("kind") != "vllm":
        return None
    there = connectors(identity.get("flags", {}))
    if identity.get("topology") == _WITH_DAEMON:
        there |= {LMCACHE_DAEMON}
    return next((name for connector, name in _TIERS.items() if connector in there), None)


def tells_of_loads(identity: Mapping[str, Any]) -> bool:
    """Whether the tier of the server `identity` tells of each load from it.

    LMCache in vLLM's processes has a line for each in the log, vLLM's own offloading counts them. LMCache's daemon tells nothing here.
    """
    tier = tier_of(identity)
    if tier == _TIERS[LMCACHE]:
        return logs_each_load(identity.get("environment", {}))
    return tier == _TIERS[OFFLOADING]
