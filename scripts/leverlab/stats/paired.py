"""The paired change: treatment against baseline, replicate by replicate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from scipy import special, stats

from leverlab.metrics import Comparison
from leverlab.stats.intervals import LEVEL, Interval, interval_of_mean, interval_of_next, spread

SKEW: Final = 2.0
"""Of n skewed changes an interval's far end lies 1 + SKEW / √n times as far from the estimate as Student's. That one-sided errors
of Student's interval shrink with √n is Hall's expansion (1992), The bootstrap and Edgeworth expansion, §2.6; the size is what
benchmarks/queue_coverage.py needs to hold 93 % with 3 to 10 replicates."""

Skew = Literal["none", "away", "either way"]
"""Where few replicates that changed much stand among many that changed little: further away from no change than the rest, or on
a side that is not known."""

NO_CHANGE: Final[dict[Comparison, float]] = {"ratio": 1.0, "difference": 0.0}


@dataclass(frozen=True)  # without slots, which leave no place for what is computed once
class PairedChange:
    """The changes of one metric, one a replicate, on the scale on which they are averaged.

    `changes` holds log(treatment / baseline) for a comparison by ratio and treatment - baseline for one by difference: both
    servers of a replicate replayed the same workload, so that what the draw does to both cancels.
    """

    comparison: Comparison
    changes: tuple[float, ...]
    skew: Skew = "none"

    @property
    def estimate(self) -> float | None:
        """Geometric mean of the ratios, or mean of the differences; None without a pair."""
        if not self.changes:
            return None
        middle = math.fsum(self.changes) / len(self.changes)
        return math.exp(middle) if self.comparison == "ratio" else middle

    @cached_property
    def spread(self) -> float | None:
        """Standard deviation of the changes; None for fewer than two, and where all are the same."""
        return spread(self.changes)

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Student's t interval for the estimate (see `mean_interval`), stretched where the changes are skewed.

        `away`: the end away from no change alone. A lever that does nothing leaves both sides of a pair alike, so that their
        change is as likely to go up as down: no skew, and Student's test of no change stays as it is.
        """
        interval = interval_of_mean(self.changes, self.spread, level)
        if interval is None or self.skew == "none":
            return self._carried_back(interval)
        middle = (interval.low + interval.high) / 2
        longer = (interval.high - middle) * self._stretch
        return self._carried_back(
            replace(
                interval,
                low=middle - longer if self.skew == "either way" or middle < 0 else interval.low,
                high=middle + longer if self.skew == "either way" or middle > 0 else interval.high,
            )
        )

    def prediction(self, level: float = LEVEL) -> Interval | None:
        """Where the change of one further replicate lies (see `prediction_interval`)."""
        return self._carried_back(interval_of_next(self.changes, self.spread, level))

    def _carried_back(self, interval: Interval | None) -> Interval | None:
        return interval.exponential() if interval and self.comparison == "ratio" else interval

    @property
    def p_value(self) -> float | None:
        """Two-sided p value of Student's paired t test against no change, which agrees with the interval; None where that is."""
        deviation = self.spread
        if deviation is None:
            return None
        count = len(self.changes)
        statistic = abs(math.fsum(self.changes) / count) / (deviation / math.sqrt(count))
        stretch = self._stretch if self.skew == "either way" else 1.0
        # Student's distribution function itself: what SciPy checks of its arguments takes a hundred times as long, for each effect.
        return float(2 * special.stdtr(count - 1, -statistic / stretch))

    def test_level(self, alpha: float) -> float:
        """The level of Student's test that decides as the interval at 1 - `alpha` does."""
        if self.skew != "either way" or len(self.changes) < 2:
            return alpha
        freedom = len(self.changes) - 1
        return float(2 * stats.t.sf(self._stretch * stats.t.isf(alpha / 2, freedom), freedom))

    @property
    def _stretch(self) -> float:
        return 1 + SKEW / math.sqrt(len(self.changes))


def paired_change(
    baseline: Sequence[float], treatment: Sequence[float], comparison: Comparison, skew: Skew = "none"
) -> PairedChange:
    """The changes from `baseline` to `treatment`, whose values at one place are of one replicate.

    Raises ValueError for lengths that differ, and in a comparison by ratio for a value that is not positive: such a pair
    has no ratio, and the caller leaves it out and says so. Source: Student (1908); ratios on the log scale, where a
    doubling and a halving weigh the same: Fleming and Wallace (1986), Communications of the ACM 29(3).
    """
    pairs = list(zip(baseline, treatment, strict=True))
    if comparison == "difference":
        return PairedChange(comparison, tuple(after - before for before, after in pairs), skew)
    if any(before <= 0 or after <= 0 for before, after in pairs):
        raise ValueError("a ratio needs positive values: leave such pairs out, or compare by difference")
    return PairedChange(comparison, tuple(math.log(after) - math.log(before) for before, after in pairs), skew)
