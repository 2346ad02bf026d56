"""What drawing a workload yields, before it is written."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrawnRequest:
    """A prompt of `prompt_tokens`, what the tokenizer adds included, and how many tokens are asked for.

    `group` names the requests that it belongs to. A request of a conversation is due `pause_ns` after the end of the one
    with the index `after`; where that is None it comes by its arrival. One that joins several waits for all of them. `priority` goes into its body, unless it is None.
    `adapter` is the LoRA adapter that is asked; None: the base model.
    """

    prompt: str
    prompt_tokens: int
    output_tokens: int
    group: str | None = None
    after: int | None = None
    pause_ns: int = 0
    priority: int | None = None
    joins: tuple[int, ...] = ()
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """The requests of a workload in the order of its file, and what they share in a sentence for the card.

    `rounds` is how many requests follow one arrival: 1 but for conversations.
    """

    requests: Sequence[DrawnRequest]
    sharing: str | None = None
    rounds: int = 1
