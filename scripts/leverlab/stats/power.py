"""How small a change could have been seen."""

import functools
import math
from typing import Final

import numpy as np
from scipy import optimize, stats

from leverlab.metrics import Comparison
from leverlab.stats.multiple import ALPHA

POWER: Final = 0.8

_NODES, _WEIGHTS = (
    array * scale for array, scale in zip(np.polynomial.legendre.leggauss(400), (1.0, 0.5), strict=True)
)


def minimum_detectable(
    spread: float | None, pairs: int, comparison: Comparison, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """The change that a paired t test at `alpha` (two-sided) would have found with chance `power`, given this spread.

    `spread` is the standard deviation of the paired changes (log ratios or differences) and taken as the true one. The
    result is a factor above 1 for a comparison by ratio (its inverse is found as well), a difference otherwise. None
    without a spread, and where the factor is beyond all use (e¹⁰). Source: Cohen, Statistical Power Analysis, 2nd edition,
    §2.3 for paired samples, with the noncentral t distribution.
    """
    if spread is None or pairs < 2:
        return None
    change = _noncentrality(pairs - 1, alpha, power) * spread / math.sqrt(pairs)
    if comparison == "difference":
        return change
    return math.exp(change) if change < 10 else None


@functools.cache
def _noncentrality(freedom: int, alpha: float, power: float) -> float:
    """Of a t statistic that passes its two-sided critical value at `alpha` with chance `power`."""
    critical = float(stats.t.ppf(1 - alpha / 2, freedom))

    # The noncentral t distribution as a normal one averaged over the chi-square of the spread: SciPy's own has gaps (NaN)
    # at one degree of freedom and the large noncentralities that few replicates need.
    scales = np.sqrt(stats.chi2.ppf((_NODES + 1) / 2, freedom) / freedom) * critical

    def missing_power(noncentrality: float) -> float:
        found = stats.norm.sf(scales - noncentrality) + stats.norm.cdf(-scales - noncentrality)
        return float(np.dot(_WEIGHTS, found)) - power

    return float(optimize.brentq(missing_power, 0.0, 4 * critical + 10))
