"""The tables that every load client's results become, each column with its unit and definition.

Times are seconds from the phase's t = 0, the instant of which the first arrival's offset is counted. A value that a client or
an engine does not give is null, never a guess.
"""

from typing import Final

import pyarrow as pa

from leverlab.load.digests import BEGINNING

_S = pa.float64()
_N = pa.int64()


def _field(name: str, kind: pa.DataType, unit: str, definition: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable, metadata={"unit": unit, "definition": definition})


STATUSES: Final = ("ok", "http_error", "connection_error", "cut", "timeout", "malformed", "no_tokens")

REQUESTS: Final[pa.Schema] = pa.schema(
    [
        _field("index", _N, "1", "the request's index in its workload", nullable=False),
        _field("request_id", pa.string(), "", "what went out as X-Request-Id, where the client lets it be set"),
        _field("status", pa.string(), "", "ok: HTTP 200, the body's end seen and confirmed, at least one generated token; http_error: another "
               "status, or an error event in the stream; connection_error: no byte of an answer; cut: the answer broke off; "
               "timeout: no end in time; malformed: an answer that is not the protocol; no_tokens: a whole answer without any", nullable=False),
        _field("http_status", _N, "1", "status code of the answer"),
        _field("error", pa.string(), "", "what went wrong, in the words of the system or the server; empty when ok", nullable=False),
        _field("prompt_tokens", _N, "tokens", "prompt tokens by the server's usage; the workload's count where it reported none"),
        _field("completion_tokens", _N, "tokens", "generated tokens by the server's usage; by token_source where it reported none"),
        _field("requested_output_tokens", _N, "tokens", "max_tokens of the request", nullable=False),
        _field("priority", _N, "1", "priority in the request's body: 0 interactive, 1 the batch class; null in a workload without classes"),
        _field("adapter", pa.string(), "", "LoRA adapter that the request asked; null for the base model"),
        _field("cached_tokens", _N, "tokens", "prompt tokens served from a cache (usage.prompt_tokens_details.cached_tokens)"),
        _field("finish_reason", pa.string(), "", "why the server stopped generating, in its words"),
        _field("scheduled_s", _S, "s", "when the request was to be sent; in a closed loop, when its slot came free; in a conversation, its pause after the answer before"),
        _field("sent_s", _S, "s", "when it was handed to the kernel: the instant before the send call"),
        _field("first_token_s", _S, "s", "arrival of the first chunk that reports a generated token"),
        _field("last_token_s", _S, "s", "arrival of the last chunk that reports a generated token"),
        _field("first_chunk_tokens", _N, "tokens", "tokens in the first token-bearing chunk"),
        _field("chunks", _N, "1", "token-bearing chunks", nullable=False),
        _field("ttft_s", _S, "s", "first_token_s - scheduled_s"),
        _field("ttft_service_s", _S, "s", "first_token_s - sent_s"),
        _field("tpot_s", _S, "s", "(last_token_s - first_token_s) / (completion_tokens - first_chunk_tokens); null unless ok and tokens follow "
               "the first chunk"),
        _field("e2e_s", _S, "s", "last_token_s - scheduled_s; null unless ok"),
        _field("send_lag_s", _S, "s", "sent_s - scheduled_s: the client's own lateness"),
        _field("ttft_error_s", _S, "s", "bound on what the client itself can have added to this request's ttft_s (docs/instrument.md)"),
        _field("token_source", pa.string(), "", "how the tokens of a chunk are known: usage (continuous), token_ids, or chunks (one a chunk with "
               "choices: an assumption)"),
        _field("beginning_digest", pa.string(), "", f"BLAKE2b, 8 bytes, of the answer's first {BEGINNING} characters; null unless ok, of an answer "
               "without text, and from a client that keeps none"),
        _field("answer_digest", pa.string(), "", "the same of the whole answer"),
    ]
)  # fmt: skip

CHUNKS: Final[pa.Schema] = pa.schema(
    [
        _field("index", _N, "1", "the request's index in its workload", nullable=False),
        _field("arrival_s", _S, "s", "arrival of a chunk that reports generated tokens: the kernel's receive stamp where there is one", nullable=False),
        _field("tokens", _N, "tokens", "generated tokens newly reported by this chunk", nullable=False),
    ]
)  # fmt: skip
