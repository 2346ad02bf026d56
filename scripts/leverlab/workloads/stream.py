"""Random numbers that are the same on every machine, for ever.

NumPy promises that the raw output of a bit generator never changes, and promises nothing of the kind for the
distributions drawn from it (NEP 19), which also depend on the machine's mathematical library. So only raw 64-bit words
of Philox are taken, and everything else is integer arithmetic, or `decimal`, whose logarithm is correctly rounded.
"""

from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import TypeVar

import numpy as np

from leverlab.identity import seed_from

Item = TypeVar("Item")

_BLOCK = 1024


class Stream:
    """A sequence of random words that depends on `seed` and `name` alone. Streams of other names are independent."""

    def __init__(self, seed: int, name: str) -> None:
        self._generator = np.random.Philox(key=seed_from(seed, name))
        self._words: list[int] = []

    def _word(self) -> int:
        if not self._words:
            self._words = [int(word) for word in self._generator.random_raw(_BLOCK)][::-1]
        return self._words.pop()

    def below(self, limit: int) -> int:
        """An integer in [0, limit), each as likely as any other (to within limit / 2^64)."""
        return self._word() * limit >> 64

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both included."""
        return low + self.below(high - low + 1)

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """`items` in a random order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def distinct(self, count: int, limit: int) -> list[int]:
        """`count` different integers in [0, limit), in random order (Floyd, then shuffled)."""
        chosen: dict[int, None] = {}
        for upper in range(limit - count, limit):
            candidate = self.below(upper + 1)
            chosen[upper if candidate in chosen else candidate] = None
        return self.shuffled(list(chosen))

    def weighted(self, weights: Sequence[int]) -> int:
        """An index of `weights`, as likely as its weight."""
        left = self.below(sum(weights))
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        raise AssertionError("a draw below the sum of the weights falls on one of them")

    def exponential_ns(self) -> int:
        """An exponentially distributed time of mean 1 s, in whole nanoseconds."""
        with localcontext() as context:
            context.prec = 28
            uniform = Decimal(self._word() + 1) / Decimal(2**64)
            return int((-uniform.ln() * 10**9).to_integral_value())
