"""Many comparisons: Holm's step-down procedure, and the intervals that go with it."""

from collections.abc import Sequence
from typing import Final

ALPHA: Final = 0.05
"""The chance, over a whole family, of finding a difference where there is none."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: reject what is at most α, and the chance of a false rejection in the family is at most α.

    In ascending order p(1) … p(m), the i-th is max over j ≤ i of min(1, (m - j + 1) · p(j)). Source: Holm (1979), A simple
    sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6; adjusted form: Wright (1992).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(_ascending(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """For each p value the confidence level of the interval that agrees with Holm's decision on it.

    It is 1 - α / (m - i + 1) for the i-th rejection and, with r rejections, 1 - α / (m - r) for all that are left: an
    interval at this level leaves out "no change" exactly when the adjusted p value is at most α. Each interval has at least
    its own level; together they have not (`bonferroni_level` gives intervals that have). Source: Ludbrook (2000), Multiple
    inferences using confidence intervals, Clinical and Experimental Pharmacology and Physiology 27.
    """
    count = len(p_values)
    order = _ascending(p_values)
    rejected = next((rank for rank in range(count) if (count - rank) * p_values[order[rank]] > alpha), count)
    levels = [0.0] * count
    for rank, place in enumerate(order):
        levels[place] = 1 - alpha / (count - min(rank, rejected))
    return levels


def bonferroni_level(count: int, alpha: float = ALPHA) -> float:
    """The level 1 - α / m of each of m intervals that all hold together with a chance of at least 1 - α.

    Source: Dunn (1961), Multiple comparisons among means, Journal of the American Statistical Association 56.
    """
    return 1 - alpha / max(count, 1)


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=lambda place: p_values[place])
