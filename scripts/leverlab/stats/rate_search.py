"""The highest rate that meets objectives, found in few trials of rates: a bracket by doubling, then the ITP method.

Sources: Oliveira and Takahashi (2021), An Enhancement of the Bisection Method Average Performance Preserving Minmax Optimality,
ACM Transactions on Mathematical Software 47(1): on average fewer steps than bisection, and at most one more than it. It
works on the logarithm of the rate and takes of each trial by how much the objectives were missed or met.
"""

import math
from typing import Final

_DOUBLINGS: Final = 6
"""How often the first rate is halved or doubled until a bracket is called out of reach."""
_SLACK: Final = 1
"""Steps that the ITP method may take more than bisection (its n0)."""


class RateSearch:
    """Asks for rates (`next_rate`) and is told how each went (`tell`), until the answer is known to `precision`.

    `met` is the highest rate that met the objectives and `missed` the lowest above it that did not; the search ends with
    missed / met <= 1 + precision, or at a bound. It supposes that a rate above one that misses would miss too, and never asks.
    """

    def __init__(
        self, start: float, precision: float, lowest: float | None = None, highest: float | None = None
    ) -> None:
        """`start`, `lowest` and `highest` in requests/s; a bound that is not given is 64 times away from the start, or the other."""
        if precision <= 0:
            raise ValueError(f"the precision must be positive: {precision}")
        self._lowest = min(start / 2**_DOUBLINGS, highest or math.inf) if lowest is None else lowest
        self._highest = max(start * 2**_DOUBLINGS, lowest or 0.0) if highest is None else highest
        if self._lowest > self._highest:
            raise ValueError(f"the lowest rate {self._lowest:g} is above the highest {self._highest:g}")
        self._start = min(max(start, self._lowest), self._highest)
        self._width = math.log1p(precision)
        self._margins: dict[float, float] = {}
        self._first_width: float | None = None
        self._steps = 0
        self.met: float | None = None
        self.missed: float | None = None

    @property
    def settled(self) -> bool:
        """Whether the answer is known to the precision."""
        return self.met is not None and self.missed is not None and self._log_width() <= self._width * (1 + 1e-9)

    def tell(self, rate: float, margin: float) -> None:
        """How the trial of `rate` went: `margin` <= 0 where every objective was met, the larger the worse one was missed.

        It is the logarithm of the worst ratio of what was seen to its limit; infinite where there is no such ratio.
        """
        self._margins[rate] = margin
        if margin <= 0:
            self.met = rate if self.met is None else max(self.met, rate)
        else:
            self.missed = rate if self.missed is None else min(self.missed, rate)

    def next_rate(self) -> float | None:
        """The rate to try next, in requests/s; None where the search has ended."""
        if self.met is None and self.missed is None:
            return self._start
        if self.missed is None:
            assert self.met is not None
            return None if self.met >= self._highest else min(self.met * 2, self._highest)
        if self.met is None:
            return None if self.missed <= self._lowest else max(self.missed / 2, self._lowest)
        return None if self.settled or self.met >= self.missed else self._between(self.met, self.missed)

    def _log_width(self) -> float:
        assert self.met is not None and self.missed is not None
        return math.log(self.missed / self.met)

    def _between(self, met: float, missed: float) -> float:
        """A step of the ITP method: interpolated, truncated towards the middle, projected onto what bisection would leave."""
        low, high, width = math.log(met), math.log(missed), self._log_width()
        if self._first_width is None:
            self._first_width = width
        half = (low + high) / 2
        bisections = math.ceil(math.log2(self._first_width / self._width)) + _SLACK
        reach = max(self._width / 2 * 2 ** (bisections - self._steps) - width / 2, 0.0)
        self._steps += 1
        below, above = self._margins[met], self._margins[missed]
        if not (math.isfinite(below) and math.isfinite(above)):
            return math.exp(half)
        interpolated = (above * low - below * high) / (above - below)
        side = math.copysign(1.0, half - interpolated)
        nudge = 0.2 / self._first_width * width**2
        near = interpolated + side * nudge if nudge <= abs(half - interpolated) else half
        # No nearer to an end than the precision: a trial there could not tell more.
        near = min(max(near, low + self._width / 2), high - self._width / 2)
        return math.exp(near if abs(near - half) <= reach else half - side * reach)
