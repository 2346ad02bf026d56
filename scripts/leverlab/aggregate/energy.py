"""Energy that GPUs used in a stretch of time, from NVML's samples."""

import numpy as np
import pyarrow as pa

from leverlab.checks.columns import LONGEST_GAP_S, Floats, numeric


def energy_j(samples: pa.Table, start_s: float, end_s: float) -> float | None:
    """Joules of all GPUs of `samples` (columns time_s, gpu, energy_j, power_w) from `start_s` to `end_s`.

    By the energy counter, interpolated at both ends; by the trapezoid of power for a GPU without one. None where a GPU
    has neither, or no samples near both ends.
    """
    time_s, gpu = numeric(samples, "time_s"), numeric(samples, "gpu")
    total = 0.0
    for index in np.unique(gpu):
        own = gpu == index
        used = _counted(time_s[own], numeric(samples, "energy_j")[own], start_s, end_s)
        if used is None:
            used = _integrated(time_s[own], numeric(samples, "power_w")[own], start_s, end_s)
        if used is None:
            return None
        total += used
    return total


def _counted(time_s: Floats, counter_j: Floats, start_s: float, end_s: float) -> float | None:
    known = ~np.isnan(counter_j)
    time_s, counter_j = time_s[known], counter_j[known]
    if not _covered(time_s, start_s, end_s) or (np.diff(counter_j) < 0).any():
        return None
    first, last = np.interp([start_s, end_s], time_s, counter_j)
    return float(last - first)


def _integrated(time_s: Floats, power_w: Floats, start_s: float, end_s: float) -> float | None:
    known = ~np.isnan(power_w)
    time_s, power_w = time_s[known], power_w[known]
    if not _covered(time_s, start_s, end_s):
        return None
    inside = (time_s > start_s) & (time_s < end_s)
    ends_w = np.interp([start_s, end_s], time_s, power_w)
    times = np.concatenate(([start_s], time_s[inside], [end_s]))
    return float(np.trapezoid(np.concatenate((ends_w[:1], power_w[inside], ends_w[1:])), times))


def _covered(time_s: Floats, start_s: float, end_s: float) -> bool:
    if len(time_s) < 2:
        return False
    near = time_s[(time_s >= start_s - LONGEST_GAP_S) & (time_s <= end_s + LONGEST_GAP_S)]
    return bool(
        len(near) >= 2
        and near[0] <= start_s + LONGEST_GAP_S
        and near[-1] >= end_s - LONGEST_GAP_S
        and float(np.diff(near).max()) <= LONGEST_GAP_S
    )
