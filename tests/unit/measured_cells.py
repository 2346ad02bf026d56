"""Cells that look measured, written through the real record classes, whose every metric can be worked out by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from leverlab.layout import Layout
from leverlab.load.schema import CHUNKS, REQUESTS
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell, StudyMatrix
from leverlab.records import CellRecord, CheckResult, Reason
from leverlab.trial.cell_files import write_cell

TOKENS = 5


def request_row(
    index: int, scheduled_s: float, ttft_s: float = 0.1, gap_s: float = 0.02, **changes: Any
) -> dict[str, Any]:
    """One request of `TOKENS` single-token chunks, sent as scheduled."""
    last_s = scheduled_s + ttft_s + (TOKENS - 1) * gap_s
    row = {
        "index": index, "request_id": f"r{index}", "status": "ok", "http_status": 200, "error": "",
        "prompt_tokens": 100, "completion_tokens": TOKENS, "requested_output_tokens": TOKENS, "cached_tokens": 0,
        "finish_reason": "length", "scheduled_s": scheduled_s, "sent_s": scheduled_s, "first_token_s": scheduled_s + ttft_s,
        "last_token_s": last_s, "first_chunk_tokens": 1, "chunks": TOKENS, "ttft_s": ttft_s, "ttft_service_s": ttft_s,
        "tpot_s": gap_s, "e2e_s": last_s - scheduled_s, "send_lag_s": 0.0, "ttft_error_s": 1e-4, "token_source": "usage",
    }  # fmt: skip
    return row | changes


def requests_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), REQUESTS)


def chunks_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The chunks of `rows`, one token each."""
    chunks = [
        {"index": row["index"], "arrival_s": row["first_token_s"] + number * (row["tpot_s"] or 0.0), "tokens": 1}
        for row in rows
        if row["status"] == "ok"
        for number in range(row["chunks"])
    ]
    return pa.Table.from_pylist(chunks, CHUNKS)


def server_delta(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What a server that served `rows` and nothing else would have counted."""
    well = [row for row in rows if row["status"] == "ok"]
    return {
        "prompt_tokens": float(sum(row["prompt_tokens"] for row in well)),
        "generation_tokens": float(sum(row["completion_tokens"] for row in well)),
        "requests_finished": float(len(well)),
        "prefix_queried_tokens": float(sum(row["prompt_tokens"] for row in well)),
        "prefix_hit_tokens": float(sum(row["cached_tokens"] or 0 for row in well)),
        "preemptions": 0.0,
        "ttft_s_sum": float(sum(row["ttft_service_s"] for row in well)),
        "ttft_s_count": float(len(well)),
        "e2e_s_sum": float(sum(row["last_token_s"] - row["sent_s"] for row in well)),
        "e2e_s_count": float(len(well)),
    }


def measure(
    layout: Layout,
    entry: StudyCell,
    replicate: ReplicateKey,
    rows: Sequence[dict[str, Any]],
    checks: Sequence[CheckResult] | None = (),
    **changes: Any,
) -> None:
    """Keep `rows` as the cell of `entry` in `replicate`, with `changes` to its record."""
    tables = {"requests": requests_table(rows), "chunks": chunks_table(rows)}
    record = _record(entry, replicate, server_delta=server_delta(rows), **changes)
    write_cell(_folder(layout, entry, replicate), record, tables, checks)


def give_up(layout: Layout, entry: StudyCell, replicate: ReplicateKey, status: str, reason: Reason) -> None:
    """Keep the cell as one that was not measured."""
    write_cell(_folder(layout, entry, replicate), _record(entry, replicate, status=status, reason=reason), {}, None)


def measure_study(
    layout: Layout, study: StudyMatrix, ttft_s: Callable[[StudyCell, ReplicateKey], float], requests: int = 20
) -> None:
    """Measure every cell of `study`: a request every 1/8 s (all at once in a burst), with one TTFT in a cell."""
    for entry in study.cells:
        for replicate in map(entry.key, study.replicates):
            gap_s = 0.125 if entry.load.kind == "rate" else 0.0
            value = ttft_s(entry, replicate)
            measure(layout, entry, replicate, [request_row(index, index * gap_s, value) for index in range(requests)])


def _folder(layout: Layout, entry: StudyCell, replicate: ReplicateKey) -> Any:
    return layout.cell(entry.cell.server.id, str(replicate), entry.cell.phase.id)


def _record(entry: StudyCell, replicate: ReplicateKey, **changes: Any) -> CellRecord:
    values: dict[str, Any] = {
        "cell": entry.cell.id,
        "server": entry.cell.server.id,
        "phase": entry.cell.phase.id,
        "replicate": str(replicate),
        "status": "measured",
        "specification": {"server": dict(entry.cell.server.identity), "phase": dict(entry.cell.phase.identity)},
        "engine": entry.cell.server.engine,
        "trial": 1,
        "position": 0,
        "started_at": "2026-01-02T03:04:05Z",
        "duration_s": 3.5,
        "provenance": {"node": "n1"},
    }
    return CellRecord(**values | changes)
