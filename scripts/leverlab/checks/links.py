"""What GPUs sent and received over their links, from NVML's samples."""

from typing import Final

import numpy as np
import pyarrow as pa

from leverlab.checks.columns import LONGEST_GAP_S, numeric

_WRAP_BYTES: Final = 2.0**32
"""Where NVML's counters of PCIe start anew, as seen on H100s (driver 580.159)."""


def moved_bytes(samples: pa.Table, column: str) -> float | None:
    """Bytes that all GPUs of `samples` (columns time_s, gpu, `column`) counted from the first look to the last.

    A PCIe counter that started anew is carried on; more than 4 GiB between two looks cannot be seen, so that it is the least that
    moved. None where a GPU does not count it, where another counter fell, and with looks that are too far apart.
    """
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
