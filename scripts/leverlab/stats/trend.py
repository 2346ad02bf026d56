"""How fast values grow over time, whatever single ones do."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MOST: Final = 1000
"""Values that the slope is taken from: it looks at every pair of them, half a million, and memory grows with their square."""


def robust_slope(at_s: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Median of the slopes between all pairs of values, per second; of more than MOST values, every k-th in their order.

    Sources: Theil (1950), Nederl. Akad. Wetensch. Proc. 53; Sen (1968), JASA 63. Neither array may hold NaN.
    """
    order = np.argsort(at_s, kind="stable")[:: -(-len(at_s) // MOST)]
    return float(stats.theilslopes(values[order], at_s[order]).slope)
