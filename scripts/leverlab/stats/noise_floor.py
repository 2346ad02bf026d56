"""The noise floor: what a server differs from itself by, from one start to the next."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats

from leverlab.metrics import Comparison
from leverlab.stats.intervals import LEVEL

_DISAGREEMENT: Final = 0.01
"""Chance of calling replicates restless that are not."""


def noise_floor(copies: Sequence[float], pairs: int, comparison: Comparison, level: float = LEVEL) -> float | None:
    """The mean change over `pairs` replicates that two equal servers stay below with chance `level`.

    `copies` holds the changes (log ratios or differences) from the baseline to its copy. Their true mean is known to be
    zero, so their spread has as many degrees of freedom as there are of them: s₀² = Σd²/n, and the floor is
    t(n) · s₀ / √pairs. A factor above 1 for a comparison by ratio, a difference otherwise; None for fewer than two copies,
    and where the copies did not differ at all. Source: Bland and Altman (1996), Measurement error, BMJ 313; Student (1908).
    """
    if len(copies) < 2 or pairs < 1 or not any(copies):
        return None
    half = float(stats.t.ppf((1 + level) / 2, len(copies))) * _root_mean_square(copies) / math.sqrt(pairs)
    if comparison == "difference":
        return half
    return math.exp(half) if half < 10 else None


def disagree(changes: Sequence[float], copies: Sequence[float]) -> bool:
    """Whether replicates scatter more about their mean than equal servers do about none: an F test at 1 %, one-sided.

    False where either has too few values to tell. Source: Snedecor and Cochran, Statistical Methods, 8th edition, §6.12.
    """
    if len(changes) < 2 or len(copies) < 2 or not any(copies):
        return False
    ratio = float(np.var(np.asarray(changes, float), ddof=1)) / _root_mean_square(copies) ** 2
    return bool(stats.f.sf(ratio, len(changes) - 1, len(copies)) < _DISAGREEMENT)


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values) / len(values))
