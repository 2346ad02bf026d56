"""The two requests that prefill/decode disaggregation makes of one, as vLLM's connectors take them.

The prefill server gets the same prompt for one token, unstreamed, with `kv_transfer_params` that announce a decode server;
its answer's `kv_transfer_params` say where the KV cache is, and go to the decode server with the client's own request. A
connector that finds the KV cache by itself (ExampleConnector) answers none, and the client's request goes on as it came.
"""

import json
from typing import Any, Final

_ANNOUNCED: Final = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
_OF_THE_ANSWER_ALONE: Final = ("stream_options", "max_completion_tokens", "min_tokens")
_PARAMETERS: Final = "kv_transfer_params"


class HandoverError(ValueError):
    """A body that is no JSON object. The text says whose."""


def prefill_body(body: bytes) -> bytes:
    """The prefill server's request for the client's `body`. Raises HandoverError."""
    asked = _mapping(body, "the request")
    kept = {name: value for name, value in asked.items() if name not in _OF_THE_ANSWER_ALONE}
    return _written({**kept, "max_tokens": 1, "stream": False, _PARAMETERS: _ANNOUNCED})


def decode_body(body: bytes, prefill_answer: bytes) -> bytes:
    """The decode server's request: the client's `body`, with what the prefill server hands over. Raises HandoverError."""
    parameters = _mapping(prefill_answer, "the prefill server's answer").get(_PARAMETERS)
    return body if parameters is None else _written({**_mapping(body, "the request"), _PARAMETERS: parameters})


def _mapping(body: bytes, whose: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HandoverError(f"{whose} is no JSON object")
    return found


def _written(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
