"""The straight line through levels: its numbers against numpy's, and when departures count."""

import math

import numpy as np
import pytest

from leverlab.stats.line import line_through

LEVELS = (512.0, 1024.0, 2048.0, 4096.0)


def on_line(at_zero: float, slope: float, *factors: float) -> dict[float, list[float]]:
    """Values of as many replicates as there are factors."""
    return {level: [factor * (at_zero + slope * level) for factor in factors] for level in LEVELS}


def test_values_on_a_line_give_that_line() -> None:
    line = line_through(on_line(4e-3, 7e-6, 1.0, 1.02, 0.98))
    assert line is not None
    assert line.at_zero == pytest.approx(4e-3)
    assert line.slope == pytest.approx(7e-6)
    assert line.straight
    assert line.departure < 1e-9
    assert line.replicates == 3
    assert line.slope_interval is not None
    assert 7e-6 in line.slope_interval
    half = 4.30265 * 7e-6 * 0.02 / math.sqrt(3)  # Student's t of two degrees of freedom at 97.5 %, from a table
    assert line.slope_interval.high - line.slope == pytest.approx(half, rel=1e-4)


def test_least_squares_are_numpys() -> None:
    random = np.random.default_rng(7)
    values = {level: list(random.uniform(0.5, 1.5, 4) * level) for level in LEVELS}
    line = line_through(values)
    assert line is not None
    slope, at_zero = np.polyfit(LEVELS, [np.mean(values[level]) for level in LEVELS], 1)
    assert (line.slope, line.at_zero) == (pytest.approx(slope), pytest.approx(at_zero))


def test_a_curve_is_told_from_scatter() -> None:
    noise = (1.0, 1.01, 0.99)
    curve = {level: [factor * level**2 for factor in noise] for level in LEVELS}
    line = line_through(curve)
    assert line is not None
    assert line.straight is False
    assert line.departure > 0.1
    wide = {
        level: [value * (1 + 0.4 * (index - 1)) for index, value in enumerate(values)]
        for level, values in curve.items()
    }
    scattered = line_through(
        {level: values if level < 4096 else [v / 2 for v in values] for level, values in wide.items()}
    )
    assert scattered is not None
    assert scattered.straight, "no larger than the scatter of the replicates"


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    random = np.random.default_rng(3)
    runs = 2000
    alarms = 0
    for _ in range(runs):
        values = {level: list(1.0 + 0.01 * level + random.normal(0, 1.0, 3)) for level in LEVELS}
        line = line_through(values)
        assert line is not None
        alarms += line.straight is False
    assert 0.03 < alarms / runs < 0.07


def test_one_replicate_gives_a_line_and_no_judgement() -> None:
    line = line_through({512.0: [7.36], 1024.0: [11.2], 2048.0: [19.2], 4096.0: [32.3]})
    assert line is not None
    assert line.straight is None
    assert line.slope_interval is None
    assert line.departs_at == 512.0


def test_two_replicates_give_a_line_and_no_judgement() -> None:
    """Two that agreed by chance said of a line that there is none."""
    line = line_through({level: [level**2, 1.001 * level**2] for level in LEVELS})
    assert line is not None
    assert line.straight is None
    assert line.slope_interval is not None


def test_counts_that_lie_on_it_exactly_are_straight_and_others_are_not() -> None:
    exact = line_through({level: [level * 131072] * 3 for level in LEVELS})
    assert exact is not None
    assert exact.straight
    assert exact.slope_interval is None
    curved = line_through({level: [level * level] * 3 for level in LEVELS})
    assert curved is not None
    assert curved.straight is False


@pytest.mark.parametrize(
    "values", [{1.0: [1.0], 2.0: [2.0]}, {1.0: [1.0], 2.0: [2.0, 3.0], 3.0: [1.0]}, {1.0: [], 2.0: [], 3.0: []}]
)
def test_what_gives_no_line(values: dict[float, list[float]]) -> None:
    assert line_through(values) is None
