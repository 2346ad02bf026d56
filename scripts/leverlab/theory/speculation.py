"""What speculative decoding is expected to give.

Source: Leviathan, Kalman and Matias (2023), Fast Inference from Transformers via Speculative Decoding, ICML.
"""

from scipy.optimize import brentq


def tokens_per_draft(acceptance: float, drafted: int) -> float:
    """Tokens that a verified draft of `drafted` tokens gives, each accepted with probability `acceptance` after the one before.

    (1 - a^(k+1)) / (1 - a), equation 1: a = 0.8 and k = 5 give 3.69. The course's k·a + 1 would be 5; it forgets that all after
    a rejected token are lost. Raises ValueError where `acceptance` is no probability.
    """
    if not 0 <= acceptance <= 1:
        raise ValueError(f"an acceptance of {acceptance:g} is no probability")
    return drafted + 1.0 if acceptance == 1 else (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


def acceptance_of(accepted_share: float, drafted: int) -> float:
    """The acceptance a at which the share of drafted tokens that are accepted, which servers count, is `accepted_share`.

    The share is (tokens per draft - 1) / k and below a, as tokens after a rejected one count as drafted. Raises ValueError where
    it is no share.
    """
    if not 0 <= accepted_share <= 1:
        raise ValueError(f"{accepted_share:g} is no share of drafted tokens")
    if accepted_share in (0, 1):
        return float(accepted_share)
    return float(brentq(lambda a: (tokens_per_draft(a, drafted) - 1) / drafted - accepted_share, 0, 1))


def speedup(tokens: float, drafted: int, draft_cost: float) -> float:
    """How much faster a request's tokens come: tokens per draft / (1 + k·c), theorem 3.8.

    `draft_cost` is the time of a drafted token / the time of the model's step: 0 for n-grams, about the ratio of the weights for
    a draft model where both wait for memory. It supposes that verifying k + 1 tokens takes no longer than a step of one,
    which holds at small batches only.
    """
    return tokens / (1 + drafted * draft_cost)
