"""Metrics that rest on what the server tells of itself, against values worked out by hand."""

from typing import Any

import pyarrow as pa
import pytest

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.load_point import LoadPoint
from leverlab.metrics import METRICS
from leverlab.records import TrialRecord
from leverlab.telemetry.server_metrics import SERVER_METRICS
from leverlab.trial.server_facts import server_facts
from tests.unit.measured_cells import chunks_table, request_row, requests_table

CLIENT = {
    "ttft_s", "ttft_service_s", "tpot_s", "chunk_gap_s", "chunk_gap_spread", "e2e_s", "send_lag_s", "throughput", "total_throughput",
    "throughput_per_gpu", "achieved_rate", "goodput", "highest_rate", "error_ratio", "answers_alike",
    "interactive_ttft_s", "interactive_tpot_s", "interactive_e2e_s", "interactive_throughput",
    "batch_ttft_s", "batch_tpot_s", "batch_e2e_s", "batch_throughput",
    "base_ttft_s", "base_tpot_s", "base_e2e_s", "adapter_ttft_s", "adapter_tpot_s", "adapter_e2e_s", "adapter_ttft_spread",
}  # fmt: skip
"""What the client's stamps, the tokens of `usage` and the digests of answers tell."""


def measured(rows: list[dict[str, Any]], looks: list[tuple[float, str, float]] = (), **facts: float) -> MeasuredCell:  # type: ignore[assignment]
    samples = [{"time_s": time_s, "name": name, "value": value} for time_s, name, value in looks]
    table = pa.Table.from_pylist(samples, SERVER_METRICS)
    return MeasuredCell(
        requests_table(rows), chunks_table(rows), LoadPoint("burst"), {}, None, server_facts=facts, server_metrics=table
    )


ROWS = [request_row(index, 0.0, 0.1, gap_s=0.5) for index in range(20)]  # the window is [0, 2.1] s


def test_gauges_are_taken_over_the_window() -> None:
    looks = [
        (-1.0, "running", 99.0),
        (0.5, "running", 4.0),
        (1.0, "running", 6.0),
        (1.5, "running", 8.0),
        (9.0, "running", 99.0),
    ]
    looks += [(at_s, "waiting", value) for at_s, value in ((0.5, 3.0), (1.0, 2.0), (1.5, 1.0))]
    looks += [(at_s, "kv_cache_usage", value) for at_s, value in ((0.5, 0.2), (1.0, 0.3), (1.5, 0.7))]
    found = measured(ROWS, [*looks, (9.0, "kv_cache_usage", 0.9)]).metrics({})
    assert found["mean_running", None] == 6.0
    assert found["mean_waiting", None] == 2.0
    assert found["kv_usage_ratio", None] == 0.7


def test_a_gauge_that_was_seen_twice_tells_no_mean() -> None:
    """A cell of half a second was looked at once, when one of its sixteen requests ran: that was called their mean."""
    names = ("running", "waiting", "kv_cache_usage")
    looks = [(at_s, name, 1.0) for at_s in (0.5, 1.5, 9.0) for name in names]
    found = measured(ROWS, looks).metrics({})
    assert [found[name, None] for name in ("mean_running", "mean_waiting", "kv_usage_ratio")] == [None] * 3


def test_a_gauge_that_nobody_saw_is_not_known() -> None:
    found = measured(ROWS).metrics({})
    assert [found[name, None] for name in ("mean_running", "mean_waiting", "kv_usage_ratio")] == [None] * 3


def test_waste_is_what_the_last_blocks_hold_too_much() -> None:
    # 105 tokens each, in blocks of 16: 7 blocks, 112 slots; one request failed and counts for nothing.
    rows = [*ROWS, request_row(20, 0.0, status="timeout", completion_tokens=1)]
    assert measured(rows, kv_block_tokens=16.0).metrics({})["block_waste_ratio", None] == pytest.approx(7 / 112)
    assert measured(rows, kv_block_tokens=1.0).metrics({})["block_waste_ratio", None] == 0.0
    assert measured(rows).metrics({})["block_waste_ratio", None] is None


def test_the_spread_of_gaps_is_their_tail_over_their_middle() -> None:
    many = [request_row(index, 0.0, gap_s=0.25 if index else 1.0) for index in range(40)]
    cell = measured(many)
    found = cell.metrics({})
    assert found["chunk_gap_spread", None] == pytest.approx(found["chunk_gap_s", "p99"] / 0.25)  # type: ignore[operator]
    assert found["chunk_gap_spread", None] > 1  # type: ignore[operator]
    assert measured([request_row(0, 0.0)]).metrics({})["chunk_gap_spread", None] is None, (
        "too few for a 99th percentile"
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"num_gpu_blocks": "1024", "block_size": "128"}, {"kv_blocks": 1024.0, "kv_block_tokens": 128.0}),
        ({"num_pages": 500.0, "page_size": 1.0}, {"kv_blocks": 500.0, "kv_block_tokens": 1.0}),
        ({"num_gpu_blocks": "None", "block_size": "16"}, {"kv_block_tokens": 16.0}),
        ({}, {}),
    ],
)
def test_the_layout_of_the_cache_is_a_fact_of_the_server(told: dict[str, Any], expected: dict[str, float]) -> None:
    record = TrialRecord(
        server="s",
        replicate="r1",
        trial=1,
        outcome="running",
        started_at="2026-01-01T00:00:00Z",
        effective={"cache": told},
    )
    assert server_facts(record) == expected


def test_every_metric_names_where_it_comes_from() -> None:
    assert {name for name, metric in METRICS.items() if metric.source == "client"} == CLIENT
