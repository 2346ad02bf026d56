"""What goes into an offline batch and what comes out of it, whichever engine makes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from leverlab.static_batching.api import Asked, Tokenizer


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer of a batch. `prompt`: its text, or the ids of its tokens."""

    prompt: str | Sequence[int]
    output_tokens: int
    ignore_end: bool = True

    @classmethod
    def of(cls, asked: Asked) -> "Wanted":
        """The answer that a request of OpenAI's interface asks for."""
        return cls(asked.prompt, asked.most_tokens, asked.ignore_end)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer. The engine's own stamps are seconds of CLOCK_MONOTONIC; None where it keeps none."""

    prompt_tokens: int
    tokens: Sequence[int]
    text: str
    cached_tokens: int | None
    finish_reason: str
    first_token_s: float | None
    last_token_s: float | None


@dataclass(frozen=True, slots=True)
class Done:
    """A batch that has ended: when `generate` was called and when it returned (ns of CLOCK_MONOTONIC), and its answers in order."""

    called_ns: int
    returned_ns: int
    answers: Sequence[Answered]


class Model(Tokenizer, Protocol):
    """What the front needs of the engine. All but `metrics` and `told` is called in the thread that computes."""

    version: str
    context_tokens: int
    vocabulary: int

    def generate(self, batch: list[Wanted]) -> Done:
        """All of a batch, in one call."""

    def reset_prefix_cache(self, *, tiers: bool) -> bool:
        """Empty the prefix cache; whether it was."""

    def metrics(self) -> bytes:
        """The text of `/metrics`."""

    def told(self) -> Mapping[str, Any]:
        """What `/server_info` tells."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the program was told by its flags, and how the engine is made of them."""

    host: str
    port: int
    served_model_name: str
    make: Callable[[], Model]
