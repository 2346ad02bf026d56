"""What tokens cost: the hours of the GPUs that make them, and the energy that these take."""

from typing import Final

JOULES_PER_KWH: Final = 3.6e6
"""A kilowatt for an hour."""

_MILLION: Final = 1e6


def gpu_cost_per_million_tokens(price_per_gpu_hour: float, gpus: int, tokens_per_s: float) -> float:
    """Price of a million output tokens by GPU-hours, in the currency of `price_per_gpu_hour`: price × GPUs × 10⁶ / (3600 × tokens/s).

    A GPU that waits costs the same, so that the rate is that of the traffic one has. Raises ValueError where there are no tokens.
    """
    if tokens_per_s <= 0:
        raise ValueError("a server that makes no tokens has no price a token")
    return price_per_gpu_hour * gpus * _MILLION / (3600 * tokens_per_s)


def energy_cost_per_million_tokens(price_per_kwh: float, joules_per_token: float) -> float:
    """Price of the energy of a million output tokens, in the currency of `price_per_kwh`: price × J/token × 10⁶ / 3.6·10⁶.

    The energy is that of the boards: hosts, cooling and losses are not in it.
    """
    return price_per_kwh * joules_per_token * _MILLION / JOULES_PER_KWH
