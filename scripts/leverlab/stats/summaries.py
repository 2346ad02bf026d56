"""A statistic of one cell's values, as leverlab.metrics names them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from leverlab.metrics import MINIMUM_SAMPLES

PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def statistic_of(values: NDArray[np.float64], statistic: str) -> float | None:
    """`mean`, or a percentile by linear interpolation between order statistics; None of fewer values than it needs.

    Source: Hyndman and Fan (1996), Sample quantiles in statistical packages, type 7.
    """
    if len(values) < MINIMUM_SAMPLES[statistic]:
        return None
    return float(np.mean(values)) if statistic == "mean" else float(np.quantile(values, PERCENTILES[statistic]))
