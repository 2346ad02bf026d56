"""How long the rest of a trial takes, where that is known before it ran: at a rate."""

from pathlib import Path

from leverlab.layout import Layout
from leverlab.load.plan import PlannedRequest
from leverlab.records import PhaseSpecification
from leverlab.trial.time_left import TimeLeft


def request(index: int, arrival_s: float, after: int | None = None, pause_s: float = 0.0) -> PlannedRequest:
    return PlannedRequest(index, f"r{index}", "one", 1, 1, arrival_s, after, pause_s)


def left_s(tmp_path: Path, requests: list[PlannedRequest]) -> float | None:
    identity = {"load": {"kind": "rate", "value": 2.0}}
    wanted = PhaseSpecification(cell="c", phase="p", identity=identity, workload_file="f", request_timeout_s=60)
    return TimeLeft(Layout(tmp_path), "s", [wanted], {"f": requests}).seconds(0, 1.0, 0, len(requests))


def test_arrivals_are_divided_by_the_rate_and_pauses_are_not(tmp_path: Path) -> None:
    alone = [request(0, 3.0), request(1, 8.0)]
    assert left_s(tmp_path, alone) == 8.0 / 2 - 1
    talks = [
        request(0, 3.0),
        request(1, 3.0, 0, 5.0),
        request(2, 3.0, 1, 4.0),
        request(3, 8.0),
        request(4, 8.0, 3, 1.0),
    ]
    assert left_s(tmp_path, talks) == 3.0 / 2 + 5 + 4 - 1, "the conversation that goes on longest"
