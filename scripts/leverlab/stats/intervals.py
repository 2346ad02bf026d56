"""Intervals: for a mean over replicates, for one further replicate, and for a percentile inside a cell."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

LEVEL: Final = 0.95

_ROUNDING: Final = 1e-12
"""Values whose standard deviation is below this share of their size are equal but for rounding."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval from `low` to `high`, and the level of confidence at which it was made."""

    low: float
    high: float
    level: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def exponential(self) -> "Interval":
        """The interval of ratios that belongs to this one of log ratios."""
        return Interval(_exp(self.low), _exp(self.high), self.level)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation (n - 1 in the denominator). None for fewer than two values, and for values without any spread.

    Replicates that agree to the last digit say that the quantity is determined by counts, not that it is known exactly:
    no interval can be built on them, and the caller has to say so.
    """
    if len(values) < 2:
        return None
    deviation = float(np.std(np.asarray(values, float), ddof=1))
    return deviation if deviation > _ROUNDING * max(abs(value) for value in values) else None


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's t interval for the mean: mean ± t(n-1) · s / √n. None where `spread` is.

    Source: Student (1908), The probable error of a mean, Biometrika 6; Hahn and Meeker, Statistical Intervals, §4.2.
    """
    return interval_of_mean(values, spread(values), level)


def interval_of_mean(values: Sequence[float], deviation: float | None, level: float) -> Interval | None:
    """`mean_interval` of values whose `spread` is known."""
    if deviation is None:
        return None
    half = _quantile(level, len(values)) * deviation / math.sqrt(len(values))
    return _around(values, half, level)


def prediction_interval(values: Sequence[float], log: bool, level: float = LEVEL) -> Interval | None:
    """The interval in which one further value drawn like `values` lies: mean ± t(n-1) · s · √(1 + 1/n).

    With `log` it is made from the logarithms and carried back. None where `spread` is, and with `log` for values of which
    one is not positive. Source: Hahn and Meeker, Statistical Intervals, §4.7; on logarithms ibid. §4.12.
    """
    if log:
        if any(value <= 0 for value in values):
            return None
        made = prediction_interval([math.log(value) for value in values], log=False, level=level)
        return made.exponential() if made else None
    return interval_of_next(values, spread(values), level)


def interval_of_next(values: Sequence[float], deviation: float | None, level: float) -> Interval | None:
    """`prediction_interval` without `log` of values whose `spread` is known."""
    if deviation is None:
        return None
    return _around(values, _quantile(level, len(values)) * deviation * math.sqrt(1 + 1 / len(values)), level)


def percentile_interval(values: Sequence[float], share: float, level: float = LEVEL) -> Interval | None:
    """Interval for the quantile `share` from two order statistics, whatever the distribution, at `level` or more.

    The number of values below the quantile is binomial(n, share): the ends are the l-th and the u-th smallest value with
    P(count < l) ≤ (1 - level)/2 and P(count ≥ u) ≤ (1 - level)/2. None where the sample has no such value on one side: it
    is too small to bound the quantile. It takes the values as independent; requests of one cell share its queue and are
    not, so that it is too narrow near saturation. Source: David and Nagaraja, Order Statistics, 3rd edition, §7.1.
    """
    tail, count = (1 - level) / 2, len(values)
    if count == 0:
        return None
    lower, upper = _ranks(tail, count, share)
    if lower < 1 or upper > count:
        return None
    ordered = np.sort(np.asarray(values, float))
    return Interval(float(ordered[lower - 1]), float(ordered[upper - 1]), level)


@functools.cache
def _ranks(tail: float, count: int, share: float) -> tuple[int, int]:
    """The largest l with P(count < l) ≤ tail, and the smallest u with P(count ≥ u) ≤ tail."""
    return int(stats.binom.ppf(tail, count, share)), int(stats.binom.ppf(1 - tail, count, share)) + 1


@functools.cache
def _quantile(level: float, count: int) -> float:
    return float(stats.t.ppf(1 - (1 - level) / 2, count - 1))


def _around(values: Sequence[float], half: float, level: float) -> Interval:
    middle = math.fsum(values) / len(values)
    return Interval(middle - half, middle + half, level)


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)
