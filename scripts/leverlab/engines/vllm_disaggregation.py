"""vLLM's part where KV blocks leave a server: the connector, and what it needs on this machine."""

from collections.abc import Mapping
from typing import Any, Final

from leverlab.engines.base import Settings, Transfer
from leverlab.engines.vllm_connectors import LMCACHE_DAEMON

_FLAG: Final = "kv-transfer-config"
_DAEMON_HOST: Final = "tcp://127.0.0.1"


def handing_over(transfer: Transfer, flags: Mapping[str, Any]) -> Settings:
    """`nixl`: GPU to GPU; the decode server asks the prefill server's side channel where the blocks are, and reads them.

    `example`: vLLM's ExampleConnector, in files: a functional test that needs no package and no GPU, and no measure of
    anything. Both servers take both roles (`kv_both`), as the proxy says with each request which it has. Where `flags` name a
    connector already, a tier below the cache, the server has both: MultiConnector loads from the first that has a prompt, and
    keeps it in all (vllm/distributed/kv_transfer/kv_connector/v1/multi_connector.py). `lmcache-daemon`: LMCache's daemon at the
    transfer's port keeps blocks and gives them back. Raises ValueError.
    """
    match transfer.connector:
        case "nixl":
            own: dict[str, Any] = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
            environment = {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(transfer.port)}
        case "example":
            own = {
                "kv_connector": "ExampleConnector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": {"shared_storage_path": str(transfer.folder)},
            }
            environment = {}
        case "lmcache-daemon":
            own = {
                "kv_connector": LMCACHE_DAEMON,
                "kv_role": "kv_both",
                "kv_connector_extra_config": {
                    "lmcache.mp.host": _DAEMON_HOST,
                    "lmcache.mp.port": transfer.port,
                },
            }
            environment = {"PYTHONHASHSEED": "0", "LMCACHE_TRACK_USAGE": "false"}
        case _:
            raise ValueError(f"vLLM has no connector {transfer.connector!r} here")
    return Settings({_FLAG: _beside(own, flags.get(_FLAG))}, environment)


def _beside(own: dict[str, Any], tier: object) -> dict[str, Any]:
    """`own`, or both where the server has a tier of its own; what is handed over is looked for first."""
    if not isinstance(tier, Mapping):
        return own
    connectors = [own, dict(tier)]
    return {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": connectors},
    }
