"""The search for the highest rate, against servers whose answer is known."""

import math
import random
from collections.abc import Callable

import pytest

from leverlab.stats.rate_search import RateSearch


def searched(search: RateSearch, margin: Callable[[float], float]) -> list[float]:
    tried: list[float] = []
    while (rate := search.next_rate()) is not None:
        assert len(tried) < 40
        tried.append(rate)
        search.tell(rate, margin(rate))
    return tried


def queueing(draw: random.Random, capacity: float, answer: float) -> Callable[[float], float]:
    """A server whose times grow as 1 / (1 - load) and reach their limit at the rate `answer`."""
    hopeless = draw.random() < 0.5

    def margin(rate: float) -> float:
        if rate >= capacity and hopeless:
            return math.inf
        return math.log((1 - answer / capacity) / max(1 - rate / capacity, 0.001))

    return margin


@pytest.mark.parametrize("precision", [0.01, 0.05, 0.2])
def test_the_answer_lies_in_the_bracket_and_takes_at_most_one_run_more_than_bisection(precision: float) -> None:
    draw = random.Random(1)
    for _ in range(300):
        capacity = math.exp(draw.uniform(-3, 5))
        answer = capacity * draw.uniform(0.3, 0.98)
        start = capacity * math.exp(draw.uniform(-1.5, 1.5))
        search = RateSearch(start, precision)
        tried = searched(search, queueing(draw, capacity, answer))
        assert search.settled and search.met is not None and search.missed is not None
        assert search.met <= answer * (1 + 1e-9) and search.missed >= answer * (1 - 1e-9)
        assert search.missed / search.met <= (1 + precision) * (1 + 1e-9)
        doublings = math.ceil(abs(math.log2(answer / start))) + 1
        assert len(tried) <= doublings + math.ceil(math.log2(math.log(2) / math.log1p(precision))) + 1


def test_it_takes_fewer_runs_than_bisection_on_average() -> None:
    draw = random.Random(2)
    runs, bisection = 0, 0
    for _ in range(400):
        answer = draw.uniform(50, 99)
        search = RateSearch(60.0, 0.005)
        tried = searched(search, queueing(draw, 100.0, answer))
        halved = searched(RateSearch(60.0, 0.005), lambda rate, answer=answer: math.inf if rate > answer else -math.inf)
        runs, bisection = runs + len(tried), bisection + len(halved)
    assert runs < bisection


def test_bounds_end_the_search() -> None:
    none = RateSearch(8.0, 0.05, lowest=2.0)
    assert searched(none, lambda _: 1.0) == [8.0, 4.0, 2.0]
    assert (none.met, none.missed, none.settled) == (None, 2.0, False)
    every = RateSearch(8.0, 0.05, highest=20.0)
    assert searched(every, lambda _: -1.0) == [8.0, 16.0, 20.0]
    assert (every.met, every.missed, every.settled) == (20.0, None, False)


@pytest.mark.parametrize(("lowest", "highest"), [(100.0, None), (None, 0.001)])
def test_a_bound_beyond_the_reach_of_the_first_rate_is_where_the_search_begins(
    lowest: float | None, highest: float | None
) -> None:
    assert RateSearch(1.0, 0.05, lowest, highest).next_rate() == (lowest or highest)


def test_impossible_bounds_and_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="above the highest"):
        RateSearch(1.0, 0.05, 4.0, 2.0)
    with pytest.raises(ValueError, match="precision"):
        RateSearch(1.0, 0.0)
