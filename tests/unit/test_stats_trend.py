"""A trend over time, of few values and of very many."""

import tracemalloc

import numpy as np
import pytest

from leverlab.stats.trend import robust_slope


@pytest.mark.parametrize("count", [20, 1000, 1001, 40_000])
def test_single_wild_values_do_not_matter_and_many_values_take_little_memory(count: int) -> None:
    draw = np.random.default_rng(count)
    at_s = np.sort(draw.uniform(0, 100, count))
    values = 5 + 0.3 * at_s + draw.normal(0, 0.5, count)
    values[:: max(count // 10, 3)] += 1000
    shuffled = draw.permutation(count)
    tracemalloc.start()
    slope = robust_slope(at_s[shuffled], values[shuffled])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert slope == pytest.approx(0.3, rel=0.1)
    assert most < 200e6
