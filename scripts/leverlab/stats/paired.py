"""The paired change: treatment against baseline, replicate by replicate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from scipy import stats

from leverlab.metrics import Comparison
from leverlab.stats.intervals import LEVEL, Interval, mean_interval, prediction_interval, spread

SKEW_FACTOR: Final = 2.5
"""By how much more rarely a widened interval misses than an unwidened one that promises the same. Student's interval misses
a skewed mean about this much more often than it says with 3 to 10 replicates: measured by benchmarks/coverage.py."""

NO_CHANGE: Final[dict[Comparison, float]] = {"ratio": 1.0, "difference": 0.0}


@dataclass(frozen=True, slots=True)
class PairedChange:
    """The changes of one metric, one a replicate, on the scale on which they are averaged.

    `changes` holds log(treatment / baseline) for a comparison by ratio and treatment - baseline for one by difference: both
    servers of a replicate replayed the same workload, so that what the draw does to both cancels.
    """

    comparison: Comparison
    changes: tuple[float, ...]
    skewed: bool = False
    """Whether few replicates that changed much stand among many that changed little: see `SKEW_FACTOR`."""

    @property
    def estimate(self) -> float | None:
        """Geometric mean of the ratios, or mean of the differences; None without a pair."""
        if not self.changes:
            return None
        middle = math.fsum(self.changes) / len(self.changes)
        return math.exp(middle) if self.comparison == "ratio" else middle

    @property
    def spread(self) -> float | None:
        """Standard deviation of the changes; None for fewer than two, and where all are the same."""
        return spread(self.changes)

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Student's t interval for the estimate (see `mean_interval`), widened where the changes are skewed."""
        if not self.skewed:
            return self._carried_back(mean_interval(self.changes, level))
        wider = self._carried_back(mean_interval(self.changes, 1 - (1 - level) / SKEW_FACTOR))
        return replace(wider, level=level) if wider else None

    def prediction(self, level: float = LEVEL) -> Interval | None:
        """Where the change of one further replicate lies (see `prediction_interval`)."""
        return self._carried_back(prediction_interval(self.changes, log=False, level=level))

    def _carried_back(self, interval: Interval | None) -> Interval | None:
        return interval.exponential() if interval and self.comparison == "ratio" else interval

    @property
    def p_value(self) -> float | None:
        """Two-sided p value of Student's paired t test against no change; None where the interval is.

        For skewed changes it is raised as the interval is widened, so that the two agree.
        """
        deviation = self.spread
        if deviation is None:
            return None
        count = len(self.changes)
        statistic = abs(math.fsum(self.changes) / count) / (deviation / math.sqrt(count))
        return min(1.0, float(2 * stats.t.sf(statistic, count - 1)) * (SKEW_FACTOR if self.skewed else 1))


def paired_change(
    baseline: Sequence[float], treatment: Sequence[float], comparison: Comparison, skewed: bool = False
) -> PairedChange:
    """The changes from `baseline` to `treatment`, whose values at one place are of one replicate.

    Raises ValueError for lengths that differ, and in a comparison by ratio for a value that is not positive: such a pair
    has no ratio, and the caller leaves it out and says so. Source: Student (1908); ratios on the log scale, where a
    doubling and a halving weigh the same: Fleming and Wallace (1986), Communications of the ACM 29(3).
    """
    pairs = list(zip(baseline, treatment, strict=True))
    if comparison == "difference":
        return PairedChange(comparison, tuple(after - before for before, after in pairs), skewed)
    if any(before <= 0 or after <= 0 for before, after in pairs):
        raise ValueError("a ratio needs positive values: leave such pairs out, or compare by difference")
    return PairedChange(comparison, tuple(math.log(after) - math.log(before) for before, after in pairs), skewed)
