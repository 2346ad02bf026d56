"""vLLM's part in prefill/decode disaggregation: the connector of each server, and what it needs on this machine."""

from typing import Any, Final

from leverlab.engines.base import Settings, Transfer

_FLAG: Final = "kv-transfer-config"


def handing_over(transfer: Transfer) -> Settings:
    """`nixl`: GPU to GPU; the decode server asks the prefill server's side channel where the blocks are, and reads them.

    `example`: vLLM's ExampleConnector, in files: a functional test that needs no package and no GPU, and no measure of
    anything. Both servers take both roles (`kv_both`), as the proxy says with each request which it has. Raises ValueError.
    """
    match transfer.connector:
        case "nixl":
            own: dict[str, Any] = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
            return Settings({_FLAG: own}, {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(transfer.port)})
        case "example":
            own = {
                "kv_connector": "ExampleConnector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": {"shared_storage_path": str(transfer.folder)},
            }
            return Settings({_FLAG: own}, {})
    raise ValueError(f"vLLM has no connector {transfer.connector!r} here")
