"""From the raw log to the tables of `leverlab.load.schema` and the statement of the instrument's own error."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from leverlab.load.instrument import Arrivals, InstrumentError, arrivals, instrument_error
from leverlab.load.log import COMPLETE, NEVER, TIMED_OUT, UNREACHABLE, ReplayLog
from leverlab.load.schema import CHUNKS, REQUESTS
from leverlab.load.stream import Answer, AnswerReader

_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class ParsedReplay:
    """`requests` and `chunks` by the schemas of the same name, in the order of arrival, and the client's own error."""

    requests: pa.Table
    chunks: pa.Table
    instrument: InstrumentError


def parse(log: ReplayLog) -> ParsedReplay:
    """Take a raw log apart. Never raises for what a server sent: that becomes a status."""
    arrived = arrivals(log)
    answers = _answers(log)
    rows = [_row(log, arrived, position, answer) for position, answer in enumerate(answers)]
    reads = np.array([read for answer in answers for read in answer.chunk_reads], np.int64)
    chunks = pa.table(
        {
            "index": [log.requests[at].index for at, answer in enumerate(answers) for _ in answer.chunk_reads],
            "arrival_s": (arrived.arrival_ns[reads] - log.origin_ns) / _NS,
            "tokens": [tokens for answer in answers for tokens in answer.chunk_tokens],
        },
        schema=CHUNKS,
    )
    bounds = np.array([np.nan if row["ttft_error_s"] is None else row["ttft_error_s"] for row in rows])
    return ParsedReplay(
        requests=pa.Table.from_pylist(rows, schema=REQUESTS),
        chunks=chunks,
        instrument=instrument_error(log, arrived, reads, bounds),
    )


def _answers(log: ReplayLog) -> list[Answer]:
    readers = [AnswerReader() for _ in log.requests]
    payload = memoryview(log.payload)
    end = 0
    for read, (request, size) in enumerate(zip(log.read_request.tolist(), log.read_bytes.tolist(), strict=True)):
        start, end = end, end + size
        if request >= 0:
            readers[request].feed(payload[start:end], read)
    return [reader.finish() for reader in readers]


def _status(outcome: str, transport_error: str, answer: Answer) -> tuple[str, str]:
    """The status of a request and the error in words."""
    if outcome == UNREACHABLE:
        return "connection_error", transport_error
    if outcome == TIMED_OUT:
        return "timeout", transport_error
    if answer.http_status not in (None, 200) or answer.error:
        return "http_error", answer.error
    if answer.malformed:
        return "malformed", answer.malformed
    if outcome != COMPLETE:
        return ("connection_error" if answer.http_status is None else "cut"), transport_error
    if not answer.ended:
        return "malformed", "the parser does not confirm the end of the body"
    if not answer.done and answer.finish_reason is None:
        return "cut", "the stream ended without a finish reason and without [DONE]"
    if not answer.chunk_reads:
        return "no_tokens", "the answer reports no generated token"
    return "ok", ""


def _row(log: ReplayLog, arrived: Arrivals, position: int, answer: Answer) -> dict[str, Any]:
    request = log.requests[position]
    status, error = _status(log.outcomes[position], log.errors[position], answer)
    scheduled_s = _since_origin(log, int(log.scheduled_ns[position]))
    sent_s = _since_origin(log, int(log.send_begun_ns[position]))
    row: dict[str, Any] = {
        "index": request.index,
        "request_id": request.request_id,
        "status": status,
        "http_status": answer.http_status,
        "error": error,
        "prompt_tokens": request.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens,
        "completion_tokens": sum(answer.chunk_tokens) if answer.completion_tokens is None else answer.completion_tokens,
        "requested_output_tokens": request.output_tokens,
        "priority": request.priority,
        "adapter": request.adapter,
        "cached_tokens": answer.cached_tokens,
        "finish_reason": answer.finish_reason,
        "scheduled_s": scheduled_s,
        "sent_s": sent_s,
        "send_lag_s": None if sent_s is None or scheduled_s is None else sent_s - scheduled_s,
        "chunks": len(answer.chunk_reads),
        "token_source": answer.token_source,
        "beginning_digest": answer.text.beginning if status == "ok" else None,
        "answer_digest": answer.text.whole if status == "ok" else None,
        "ttft_error_s": None,
    }
    if not answer.chunk_reads or scheduled_s is None or sent_s is None:
        return row
    first, last = answer.chunk_reads[0], answer.chunk_reads[-1]
    first_s = _since_origin(log, int(arrived.arrival_ns[first]))
    last_s = _since_origin(log, int(arrived.arrival_ns[last]))
    assert first_s is not None and last_s is not None
    after_first = row["completion_tokens"] - answer.chunk_tokens[0]
    alone = len(answer.chunk_reads) == 1 or answer.chunk_reads[1] != first
    late_ns = arrived.late_ns[first] if alone else arrived.since_poll_ns[first]
    row |= {
        "first_token_s": first_s,
        "last_token_s": last_s,
        "first_chunk_tokens": answer.chunk_tokens[0],
        "ttft_s": first_s - scheduled_s,
        "ttft_service_s": first_s - sent_s,
        "e2e_s": last_s - scheduled_s if status == "ok" else None,
        "tpot_s": (last_s - first_s) / after_first if status == "ok" and after_first > 0 else None,
        "ttft_error_s": float(log.send_ended_ns[position] - log.scheduled_ns[position] + late_ns) / _NS,
    }
    return row


def _since_origin(log: ReplayLog, instant_ns: int) -> float | None:
    return None if instant_ns == NEVER else (instant_ns - log.origin_ns) / _NS
