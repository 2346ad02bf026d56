"""The search for the highest rate within the objectives, over runs of a server whose times follow the rate."""

import math

import pytest

from leverlab.load.schema import CHUNKS
from leverlab.load_point import LoadPoint
from leverlab.records import SearchRecord
from leverlab.trial.cache_state import CacheReport
from leverlab.trial.phase import Measurement
from leverlab.trial.search import judge, search_rate
from tests.unit.measured_cells import request_row, requests_table

REQUESTS = 60
MOST_RUNS = 30


def ran(load: LoadPoint, capacity: float, fastest_s: float) -> Measurement:
    """A run in which every request waits as 1 / (1 - load) says, and a burst is served at the capacity."""
    apart_s = 1 / load.value if load.value else 0.0
    share = min(load.value / capacity, 0.999) if load.value else 0.0
    rows = [
        request_row(
            index, index * apart_s, fastest_s / (1 - share) if load.value else fastest_s + index / capacity, 0.001
        )
        for index in range(REQUESTS)
    ]
    tables = {"requests": requests_table(rows), "chunks": CHUNKS.empty_table()}
    return Measurement("", 0.0, tables, CacheReport("cold", "", True, ""), {}, {}, {}, {}, ())


def searched(objectives: dict[str, float], **settings: float) -> tuple[SearchRecord, list[LoadPoint]]:
    offered: list[LoadPoint] = []

    def measure(load: LoadPoint, _: int) -> Measurement:
        offered.append(load)
        assert len(offered) <= MOST_RUNS, offered
        return ran(load, 53.17, 0.05)

    found = {"precision": 0.05, "objectives": objectives, **settings}
    _, record = search_rate(measure, found, math.inf, lambda _: None, waiting=False)
    return record, offered


def test_the_rate_is_found_where_the_times_pass_their_limit() -> None:
    record, offered = searched({"ttft_p95": 0.2})
    # 0.05 / (1 - rate / 53.17) = 0.2 at three quarters of the capacity.
    assert record.settled and record.highest_rate is not None and record.missed is not None
    assert record.highest_rate <= 0.75 * 53.17 * 1.03 and record.missed >= 0.75 * 53.17 * 0.97
    assert record.limited_by == "ttft_p95" and record.runs == len(offered) <= 9


@pytest.mark.parametrize("settings", [{}, {"lowest": 0.123456}, {"lowest": 0.123456, "highest": 9.87654}])
def test_a_search_in_which_nothing_holds_ends_at_its_lowest_rate(settings: dict[str, float]) -> None:
    record, offered = searched({"ttft_p95": 0.01}, **settings)
    assert record.highest_rate is None and not record.settled
    assert len(set(offered)) == len(offered), "no rate is offered twice"


@pytest.mark.parametrize("settings", [{"highest": 3.45678}, {"lowest": 1.23456, "highest": 3.45678}])
def test_a_search_in_which_everything_holds_ends_at_its_highest_rate(settings: dict[str, float]) -> None:
    record, offered = searched({"ttft_p95": 9.0}, **settings)
    assert record.missed is None and record.highest_rate == pytest.approx(3.457, rel=0.01)
    assert len(set(offered)) == len(offered)


def test_failed_requests_and_unknown_statistics_miss() -> None:
    load = LoadPoint("rate", 10.0)
    well = [request_row(index, index / 10) for index in range(REQUESTS)]
    failed = [row | {"status": "http_error"} if row["index"] == 3 else row for row in well]
    objectives = {"ttft_p95": 1.0}
    assert judge(requests_table(well), load, objectives, waiting=False).missed is None
    assert judge(requests_table(failed), load, objectives, waiting=False).missed == "error_ratio"
    assert judge(requests_table(failed), load, {**objectives, "error_ratio": 0.02}, waiting=False).missed is None
    assert judge(requests_table(well), load, {"ttft_p99": 1.0}, waiting=False).margin == math.inf
