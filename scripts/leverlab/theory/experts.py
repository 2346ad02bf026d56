"""How a mixture's experts are loaded where tokens are routed to them uniformly."""

import numpy as np
from scipy.stats import binom


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
