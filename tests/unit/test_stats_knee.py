"""The knee on sweeps whose capacity is known, and on simulated queues."""

import math

import numpy as np
import pytest

from leverlab.stats.knee import Knee, Point, beyond_knee, knee, saturation


def queue(
    rate: float, capacity: float, requests: int = 200, seed: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One server that takes 1/capacity a request; Poisson arrivals. Scheduled, first token, last token."""
    generator = np.random.default_rng(seed)
    scheduled = np.cumsum(generator.exponential(1 / rate, requests))
    first, last, free = np.empty(requests), np.empty(requests), 0.0
    for place, at in enumerate(scheduled):
        start = max(free, at)
        first[place], last[place] = start + 0.2 / capacity, start + 1 / capacity
        free = last[place]
    return scheduled, first, last


@pytest.mark.parametrize("seed", range(20))
def test_a_queue_that_grows_is_beyond_the_knee_and_one_that_does_not_is_not(seed: int) -> None:
    assert beyond_knee(*queue(1.5, 1.0, seed=seed), kept_share=None) is True
    assert beyond_knee(*queue(0.5, 1.0, seed=seed), kept_share=None) is False


def test_what_is_finished_decides_where_it_is_known() -> None:
    scheduled = np.arange(40.0)
    first = scheduled + 0.1
    behind = scheduled, first, first + 0.5 + 0.065 * scheduled
    assert beyond_knee(*behind, kept_share=0.89) is True
    assert beyond_knee(*behind, kept_share=0.91) is False
    assert beyond_knee(*(array[:10] for array in behind), kept_share=0.5) is None, "too few to say"


def test_ends_that_scatter_are_not_taken_for_a_queue() -> None:
    """Thirty requests at 50/s to a server that never lets one wait, with answers of 0.1 s and of 0.9 s."""
    wrong = short = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        scheduled = np.cumsum(generator.exponential(0.02, 30))
        first = scheduled + 0.1
        last = first + generator.choice([0.0, 0.8], 30)
        share = np.ptp(np.sort(scheduled)[3:-3]) / np.ptp(np.sort(last)[3:-3])
        wrong += beyond_knee(scheduled, first, last, float(share)) is True
        short += share < 0.9
    assert short > 150
    assert wrong < 20


def test_a_server_that_slows_a_little_as_its_batch_fills_has_not_fallen_behind() -> None:
    """A hundred requests at 32/s, of which each runs at once, with answers of 0.2 to 6 s and a step that lengthens by a tenth."""
    generator = np.random.default_rng(5)
    scheduled = np.cumsum(generator.exponential(1 / 32, 100))
    slower = 1 + 0.1 * scheduled / scheduled[-1]
    first = scheduled + 0.025 * slower
    last = first + generator.gamma(1, 1.2, 100) * slower
    share = float(np.ptp(np.sort(scheduled)[10:-10]) / np.ptp(np.sort(last)[10:-10]))
    assert share < 0.8
    assert beyond_knee(scheduled, first, last, share) is False


def test_the_knee_lies_between_the_last_rate_kept_and_the_first_beyond() -> None:
    sweep = [Point(1, 1, False), Point(8, 5.1, True), Point(2, 2, False), Point(4, 4, False), Point(16, 4.9, True)]
    assert knee(sweep) == Knee("within", 4, 8, pytest.approx(math.sqrt(5.1 * 4.9)))
    assert knee(sweep[:1]) == Knee("above", 1, None, None)
    assert knee([Point(8, 5.0, True)]) == Knee("below", None, 8, pytest.approx(5.0))
    assert knee([]) is None


def test_a_rate_that_looks_sustained_beyond_the_knee_counts_as_beyond() -> None:
    found = knee([Point(4, 3.0, True), Point(2, 2, False), Point(5, 4.9, False)])
    assert found is not None and (found.low, found.high) == (2, 4)


def test_replicates_give_the_capacity_its_interval() -> None:
    found = saturation([Knee("within", 4, 8, capacity) for capacity in (5.0, 5.2, 4.8)])
    assert found is not None and found.interval is not None
    assert found.capacity == pytest.approx((5.0 * 5.2 * 4.8) ** (1 / 3))
    # s of the logarithms 0.04003, t(0.975; 2) = 4.3027: ± 0.0994.
    assert (found.interval.low, found.interval.high) == pytest.approx((4.525, 5.521), abs=0.005)
    assert (found.place, found.low, found.high, found.replicates) == ("within", 4, 8, 3)


def test_a_replicate_without_a_knee_leaves_the_capacity_open() -> None:
    """And is not taken for all of them: the others did not keep up with the highest, or the lowest, rate that was offered."""
    found = saturation([Knee("within", 4, 8, 5.0), Knee("above", 16, None, None)])
    assert found is not None
    assert (found.place, found.low, found.high, found.capacity, found.interval) == ("mixed", 4, None, None, None)
    below = saturation([Knee("below", None, 4, 3.0), Knee("within", 4, 8, 5.0)])
    assert below is not None and (below.place, below.low, below.high) == ("mixed", None, 8)
    both = saturation([Knee("below", None, 4, 3.0), Knee("above", 16, None, None)])
    assert both is not None and (both.place, both.low, both.high) == ("mixed", None, None)
    above = saturation([Knee("above", 4, None, None), Knee("above", 5, None, None)])
    assert above is not None and (above.place, above.low) == ("above", 4)
    assert saturation([]) is None
