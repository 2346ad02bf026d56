"""What tokens cost."""


def cost_per_1k_tokens(price_per_gpu_hour: float, gpus: int, tokens_per_s: float) -> float:
    """Price of a thousand output tokens, in the currency of `price_per_gpu_hour`: price × GPUs × 1000 / (3600 × tokens/s).

    A GPU that waits costs the same, so that the rate is that of the traffic one has. Raises ValueError where there are no tokens.
    """
    if tokens_per_s <= 0:
        raise ValueError("a server that makes no tokens has no price a token")
    return price_per_gpu_hour * gpus * 1000 / (3600 * tokens_per_s)
