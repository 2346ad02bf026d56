"""LMCache inside vLLM's own processes (`LMCacheConnectorV1`): how it is emptied, and what it says of its loads.

vLLM cannot empty it: `/reset_prefix_cache?reset_external=true` reports success and changes nothing there (0.26). LMCache's own
internal API can. It asks nobody for a key, so it listens on a socket in the trial's scratch folder, which only its owner enters.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from leverlab.engines.vllm_connectors import LMCACHE, connectors

_SOCKETS: Final = "lmcache"
_FIRST_PORT: Final = 6999
"""LMCache's own default. The scheduler's socket is named by it and has no cache behind it; the workers' by the numbers above."""
_CLEAR_TIMEOUT_S: Final = 60.0
_GIB: Final = 2**30
_LEVELS_WITH_LOADS: Final = ("DEBUG", "INFO")
_TRUE: Final = ("true", "1", "yes", "on")
_RETRIEVED: Final = re.compile(
    r"Retrieved (\d+) out of \d+ required tokens \(from \d+ total tokens\)\. size: ([\d.]+) gb, cost ([\d.]+) ms"
)


def serves_in_process(flags: Mapping[str, Any]) -> bool:
    """Whether a vLLM server with `flags` has LMCache in its own processes."""
    return LMCACHE in connectors(flags)


def logs_each_load(environment: Mapping[str, str]) -> bool:
    """Whether LMCache, told these variables, logs a line of each load that `restores_in` reads; layer by layer it words it otherwise."""
    level = environment.get("LMCACHE_LOG_LEVEL", "INFO").upper()
    layerwise = environment.get("LMCACHE_USE_LAYERWISE", "false").lower() in _TRUE
    return level in _LEVELS_WITH_LOADS and not layerwise


def keeps_blocks_as_they_are(environment: Mapping[str, str]) -> bool:
    """Whether LMCache, told these variables, keeps as many bytes of a block as the GPU does; its other forms are compressed."""
    return "LMCACHE_CONFIG_FILE" not in environment and environment.get("LMCACHE_REMOTE_SERDE", "naive") == "naive"


def socket_variables(scratch: Path) -> dict[str, str]:
    """Variables that make LMCache listen in `scratch`."""
    return {
        "LMCACHE_INTERNAL_API_SERVER_ENABLED": "true",
        "LMCACHE_INTERNAL_API_SERVER_PORT_START": str(_FIRST_PORT),
        "LMCACHE_INTERNAL_API_SERVER_SOCKET_PATH_PREFIX": str(scratch / _SOCKETS),
    }


def clear_in_process(scratch: Path) -> bool:
    """Empty every LMCache that listens in `scratch`; whether all of them say that they did. True where there is none."""
    workers = [path for path in scratch.glob(f"{_SOCKETS}_*") if path.name != f"{_SOCKETS}_{_FIRST_PORT}"]
    return all(_cleared(path) for path in workers)


def _cleared(socket: Path) -> bool:
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, base_url="http://lmcache", timeout=_CLEAR_TIMEOUT_S) as client:
        try:
            answer = client.delete("/cache/clear")
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK and answer.json().get("status") == "success"


def restores_in(log: str) -> dict[str, float]:
    """Loads that `log` tells of, under their canonical names: how many, their tokens, bytes and seconds. Empty where there are none."""
    found = _RETRIEVED.findall(log)
    if not found:
        return {}
    return {
        "restores": float(len(found)),
        "restored_tokens": float(sum(int(tokens) for tokens, _, _ in found)),
        "restored_bytes": sum(float(size) * _GIB for _, size, _ in found),
        "restore_s": sum(float(cost) / 1000 for _, _, cost in found),
    }
