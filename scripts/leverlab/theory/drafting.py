"""How a server speculates, as its flags and environment say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from leverlab.theory.memory import kv_bytes_per_token
from leverlab.theory.server import TheoryServer
from leverlab.theory.speculation import tokens_per_draft
from leverlab.theory.unknown import DoesNotApplyError, NotKnownError
from leverlab.theory.weights import step_weight_bytes, weights_bytes

_LOOKED_UP: Final = {"ngram", "ngram_gpu", "suffix"}
"""Methods whose drafts are looked up in the text: they cost no step of a model."""

_HEADS: Final = {"eagle", "eagle3"}
"""Methods whose drafts come from a head on the model's hidden states, whose matrices are others than those of a model of its shape."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """A server's speculation."""

    tokens: int
    """Tokens of a draft: k."""
    method: str
    declared: float | None
    """Tokens that a draft gives, where the server is told: synthetic acceptance. None where it depends on the text."""

    def cost(self, server: TheoryServer) -> float:
        """Time of a drafted token / time of the model's step, both waiting for memory: the ratio of the bytes that they read.

        Raises NotKnownError where the draft model's dimensions are not known, and for an EAGLE head.
        """
        if self.method in _LOOKED_UP:
            return 0.0
        if server.draft is None or self.method in _HEADS:
            raise NotKnownError(f"what a drafted token costs with the method {self.method!r} is not known")
        return step_weight_bytes(server.draft, server.draft.dtype, None, 1) / server.step_bytes_of_weights(1)


def drafting_of(server: TheoryServer) -> Drafting:
    """The speculation of `server`. Raises NotKnownError where it does none."""
    flags, told = server.flags, _speculative_config(server.flags)
    if "num_speculative_tokens" in told:
        return Drafting(int(told["num_speculative_tokens"]), str(told.get("method", "")), _synthetic(told))
    if "speculative-num-draft-tokens" in flags:
        # SGLang counts the model's own token among them.
        length = server.environment.get("SGLANG_SIMULATE_ACC_LEN")
        method = str(flags.get("speculative-algorithm", "")).lower()
        return Drafting(
            int(flags["speculative-num-draft-tokens"]) - 1, method, None if length is None else float(length)
        )
    if server.engine == "truth" and "acceptance" in flags:
        drafted = int(flags.get("tokens-per-chunk", 1)) - 1
        return Drafting(drafted, "truth", tokens_per_draft(float(flags["acceptance"]), drafted))
    raise DoesNotApplyError("the server does not speculate")


def draft_weights(server: TheoryServer) -> float:
    """Bytes of the drafting model's weights on one GPU; 0 where none drafts. Raises NotKnownError for an EAGLE head.

    They are split over the GPUs as the model's are.
    """
    if server.draft is None:
        return 0.0
    method = drafting_of(server).method
    if method in _HEADS:
        raise NotKnownError(f"what the weights of a head of the method {method!r} take is not known")
    return weights_bytes(server.draft, server.draft.dtype, None) / server.split


def draft_kv_bytes(server: TheoryServer) -> float:
    """KV cache that the drafting model keeps of a token, on one GPU; 0 where none drafts. Raises as `draft_weights` does."""
    if server.draft is None:
        return 0.0
    draft_weights(server)
    kv_type = str(server.flags.get("kv-cache-dtype", "auto"))
    return kv_bytes_per_token(server.draft, kv_type) * max(1 / server.tensor_parallel, 1 / server.draft.kv_heads)


def speculates(server: TheoryServer) -> bool:
    """Whether a step may give several tokens, so that a floor of the step is none of the time per token."""
    told = any(name.startswith(("speculative-config", "speculative-algorithm")) for name in server.flags)
    return told or (server.engine == "truth" and int(server.flags.get("tokens-per-chunk", 1)) > 1)


def _speculative_config(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """vLLM's, whether it is given as a mapping or by dotted flags."""
    given = flags.get("speculative-config", {})
    dotted = {name.partition(".")[2]: value for name, value in flags.items() if name.startswith("speculative-config.")}
    return {**(given if isinstance(given, Mapping) else {}), **dotted}


def _synthetic(told: Mapping[str, Any]) -> float | None:
    if told.get("synthetic_acceptance_length") is not None:
        return float(told["synthetic_acceptance_length"])
    rates = told.get("synthetic_acceptance_rates")
    # The rate of a position is the probability that the draft is accepted up to there.
    return None if rates is None else 1 + sum(map(float, rates))
