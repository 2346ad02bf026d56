"""Whether a mean over replicates lies within a range that was expected of it."""

from collections.abc import Sequence
from typing import Literal

from leverlab.stats.intervals import Interval, mean_interval

RangePlace = Literal["inside", "outside", "not resolved"]


def range_place(values: Sequence[float], low: float, high: float) -> tuple[RangePlace, Interval | None]:
    """Where the mean of `values`, one a replicate, lies: resolved where its whole interval lies on one side of each end.

    Replicates that agree to the last digit were determined by counts, as a hit ratio is by the prompts; two or more of them
    place it without an interval. One alone resolves nothing.
    """
    interval = mean_interval(values)
    if interval is None:
        if len(values) < 2:
            return "not resolved", None
        return ("inside" if low <= values[0] <= high else "outside"), None
    if low <= interval.low and interval.high <= high:
        return "inside", interval
    if interval.high < low or high < interval.low:
        return "outside", interval
    return "not resolved", interval
