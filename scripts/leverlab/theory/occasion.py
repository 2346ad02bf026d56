"""What theory needs to know of a cell besides its server: lengths, how many requests run, and what the server was seen to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leverlab.config.workload import SharedPrefix
from leverlab.theory.unknown import NotKnownError


@dataclass(frozen=True, slots=True)
class Occasion:
    """A load on a server. What is not known is None, or empty; what asks for it raises NotKnownError."""

    prompts: Sequence[int] = ()
    """Tokens of each request's prompt."""
    outputs: Sequence[int] = ()
    """Tokens of each request's output."""
    running: float | None = None
    """Requests that run at once, of all copies of the model."""
    ideal_hits: Mapping[int, float] = field(default_factory=dict)
    """Tokens of a block → hit ratio of an ideal prefix cache that starts empty, from the workload's card."""
    shared: SharedPrefix | None = None
    """The workload, where its prompts share prefixes in groups: enough to know the hits of any block size without the prompts."""
    cold: bool = True
    """Whether the prefix cache is empty at first."""
    hit_ratio: float | None = None
    """Share of the prompts' tokens that was served from a cache or a tier below it, as measured."""
    kv_tokens: float | None = None
    """Tokens that the KV cache holds, as the server says."""
    accepted_share: float | None = None
    """Accepted / drafted tokens, as measured."""
    tokens_per_draft: float | None = None
    """Tokens that a verified draft gave, as measured."""

    @property
    def prompt_tokens(self) -> float:
        """Tokens of a mean prompt."""
        return _mean(self.prompts, "prompts")

    @property
    def output_tokens(self) -> float:
        """Tokens of a mean output."""
        return _mean(self.outputs, "outputs")

    @property
    def context_tokens(self) -> float:
        """Tokens before the one that a step makes, on average: the prompt and half of the output."""
        return self.prompt_tokens + self.output_tokens / 2

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and output of each request."""
        if not self.prompts or not self.outputs:
            raise NotKnownError("no request tells its length")
        return [prompt + output for prompt, output in zip(self.prompts, self.outputs, strict=True)]


def _mean(values: Sequence[int], what: str) -> float:
    if not values:
        raise NotKnownError(f"no request tells the length of its {what.removesuffix('s')}")
    return sum(values) / len(values)
