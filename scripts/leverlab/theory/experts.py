"""How a mixture's experts are loaded where tokens are routed to them uniformly."""

import numpy as np
from scipy.stats import binom, hypergeom


def experts_read(experts: int, per_token: int, batch: float) -> float:
    """Experts of a layer that `batch` tokens need together, expected: E (1 - (1 - k/E)^batch).

    Each token takes `per_token` different experts, uniformly. A trained router is uneven, so that it needs fewer.
    """
    return float(experts * (1 - (1 - per_token / experts) ** batch))


def expert_imbalance(experts: int, per_token: int, batch: int) -> float:
    """Tokens of the busiest expert / tokens of a mean one, expected, for `batch` tokens that take `per_token` of `experts`.

    Loads are binomial, and experts are taken as independent (they share a sum, so that the truth is a little more):
    E[max] = Σ_m (1 - F(m)^E). 1 would be perfect balance; the layer waits for its busiest expert. Raises ValueError for no token.
    """
    if batch < 1:
        raise ValueError("no token is routed: the batch is empty")
    share = per_token / experts
    below = binom.cdf(np.arange(batch), batch, share)
    return float(np.sum(1 - below**experts)) / (batch * share)


def gpu_imbalance(experts: int, per_token: int, batch: int, gpus: int) -> float:
    """Tokens that come to the busiest of `gpus` / to a mean one, expected, where each holds an equal share of a layer's experts.

    A token takes `per_token` different experts uniformly and counts once for each, so that a GPU's load is a sum of `batch` hypergeometric
    numbers. Of two GPUs the other has the rest, and E[max] is exact; of more they are taken as independent, as above. Raises ValueError
    for no token, and for experts that the GPUs do not share evenly.
    """
    if batch < 1 or experts % gpus:
        raise ValueError("no token is routed, or the experts are not shared evenly")
    one = hypergeom.pmf(np.arange(per_token + 1), experts, experts // gpus, per_token)
    load = np.ones(1)
    for _ in range(batch):
        load = np.convolve(load, one)
    mean = batch * per_token / gpus
    if gpus == 2:
        tokens = np.arange(len(load))
        return float(np.sum(load * np.maximum(tokens, batch * per_token - tokens))) / mean
    return float(np.sum(1 - np.cumsum(load) ** gpus)) / mean
