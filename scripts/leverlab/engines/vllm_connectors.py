"""Which connectors a vLLM server has: what takes KV blocks out of its cache and brings them back."""

from collections.abc import Mapping
from typing import Any, Final

LMCACHE: Final = "LMCacheConnectorV1"
"""LMCache in vLLM's own processes."""
LMCACHE_DAEMON: Final = "LMCacheMPConnector"
"""LMCache in a process of its own."""
OFFLOADING: Final = "OffloadingConnector"
"""vLLM's own offloading, to the host's memory and on to disk."""


def connectors(flags: Mapping[str, Any]) -> frozenset[str]:
    """The connectors, by vLLM's names, of a server with `flags`, also of those that are several in one (MultiConnector)."""
    told = flags.get("kv-transfer-config")
    found = set()
    if isinstance(told, Mapping):
        several = told.get("kv_connector_extra_config", {}).get("connectors", [])
        found = {each.get("kv_connector") for each in (told, *several)}
    if flags.get("kv-offloading-size") and flags.get("kv-offloading-backend", "native") == "native":
        found.add(OFFLOADING)
    return frozenset(str(name) for name in found if name)
