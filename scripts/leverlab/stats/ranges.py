"""Whether a mean over replicates lies within a range that was expected of it."""

from collections.abc import Sequence
from typing import Literal

from leverlab.stats.intervals import Interval, mean_interval
from leverlab.stats.verdict import LEAST_PAIRS

RangePlace = Literal["inside", "outside", "not resolved"]


def range_place(values: Sequence[float], low: float, high: float) -> tuple[RangePlace, Interval | None]:
    """Where the mean of `values`, one a replicate, lies: resolved where its whole interval lies on one side of each end.

    Replicates that agree to the last digit were determined by counts, as a hit ratio is by the prompts: they place it without an
    interval. Fewer than `LEAST_PAIRS` resolve nothing, as they give no verdict on an effect.
    """
    interval = mean_interval(values)
    if len(values) < LEAST_PAIRS:
        return "not resolved", interval
    if interval is None:
        return ("inside" if low <= values[0] <= high else "outside"), None
    if low <= interval.low and interval.high <= high:
        return "inside", interval
    if interval.high < low or high < interval.low:
        return "outside", interval
    return "not resolved", interval
