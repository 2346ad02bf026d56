"""When requests are due, without any server: arrivals, streams, and what waits for the end of another request."""

from dataclasses import replace

import pytest

from leverlab.load.plan import LoadPoint, PlannedRequest
from leverlab.load.schedule import Schedule

MS = 1_000_000


def request(index: int, arrival_s: float, after: int | None = None, pause_s: float = 0.0) -> PlannedRequest:
    return PlannedRequest(index, f"r{index}", "one", 1, 1, arrival_s, after, pause_s)


TALKS = [request(0, 1.0), request(1, 1.0, 0, 0.5), request(2, 1.0, 1, 0.25), request(3, 2.0), request(4, 2.0, 3)]


def taken(schedule: Schedule) -> list[tuple[int, int]]:
    return [schedule.pop() for _ in range(len(schedule.due))]


def test_at_a_rate_only_what_waits_for_nobody_is_due() -> None:
    schedule = Schedule(TALKS, LoadPoint("rate", 10.0))
    assert schedule.at_once == 2
    schedule.begin(7)
    assert taken(schedule) == [(100 * MS + 7, 0), (200 * MS + 7, 3)]
    schedule.ended(3, 250 * MS)
    schedule.ended(0, 150 * MS)
    assert taken(schedule) == [(250 * MS, 4), (650 * MS, 1)], "the soonest first, whatever ended first"
    schedule.ended(1, 700 * MS)
    schedule.ended(4, 700 * MS)
    assert taken(schedule) == [(950 * MS, 2)]
    schedule.ended(2, 999 * MS)
    assert not schedule.due


def test_a_stream_takes_the_next_conversation_when_its_own_is_through() -> None:
    schedule = Schedule(TALKS, LoadPoint("concurrency", 1.0))
    assert schedule.at_once == 1
    schedule.begin(0)
    order = []
    now = 0
    while schedule.due:
        due_ns, position = schedule.pop()
        order.append((due_ns // MS, position))
        now = max(now, due_ns) + 10 * MS
        schedule.ended(position, now)
    assert order == [(0, 0), (510, 1), (770, 2), (780, 3), (790, 4)]


def test_positions_are_those_of_the_list_and_indices_those_of_the_file() -> None:
    schedule = Schedule([request(8, 0.0), request(9, 0.0, 8, 1.0)], LoadPoint("burst"))
    schedule.begin(0)
    assert schedule.pop() == (0, 0)
    schedule.ended(0, 5)
    assert schedule.pop() == (1000 * MS + 5, 1)


def test_waiting_for_what_is_not_sent_is_an_error() -> None:
    with pytest.raises(ValueError, match="request 4 waits for request 3, which is not among those"):
        Schedule([TALKS[4]], LoadPoint("burst"))


def program(first: int) -> list[PlannedRequest]:
    """A request, two that wait for it, and one that joins these."""
    joined = replace(request(first + 3, 1.0, first + 2), joins=(first + 1, first + 2))
    return [request(first, 1.0), request(first + 1, 1.0, first), request(first + 2, 1.0, first), joined]


def test_branches_are_due_together_and_what_joins_them_with_the_last() -> None:
    schedule = Schedule(program(0), LoadPoint("burst"))
    assert schedule.at_once == 2
    schedule.begin(0)
    assert taken(schedule) == [(0, 0)]
    schedule.ended(0, 5)
    assert taken(schedule) == [(5, 1), (5, 2)]
    schedule.ended(2, 9)
    assert not schedule.due
    schedule.ended(1, 20)
    assert taken(schedule) == [(20, 3)]


def test_a_stream_takes_the_next_program_once_all_of_its_own_is_through() -> None:
    schedule = Schedule([*program(0), *program(4)], LoadPoint("concurrency", 1.0))
    assert schedule.at_once == 2
    schedule.begin(0)
    order = []
    while schedule.due:
        position = schedule.pop()[1]
        order.append(position)
        schedule.ended(position, len(order))
    assert order == [0, 1, 2, 3, 4, 5, 6, 7]


def test_joining_what_is_not_sent_is_an_error() -> None:
    with pytest.raises(ValueError, match="request 3 waits for request 1, which is not among those"):
        Schedule([each for each in program(0) if each.index != 1], LoadPoint("burst"))
