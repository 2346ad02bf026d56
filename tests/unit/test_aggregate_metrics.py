"""The metrics of a cell against values worked out by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.aggregate.energy import energy_j
from leverlab.load_point import LoadPoint
from leverlab.metrics import METRICS
from leverlab.telemetry.gpu import GPU
from tests.unit.measured_cells import chunks_table, request_row, requests_table, server_delta

RATE, BURST = LoadPoint("rate", 2), LoadPoint("burst")


def measured(
    rows: list[dict[str, Any]], load: LoadPoint = RATE, gpu: pa.Table | None = None, **delta: float
) -> MeasuredCell:
    return MeasuredCell(requests_table(rows), chunks_table(rows), load, server_delta(rows) | delta, gpu)


def twenty(**changes: Any) -> list[dict[str, Any]]:
    """Twenty requests, two a second, with TTFT 0.1, 0.2, … 2.0 s; the window is [1, 9.5) and holds 17 of them."""
    return [request_row(index, index * 0.5, 0.1 * (index + 1), **changes) for index in range(20)]


def test_every_metric_of_the_registry_is_there() -> None:
    found = measured(twenty()).metrics({})
    expected = {(name, statistic) for name, metric in METRICS.items() for statistic in metric.statistics or (None,)}
    assert set(found) == expected


def test_latencies_are_of_the_requests_that_ended_well() -> None:
    rows = twenty()
    rows[19] |= {"status": "timeout", "e2e_s": None, "tpot_s": None}
    found = measured(rows).metrics({})
    assert found["ttft_s", "p50"] == pytest.approx(1.0)  # of 0.1 … 1.9
    assert found["ttft_s", "mean"] == pytest.approx(1.0)
    assert found["ttft_s", "p95"] is None, "of 19 values it would be their maximum"
    assert found["e2e_s", "p50"] == pytest.approx(1.08)
    assert found["chunk_gap_s", "mean"] == pytest.approx(0.02)
    assert found["error_ratio", None] == pytest.approx(0.05)


def test_rates_are_of_the_requests_that_arrived_in_the_window() -> None:
    cell = measured(twenty())
    found = cell.metrics({})
    assert cell.offered_rate == pytest.approx(17 / 8.5)
    assert found["throughput", None] == pytest.approx(17 * 5 / 8.5)
    assert found["total_throughput", None] == pytest.approx(17 * 105 / 8.5)
    assert found["throughput_per_gpu", None] == found["throughput", None]
    assert found["achieved_rate", None] == pytest.approx(1 / 0.6)  # an end every 0.5 + 0.1 s
    assert found["goodput", None] is None


def test_throughput_is_shared_out_to_the_gpus() -> None:
    rows = twenty()
    pair = MeasuredCell(requests_table(rows), chunks_table(rows), RATE, server_delta(rows), None, gpu_count=2)
    found = pair.metrics({})
    assert found["throughput", None] == pytest.approx(17 * 5 / 8.5)
    assert found["throughput_per_gpu", None] == pytest.approx(17 * 5 / 8.5 / 2)


def test_tokens_of_unfinished_requests_count_in_throughput() -> None:
    rows = twenty()
    rows[10] |= {"status": "cut", "completion_tokens": 3, "e2e_s": None, "tpot_s": None}
    assert measured(rows).metrics({})["throughput", None] == pytest.approx((16 * 5 + 3) / 8.5)


def test_a_burst_is_from_the_first_send_to_the_last_token() -> None:
    rows = [request_row(index, 0.0, 0.5 + index, sent_s=0.01 * index) for index in range(4)]
    found = measured(rows, BURST).metrics({})
    length_s = 3.5 + 4 * 0.02
    assert found["throughput", None] == pytest.approx(20 / length_s)
    assert found["achieved_rate", None] == pytest.approx(4 / length_s)


def test_goodput_needs_every_objective() -> None:
    """In the window TTFT is 0.3 … 1.9 s: 8 requests are within 1 s, and one of them is too slow per token."""
    rows = twenty()
    rows[4]["tpot_s"] = 0.05
    rows[5]["tpot_s"] = None
    objectives = {"ttft_p95": 1.001, "tpot_p95": 0.03}
    assert measured(rows).metrics(objectives)["goodput", None] == pytest.approx(7 / 8.5)


def test_server_metrics_are_quotients_of_differences() -> None:
    found = measured(twenty(), queue_time_s_sum=3.0, queue_time_s_count=20.0, prefix_hit_tokens=500.0).metrics({})
    assert found["queue_time_s", None] == pytest.approx(0.15)
    assert found["cache_hit_ratio", None] == pytest.approx(0.25)
    assert found["preemptions", None] == 0.0
    assert found["decode_time_s", None] is None, "what a server does not tell is no number"
    assert measured(twenty(), prefix_queried_tokens=0.0).metrics({})["cache_hit_ratio", None] is None


def test_chunk_gaps_do_not_cross_requests() -> None:
    rows = [request_row(0, 0.0, gap_s=0.01), request_row(1, 0.0, gap_s=0.03)]
    found = measured(rows, BURST).metrics({})
    assert found["chunk_gap_s", "mean"] == pytest.approx(0.02)


def test_a_percentile_is_given_from_as_many_values_as_it_needs() -> None:
    found = measured(twenty()).metrics({})
    assert found["ttft_s", "p95"] == pytest.approx(0.1 + 1.9 * 0.95)
    assert found["ttft_s", "p99"] is None
    assert found["chunk_gap_s", "p99"] is None
    many = [request_row(index, index * 0.5, 0.1) for index in range(100)]
    assert measured(many).metrics({})["ttft_s", "p99"] == pytest.approx(0.1)


def test_a_cell_without_an_answer_has_no_latencies() -> None:
    nothing = dict.fromkeys(("first_token_s", "last_token_s", "ttft_s", "ttft_service_s", "tpot_s", "e2e_s"))
    rows = [row | nothing | {"status": "http_error", "completion_tokens": 0, "chunks": 0} for row in twenty()]
    found = measured(rows).metrics({"ttft_p95": 1.0})
    assert found["error_ratio", None] == 1.0
    assert found["throughput", None] == 0.0
    assert found["goodput", None] == 0.0
    assert found["ttft_s", "p50"] is None and found["achieved_rate", None] is None


def test_what_a_gpu_sends_for_a_token_leaves_out_what_a_cache_had() -> None:
    rows = [request_row(index, index * 0.5, 0.1) for index in range(20)]
    looks = [
        {"time_s": 0.5 * look, "gpu": gpu, "nvlink_sent_bytes": 1e6 * look} for look in range(20) for gpu in range(2)
    ]
    told = {"prompt_tokens": 3000.0, "prefix_hit_tokens": 900.0, "generation_tokens": 120.0, "requests_finished": 20.0}
    cell = MeasuredCell(
        requests_table(rows), chunks_table(rows), RATE, told, pa.Table.from_pylist(looks, schema=GPU), gpu_count=2
    )
    found = cell.metrics({})
    assert found["nvlink_sent_bytes", None] == pytest.approx(2 * 19e6)
    assert found["nvlink_bytes_per_token", None] == pytest.approx(19e6 / (3000 - 900 + 120 - 20))
    assert found["bus_received_bytes", None] is None


def samples(
    power_w: float | None, counter: bool, gpus: int = 1, period_s: float = 0.5, end_s: float = 12.0
) -> pa.Table:
    rows = [
        {"time_s": time_s, "gpu": gpu, "power_w": power_w, "energy_j": 1000.0 + 200.0 * time_s if counter else None}
        for time_s in np.arange(-1.0, end_s, period_s).tolist()
        for gpu in range(gpus)
    ]
    return pa.Table.from_pylist(rows, GPU)


@pytest.mark.parametrize(("power_w", "counter", "expected_w"), [(999.0, True, 200.0), (300.0, False, 300.0)])
def test_energy_is_the_counters_and_else_of_the_power(power_w: float, counter: bool, expected_w: float) -> None:
    assert energy_j(samples(power_w, counter), 1.0, 9.5) == pytest.approx(expected_w * 8.5)
    assert energy_j(samples(power_w, counter, gpus=2), 1.0, 9.5) == pytest.approx(2 * expected_w * 8.5)


def test_energy_is_unknown_where_samples_are_missing() -> None:
    assert energy_j(samples(None, counter=False), 1.0, 9.5) is None
    assert energy_j(samples(300.0, counter=False, end_s=5.0), 1.0, 9.5) is None
    assert energy_j(samples(300.0, counter=False, period_s=5.0), 1.0, 9.5) is None


def test_energy_per_token_counts_tokens_that_arrived_in_the_window() -> None:
    rows = [request_row(index, index * 0.5, 0.1) for index in range(20)]
    found = measured(rows, gpu=samples(200.0, counter=False)).metrics({})
    # Chunks of requests 2 … 18, sent at 1.0 … 9.0 s, all arrive in [1, 9.5).
    assert found["energy_per_token_j", None] == pytest.approx(200 * 8.5 / (17 * 5))
    assert measured(rows, gpu=GPU.empty_table()).metrics({})["energy_per_token_j", None] is None


@given(st.lists(st.floats(0.001, 50), min_size=2, max_size=40), st.randoms())
def test_metrics_do_not_depend_on_the_order_of_rows(ttfts: list[float], random: Any) -> None:
    rows = [request_row(index, index * 0.5, ttft_s) for index, ttft_s in enumerate(ttfts)]
    expected = measured(rows).metrics({"ttft_p95": 1.0})
    random.shuffle(rows)
    found = measured(rows).metrics({"ttft_p95": 1.0})
    assert {key: value for key, value in found.items() if value is not None} == pytest.approx(
        {key: value for key, value in expected.items() if value is not None}
    )
    assert {key for key, value in found.items() if value is None} == {
        key for key, value in expected.items() if value is None
    }


def test_percentile_intervals_lie_around_their_percentile() -> None:
    intervals = measured([request_row(index, index * 0.5, 0.01 * (index + 1)) for index in range(100)]).intervals()
    median = intervals["ttft_s", "p50"]
    assert median is not None and (median.low, median.high) == pytest.approx((0.40, 0.61))
    assert intervals["ttft_s", "p99"] is None


def test_each_pool_of_a_disaggregated_server_has_its_own_utilisation() -> None:
    samples = [
        {"time_s": time_s, "gpu": gpu, "uuid": f"GPU-{gpu}", "sm_utilisation": busy}
        for time_s in (1.0, 2.0, 3.0)
        for gpu, busy in ((0, 0.9), (1, 0.2), (2, 0.4))
    ]
    places = {"prefill": ["GPU-0"], "decode-1": ["GPU-1"], "decode-2": ["GPU-2"], "proxy": []}
    rows = twenty()
    cell = MeasuredCell(
        requests_table(rows),
        chunks_table(rows),
        RATE,
        server_delta(rows),
        pa.Table.from_pylist(samples, GPU),
        processes={name: {"gpus": gpus, "cores": []} for name, gpus in places.items()},
    )
    found = cell.metrics({})
    assert found["prefill_gpu_utilisation_ratio", None] == pytest.approx(0.9)
    assert found["decode_gpu_utilisation_ratio", None] == pytest.approx(0.3)


def test_metrics_of_a_class_are_of_its_requests_alone() -> None:
    rows = [request_row(at, 0.0, 0.1 + 0.1 * (at % 2), priority=at % 2) for at in range(4)]
    found = measured(rows, load=LoadPoint("burst")).metrics({})
    assert found["interactive_ttft_s", "mean"] == pytest.approx(0.1)
    assert found["batch_ttft_s", "mean"] == pytest.approx(0.2)
    assert found["interactive_throughput", None] + found["batch_throughput", None] == pytest.approx(
        found["throughput", None]
    )
    plain = measured([request_row(at, 0.0) for at in range(4)], load=LoadPoint("burst"))
    older = MeasuredCell(
        requests_table(rows).drop_columns(["priority"]),
        chunks_table(rows),
        LoadPoint("burst"),
        server_delta(rows),
        None,
    )
    for cell in (plain, older):
        told = cell.metrics({})
        assert told["interactive_ttft_s", "mean"] is None and told["batch_throughput", None] is None
        assert told["ttft_s", "mean"] is not None
