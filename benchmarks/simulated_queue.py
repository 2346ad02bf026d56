"""A queueing server, simulated: four seats, heavy-tailed work, an effect of each server's lifetime and of each replicate's node.

Many replicates are computed at once by the recursion of Kiefer and Wolfowitz (1955), On the theory of queues with many servers,
Transactions of the American Mathematical Society 78: each request takes the seat that is free first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SLOTS: Final = 4
PREFILL_S: Final = 0.1
TOKEN_S: Final = 0.008
TOKENS: Final = 48
"""Median generated tokens of a request; they are lognormal."""
TOKENS_SPREAD: Final = 0.8
LIFETIME_SPREAD: Final = 0.03
NODE_SPREAD: Final = 0.10

WORK_S: Final = PREFILL_S + TOKEN_S * (TOKENS * math.exp(TOKENS_SPREAD**2 / 2) - 1)
"""What a request takes of a seat, on average."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a batch of cells saw: `scheduled_s`, `first_s`, `last_s`, `tokens`, each of shape (cells, requests)."""

    scheduled_s: Array
    first_s: Array
    last_s: Array
    tokens: Array


def rate_at(utilisation: float) -> float:
    """Requests/s that take the share `utilisation` of the seats' time of a server whose factor is 1."""
    return utilisation * SLOTS / WORK_S


def serve(
    generator: np.random.Generator, replicates: int, factors: Sequence[float], requests: int, rate: float | None
) -> list[Served]:
    """The cells of as many servers as `factors` (factor on the time of work) over `replicates`, each with its own node.

    Servers of a replicate replay the same arrivals and lengths, at `rate` requests/s or, with None, all at once. First come,
    first served.
    """
    shape = (replicates, requests)
    # Drawn for a burst too, so that lengths do not depend on the load.
    gaps = generator.exponential(1.0, shape)
    scheduled_s = np.zeros(shape) if rate is None else np.cumsum(gaps / rate, axis=1)
    tokens = np.clip(np.rint(generator.lognormal(math.log(TOKENS), TOKENS_SPREAD, shape)), 2, 1024)
    node = np.exp(generator.normal(0, NODE_SPREAD, (replicates, 1)))
    served = []
    for factor in factors:
        speed = factor * node * np.exp(generator.normal(0, LIFETIME_SPREAD, (replicates, 1)))
        # Pareto with a shape of 2.5: a finite variance, and a far tail.
        prefill_s = speed * PREFILL_S * (0.6 + 0.6 * generator.pareto(2.5, shape))
        decode_s = speed * TOKEN_S * (tokens - 1)
        free_s, rows = np.zeros((replicates, SLOTS)), np.arange(replicates)
        first_s, last_s = np.empty(shape), np.empty(shape)
        for number in range(requests):
            slot = free_s.argmin(axis=1)
            start_s = np.maximum(free_s[rows, slot], scheduled_s[:, number])
            first_s[:, number] = start_s + prefill_s[:, number]
            last_s[:, number] = first_s[:, number] + decode_s[:, number]
            free_s[rows, slot] = last_s[:, number]
        served.append(Served(scheduled_s, first_s, last_s, tokens))
    return served
