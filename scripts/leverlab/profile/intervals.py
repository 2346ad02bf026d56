"""Stretches of time: how long at least one of several is under way, and what lies between them. Vectorised over kernels."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def times(kernels: pd.DataFrame) -> tuple[Floats, Floats]:
    """Start and end of each row, in seconds."""
    start = kernels["start_s"].to_numpy(float)
    return start, start + kernels["duration_s"].to_numpy(float)


def merged(starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """The union of [start, end) as disjoint stretches in their order: (starts, ends), shape (m,) each, m ≤ n."""
    if len(starts) == 0:
        return np.empty(0), np.empty(0)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate(([True], starts[1:] > ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    return starts[first], ends[last]


def covered_s(starts: Floats, ends: Floats) -> float:
    """Length of the union of [start, end)."""
    begin, end = merged(starts, ends)
    return float((end - begin).sum())


def gaps(starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """What lies between the stretches of the union: (begins, ends)."""
    begin, end = merged(starts, ends)
    return end[:-1], begin[1:]
