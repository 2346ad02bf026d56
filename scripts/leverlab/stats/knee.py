"""The knee of a rate sweep: up to which rate a server keeps up.

Beyond its capacity a server's queue grows for as long as requests come, and what it finishes a second is its capacity, not the
rate. Source: Kleinrock (1979), Power and deterministic rules of thumb, ICC 79; Jain, The Art of Computer Systems Performance
Analysis (1991), §3.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from leverlab.stats.intervals import Interval, mean_interval
from leverlab.stats.trend import robust_slope

SATURATION_SHARE: Final = 0.9
"""Rate of the ends ÷ rate of the arrivals, of the same requests, below which a server falls behind where latencies grow too."""
QUEUE_GROWTH: Final = 1.5
"""Requests in the system towards the end of the arrivals ÷ around their middle, from which on its queue is said to grow."""
TTFT_GROWTH: Final = 1.0
"""Trend of ttft_s over the arrivals ÷ its median, from which on waiting is said to grow."""
LAG_SHARE: Final = 0.5
"""Of the wait that falling behind implies for those who come last, the share that must be seen."""
_LEAST_KEPT: Final = 0.01
_CHANCE: Final = 0.001
_CORROBORATION: Final = 0.05
_LEAST: Final = 20

Floats = NDArray[np.float64]
Place = Literal["within", "above", "below"]
Places = Place | Literal["mixed"]


@dataclass(frozen=True, slots=True)
class Point:
    """One rate of a sweep in one replicate: requests/s that arrived and were finished, and whether that was beyond the knee."""

    offered: float
    achieved: float
    beyond: bool


@dataclass(frozen=True, slots=True)
class Knee:
    """Where one replicate's server stops to keep up.

    `within` the sweep: between the rates `low` and `high`; `above` all of its rates: `high` is None; `below` all of them: `low`
    is None. `capacity` is what was finished a second beyond the knee; None where no rate was beyond it.
    """

    place: Place
    low: float | None
    high: float | None
    capacity: float | None


@dataclass(frozen=True, slots=True)
class Saturation:
    """The knee over the replicates: geometric mean of their capacities with its interval, and the rates that hold it in all.

    `mixed`: it lies above, or below, all rates that were offered in some replicates only.
    """

    place: Places
    low: float | None
    high: float | None
    capacity: float | None
    interval: Interval | None
    replicates: int


def beyond_knee(scheduled_s: Floats, first_s: Floats, last_s: Floats, kept_share: float | None) -> bool | None:
    """Whether a cell at a rate was beyond what its server sustains; arrays hold one value a request, NaN where there is none.

    Either what was finished a second fell below SATURATION_SHARE of what arrived (`kept_share`, of the same requests) while ttft_s
    or e2e_s grew by as much as that implies, or both the number of requests in the system and ttft_s grew over the arrivals: a
    short cell ends before the first shows. In a short cell whose answers differ in length the ends scatter so much that
    `kept_share` alone proves nothing. A server that really falls behind lets those wait who come late: where it ends k of what
    comes in a time T, the last one is T (1/k - 1) later than the first; LAG_SHARE of that must be seen. None where there are too
    few requests to say.
    """
    known = ~(np.isnan(scheduled_s) | np.isnan(first_s) | np.isnan(last_s))
    if int(known.sum()) < _LEAST:
        return None
    scheduled_s, first_s, last_s = scheduled_s[known], first_s[known], last_s[known]
    if kept_share is not None and kept_share < SATURATION_SHARE:
        lag_s = LAG_SHARE * (1 / max(kept_share, _LEAST_KEPT) - 1) * float(np.ptp(scheduled_s))
        if any(_rises(scheduled_s, ended_s - scheduled_s, lag_s) for ended_s in (first_s, last_s)):
            return True
    return _queue_grows(scheduled_s, last_s) and _waiting_grows(scheduled_s, first_s)


def _rises(at_s: Floats, values: Floats, least: float) -> bool:
    """Whether `values` grow over `at_s` by `least` and by more than chance explains: Kendall's test (Biometrika 30, 1938)."""
    if robust_slope(at_s, values) * float(np.ptp(at_s)) < least:
        return False
    return bool(stats.kendalltau(at_s, values).pvalue < _CORROBORATION)


def _queue_grows(scheduled_s: Floats, last_s: Floats) -> bool:
    arrivals = np.sort(scheduled_s)
    ended = np.sort(last_s)
    in_system = np.arange(1, len(arrivals) + 1) - np.searchsorted(ended, arrivals, "right")
    quarter = len(arrivals) // 4
    middle, late = float(in_system[quarter : 2 * quarter].mean()), float(in_system[-quarter:].mean())
    return late >= QUEUE_GROWTH * middle and late >= middle + 1


def _waiting_grows(scheduled_s: Floats, first_s: Floats) -> bool:
    waits = first_s - scheduled_s
    if np.ptp(waits) == 0 or np.median(waits) <= 0:
        return False
    growth = robust_slope(scheduled_s, waits) * float(np.ptp(scheduled_s)) / float(np.median(waits))
    return growth >= TTFT_GROWTH and float(stats.kendalltau(scheduled_s, waits).pvalue) < _CHANCE


def knee(points: Sequence[Point]) -> Knee | None:
    """The knee of one replicate's sweep; None without a point.

    The first rate beyond is where it begins: a higher one that looks sustained is luck, and is counted as beyond.
    """
    if not points:
        return None
    ordered = sorted(points, key=lambda point: point.offered)
    first = next((place for place, point in enumerate(ordered) if point.beyond), None)
    if first is None:
        return Knee("above", ordered[-1].offered, None, None)
    after = ordered[first:]
    capacity = math.exp(math.fsum(math.log(point.achieved) for point in after) / len(after))
    low = ordered[first - 1].offered if first else None
    return Knee("within" if first else "below", low, after[0].offered, capacity)


def saturation(knees: Sequence[Knee]) -> Saturation | None:
    """The knees of several replicates together; None without one.

    Student's t interval on the logarithms of the capacities (see `mean_interval`); a replicate whose knee lies above the sweep has
    none and widens `high` to None.
    """
    if not knees:
        return None
    known = [math.log(knee.capacity) for knee in knees if knee.capacity is not None]
    lows, highs = [knee.low for knee in knees], [knee.high for knee in knees]
    low = min(value for value in lows if value is not None) if None not in lows else None
    high = max(value for value in highs if value is not None) if None not in highs else None
    places = {knee.place for knee in knees}
    place: Places = places.pop() if len(places) == 1 else "mixed"
    interval = mean_interval(known) if len(known) == len(knees) else None
    return Saturation(
        place,
        low,
        high,
        math.exp(math.fsum(known) / len(known)) if len(known) == len(knees) else None,
        interval.exponential() if interval else None,
        len(knees),
    )
