"""What GPUs sent and received over their links, from NVML's samples."""

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa

from leverlab.checks.columns import LONGEST_GAP_S, Floats, numeric

RECEIVED: Final = "pcie_received_bytes"
"""The column of what a GPU received over PCIe: from the host, and from whatever else is on that bus."""
_WRAP_BYTES: Final = 2.0**32
"""Where NVML's counters of PCIe start anew, as seen on H100s (driver 580.159)."""
_OTHER_TRAFFIC: Final = 0.25
"""How much of a counter's 4 GiB may be other traffic between two looks that are a tenth of a second apart."""


def moved_bytes(samples: pa.Table, column: str) -> float | None:
    """Bytes that all GPUs of `samples` (columns time_s, gpu, `column`) counted from the first look to the last.

    A PCIe counter that started anew is carried on; more than 4 GiB between two looks cannot be seen, so that it is the least that
    moved. None where a GPU does not count it, where another counter fell, and with looks that are too far apart.
    """
    if column not in samples.column_names:
        return None  # of before GPUs were asked for it
    time_s, gpu, counted = (numeric(samples, name) for name in ("time_s", "gpu", column))
    total = 0.0
    for index in np.unique(gpu):
        own = (gpu == index) & ~np.isnan(counted)
        if own.sum() < 2 or float(np.diff(time_s[own]).max()) > LONGEST_GAP_S:
            return None
        steps = np.diff(counted[own])
        fell = steps < 0
        if fell.any() and not (column.startswith("pcie") and float(counted[own].max()) < _WRAP_BYTES):
            return None
        total += float(steps.sum() + fell.sum() * _WRAP_BYTES)
    return total if len(gpu) else None


def unseen_bytes(samples: pa.Table, load_bytes: Floats, begun_s: Floats, ended_s: Floats) -> float:
    """The most of the loads over PCIe, each of `load_bytes` and at some time from `begun_s` to `ended_s`, that `samples` can hide.

    The three arrays have one entry a load. Hidden are loads before the first look and after the last, and 4 GiB between two looks at a
    GPU for each 4 GiB of loads that may all have fallen there: the counter then stands where it would stand without them. The last of them
    need be three quarters of that alone, as other traffic can be the rest.
    """
    begun, ended = _running_sum(begun_s, load_bytes), _running_sum(ended_s, load_bytes)
    time_s, gpu, counted = (numeric(samples, name) for name in ("time_s", "gpu", RECEIVED))
    looks_s = [time_s[(gpu == index) & ~np.isnan(counted)] for index in np.unique(gpu)]
    before = begun(np.array([max(own[0] for own in looks_s)]))
    after = load_bytes.sum() - ended(np.array([min(own[-1] for own in looks_s)]))
    between = [
        np.floor((begun(own[1:]) - ended(own[:-1])) / _WRAP_BYTES + _OTHER_TRAFFIC).sum() * _WRAP_BYTES
        for own in looks_s
    ]
    return float(before[0] + after[0] + sum(between))


def _running_sum(time_s: Floats, amounts: Floats) -> Callable[[Floats], Floats]:
    """What of `amounts`, which come at `time_s`, has come by a time."""
    order = np.argsort(time_s)
    sums: Floats = np.concatenate(([0.0], np.cumsum(amounts[order])))

    def until(at_s: Floats) -> Floats:
        found: Floats = sums[np.searchsorted(time_s[order], at_s, side="right")]
        return found

    return until
