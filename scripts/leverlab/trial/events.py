"""events.jsonl: what happened in a trial, one JSON object a line, for programs.

Every line has `event` and `at` (UTC, ISO 8601). A line `request` stands for one request of a cell, in the order in which
they were scheduled; the others tell of the start, the phases and the stop.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa


def utc_now() -> str:
    """The wall clock's time as records hold it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class EventLog:
    """Appends to events.jsonl. Each line is handed to the system at once, so that a killed trial keeps what it said."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append the line of an event that happened now."""
        self._file.write(_line({"event": event, "at": utc_now(), **fields}))

    def write_requests(self, cell: str, model: str, requests: pa.Table) -> None:
        """Append a line for each row of `requests` (schema `leverlab.load.schema.REQUESTS`)."""
        now = utc_now()
        lines = [
            _line({"event": "request", "at": now, "cell": cell, "model": model, **_request(row)})
            for row in requests.to_pylist()
        ]
        self._file.write("".join(lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def _request(row: dict[str, Any]) -> dict[str, Any]:
    cached = row["cached_tokens"]
    return {
        "request_id": row["request_id"],
        "index": row["index"],
        "status": row["status"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "ttft_ms": _milliseconds(row["ttft_s"]),
        "tpot_ms": _milliseconds(row["tpot_s"]),
        "e2e_ms": _milliseconds(row["e2e_s"]),
        "cached_tokens": cached,
        "cache_hit": None if cached is None else cached > 0,
        "finish_reason": row["finish_reason"],
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 6)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
