"""Dealing cores to those who compute side by side."""

from collections.abc import Sequence


def dealt(cores: Sequence[int], shares: int) -> list[list[int]]:
    """`cores` dealt to `shares`, in neighbouring groups of one size; with fewer cores than shares they are shared."""
    if len(cores) < shares:
        return [[cores[share % len(cores)]] if cores else [] for share in range(shares)]
    each = len(cores) // shares
    return [list(cores[share * each : (share + 1) * each]) for share in range(shares)]
