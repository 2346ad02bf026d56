"""The straight line through a metric at the levels of a lever, and whether the levels lie on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Final

import numpy as np
from scipy import stats

from leverlab.stats.intervals import LEVEL, Interval, mean_interval
from leverlab.stats.verdict import LEAST_PAIRS

LEAST_LEVELS: Final = 3
"""Two levels lie on a line whatever they are."""

_EXACT: Final = 1e-9
"""Levels that depart from the line by no larger share lie on it but for rounding."""


@dataclass(frozen=True, slots=True)
class Line:
    """value = `at_zero` + `slope` · level: means over the lines of the replicates, by least squares each."""

    at_zero: float
    slope: float
    at_zero_interval: Interval | None
    slope_interval: Interval | None
    """Student's t over the replicates' lines; None with fewer than two of them, and where they agree to the last digit."""
    departure: float
    """The largest share by which a level's mean departs from the line's value there, without its sign."""
    departs_at: float
    """The level of `departure`."""
    straight: bool | None
    """Whether no departure from the line was found; None with fewer than `LEAST_PAIRS` replicates, which give no verdict."""
    replicates: int


def line_through(values: Mapping[float, Sequence[float]], level: float = LEVEL) -> Line | None:
    """The line through `values`, level → one value a replicate, the replicates of all levels in the same order.

    None with fewer than three levels, with levels of different numbers of replicates, or without any.
    """
    counts = {len(each) for each in values.values()}
    if len(values) < LEAST_LEVELS or len(counts) != 1 or counts == {0}:
        return None
    at = np.array(sorted(values))
    measured = np.array([values[each] for each in at], dtype=float)
    lines = [stats.linregress(at, replicate) for replicate in measured.T]
    slopes, zeros = [float(each.slope) for each in lines], [float(each.intercept) for each in lines]
    slope, at_zero = fsum(slopes) / len(lines), fsum(zeros) / len(lines)
    fitted = at_zero + slope * at
    means = measured.mean(axis=1)
    departures = np.abs(means - fitted) / np.maximum(np.abs(fitted), np.finfo(float).tiny)
    worst = int(np.argmax(departures))
    return Line(
        at_zero,
        slope,
        mean_interval(zeros, level),
        mean_interval(slopes, level),
        float(departures[worst]),
        float(at[worst]),
        _straight(measured, fitted, level),
        len(lines),
    )


def _straight(measured: np.ndarray, fitted: np.ndarray, level: float) -> bool | None:
    """The test for lack of fit: do the levels' means lie further from the line than the replicates scatter?

    F = (lack of fit / (levels - 2)) / (pure error / (values - levels)). Source: Draper and Smith, Applied Regression
    Analysis, 3rd edition, §2.1. What replicates have in common counts as scatter here, so that it errs towards `straight`.
    """
    levels, replicates = measured.shape
    if replicates < LEAST_PAIRS:
        return None
    means = measured.mean(axis=1)
    if np.allclose(means, fitted, rtol=_EXACT, atol=0):
        return True
    lack = replicates * float(((means - fitted) ** 2).sum()) / (levels - 2)
    pure = float(((measured - means[:, None]) ** 2).sum()) / (levels * (replicates - 1))
    if pure == 0:
        return False
    return bool(stats.f.sf(lack / pure, levels - 2, levels * (replicates - 1)) > 1 - level)
