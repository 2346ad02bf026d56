"""Checks of the load: what is kept up with, turned away, or cannot be told, and over which window."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.checks import check_cell, worst
from leverlab.checks.columns import Floats
from leverlab.checks.keeping_up import keeping_up
from leverlab.checks.window import achieved_rate, offered_rate, steady_window
from leverlab.load_point import LoadPoint
from leverlab.stats.knee import beyond_knee
from tests.unit.checked_cells import (
    REQUESTS,
    SPECIFICATION,
    clean,
    failed,
    found,
    of_conversations,
    searched,
    slow_server,
)
from tests.unit.measured_cells import request_row


def test_a_search_that_found_its_rate_is_judged_at_that_rate() -> None:
    specification = {**clean().specification, "phase": {**clean().specification["phase"], "load": {"kind": "search"}}}
    inputs = clean(search=searched(), specification=specification)
    assert str(inputs.load) == "rate 8"
    assert found(inputs) == {}


def test_a_server_just_beyond_its_capacity_is_saturated_and_not_called_adrift() -> None:
    """It finishes 95 % of what arrives, and its queue grows to the end."""
    assert found(clean(slow_server(capacity=7.6))) == {"saturated": "caution"}


def test_the_check_and_the_column_of_the_tables_follow_one_rule() -> None:
    for capacity in (6.0, 7.6, 7.95, 9.0):
        inputs = clean(slow_server(capacity))
        cell = MeasuredCell(inputs.requests, inputs.chunks, inputs.load, {}, None)
        assert (
            ("saturated" in found(inputs))
            is cell.beyond_knee
            is keeping_up(inputs.requests, inputs.load, waiting=False).beyond
        )


def test_the_knee_is_looked_for_once_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []

    def counted(scheduled_s: Floats, first_s: Floats, last_s: Floats, share: float | None) -> bool | None:
        asked.append(share)
        return beyond_knee(scheduled_s, first_s, last_s, share)

    monkeypatch.setattr(sys.modules["leverlab.checks.keeping_up"], "beyond_knee", counted)
    inputs = clean(slow_server(capacity=7.95))
    assert {"saturated", "window_short", "drift"} <= {check.code for check in check_cell(inputs)}
    assert len(asked) == 1


def test_conversations_that_hold_themselves_back_are_not_said_to_be_kept_up_with() -> None:
    """A late answer makes the next turn come late: however slow the server is, as much is finished as comes."""
    inputs = clean(specification=of_conversations(4))
    assert found(inputs) == {"saturation_not_judged": "caution"}
    assert "saturated" not in {check.code for check in check_cell(inputs)}
    assert MeasuredCell(inputs.requests, inputs.chunks, inputs.load, {}, None, waiting=True).beyond_knee is None
    assert found(clean(specification=of_conversations(1))) == {}, "one turn waits for nothing"
    burst = of_conversations(4)
    burst["phase"]["load"] = {"kind": "burst", "value": None}
    assert "saturation_not_judged" not in found(clean(specification=burst)), "where no rate is offered nothing is asked"


def test_of_conversations_that_get_slower_the_drift_is_told() -> None:
    """Beyond the capacity it is not asked for, as it says no more; here nothing else says that."""
    assert set(found(clean(slow_server(capacity=6), specification=of_conversations(4)))) == {
        "saturation_not_judged",
        "drift",
    }


def test_saturation_never_makes_a_cell_invalid() -> None:
    assert worst(check_cell(clean(slow_server(capacity=1)))) == "caution"


def test_arrivals_that_come_in_bunches_are_not_taken_for_saturation() -> None:
    """Twenty requests at 0.5/s as they were once drawn, each finished a tenth of a second after it came."""
    drawn_s = np.cumsum([0, 2, 2, 2, 2, 3, 3, 2, 3, 2, 2, 3, 2, 3, 3, 2, 2, 3, 0.2, 0.2])
    made = [request_row(index, float(at_s)) for index, at_s in enumerate(drawn_s)]
    slow = {**SPECIFICATION, "phase": {"load": {"kind": "rate", "value": 0.5}, "cache": "cold"}}
    inputs = replace(clean(made), specification=slow, workload_requests=len(made))
    offered, achieved = 17 / (drawn_s[-1] - drawn_s[2]), 14 / (drawn_s[17] - drawn_s[3])
    assert achieved < 0.9 * offered, "the whole of the arrivals is faster than their middle"
    assert "saturated" not in found(inputs)


def test_a_server_that_turns_requests_away_is_told_from_one_that_fails() -> None:
    assert "http_errors" not in found(clean(failed("http_error", 5, http_status=429)))
    assert "requests_rejected" not in found(clean(failed("http_error", 5, http_status=500)))


def test_a_burst_cannot_be_saturated() -> None:
    burst = {**SPECIFICATION, "phase": {"load": {"kind": "burst"}, "cache": "cold"}}
    made = [request_row(index, 0.0, 0.1 * (index + 1)) for index in range(REQUESTS)]
    results = check_cell(replace(clean(made), specification=burst))
    assert "saturated" not in {result.code for result in results}


def test_window_of_twenty_arrivals() -> None:
    """Arrivals at 0, 1, … 19 s: the window opens with request 2 and ends at the last arrival, which it leaves out."""
    arrivals = np.arange(20.0)
    window = steady_window(arrivals, arrivals, arrivals + 0.5, LoadPoint("rate", 1))
    assert window is not None
    assert list(np.flatnonzero(window.inside)) == list(range(2, 19))
    assert (window.start_s, window.end_s, window.length_s) == (2.0, 19.0, 17.0)
    assert offered_rate(window, LoadPoint("rate", 1)) == 1.0
    everything = np.ones(20, bool)
    # 17 ends at 2.5 … 18.5: the 10 % and 90 % points are the second and the last but one, 14 ends in 14 s.
    assert achieved_rate(window, everything, arrivals + 0.5, LoadPoint("rate", 1)) == 1.0
    assert achieved_rate(window, everything, 2 * arrivals, LoadPoint("rate", 1)) == 0.5


def test_window_of_a_burst_is_from_the_first_send_to_the_last_token() -> None:
    sent, last = np.array([0.1, 0.2, 0.3]), np.array([1.0, 4.1, 2.0])
    window = steady_window(np.zeros(3), sent, last, LoadPoint("burst"))
    assert window is not None
    assert window.inside.all() and window.length_s == pytest.approx(4.0)
    assert offered_rate(window, LoadPoint("burst")) is None
    assert achieved_rate(window, np.array([True, False, True]), last, LoadPoint("burst")) == pytest.approx(0.5)


def test_no_window_without_length() -> None:
    nothing = np.full(3, np.nan)
    assert steady_window(np.zeros(1), np.zeros(1), np.ones(1), LoadPoint("rate", 1)) is None
    assert steady_window(np.zeros(3), np.zeros(3), np.ones(3), LoadPoint("rate", 1)) is None
    assert steady_window(np.zeros(3), np.zeros(3), nothing, LoadPoint("burst")) is None


@pytest.mark.parametrize("flag", ["max-num-queued-reqs", "max-queued-requests"])
def test_what_a_limit_of_admission_turns_away_takes_no_numbers_away(flag: str) -> None:
    limited = {**SPECIFICATION, "server": {**SPECIFICATION["server"], "flags": {flag: 8}}}
    rejected = failed("http_error", 5, http_status=503)
    assert found(clean(rejected, specification=limited))["requests_rejected"] == "caution"
    assert found(clean(rejected))["requests_rejected"] == "invalid"
    broken = failed("http_error", 5, http_status=500)
    assert found(clean(broken, specification=limited))["http_errors"] == "invalid", "nobody asked for that"


def test_a_request_that_is_turned_away_inside_a_stream_is_known_by_the_errors_own_code() -> None:
    busy = failed("http_error", 5, http_status=200, error='{"message":"The engine is busy.","param":null,"code":503}')
    assert "http_errors" not in found(clean(busy))
    assert found(clean(busy))["requests_rejected"] == "invalid"
    broken = failed("http_error", 5, http_status=200, error='{"message":"It broke.","code":500}')
    assert found(clean(broken))["http_errors"] == "invalid" and "requests_rejected" not in found(clean(broken))
