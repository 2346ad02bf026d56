"""Who is generated with whom, and when each sequence has ended. Knows no tensor, no clock and no connection."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]

Stepped = Callable[[Sequence[int]], Sequence[bool]]
"""Told the tokens of a step, one a place; says for each place whether its sequence has ended."""


@dataclass(slots=True, eq=False)
class Request:
    """A request for `most_tokens` tokens after the token ids `prompt`. `arrived_s` is on the clock of the caller."""

    prompt: Sequence[int]
    most_tokens: int
    ignore_end: bool
    arrived_s: float
    gone: bool = False
    """Its client has closed the connection: nobody reads what it would still be given."""


@dataclass(frozen=True, slots=True)
class Produced:
    """A token that one request was given. `finish_reason` with its last."""

    request: Request
    token: int
    finish_reason: FinishReason | None


class WaitingLine:
    """Requests that wait for a batch, first come, first served."""

    def __init__(self, most: int, patience_s: float) -> None:
        self._most = most
        self._patience_s = patience_s
        self._line: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, request: Request) -> None:
        """Queue `request`."""
        self._line.append(request)

    def remove(self, request: Request) -> bool:
        """Take `request` out; whether it was still waiting."""
        if request not in self._line:
            return False
        self._line.remove(request)
        return True

    def due_in_s(self, now_s: float) -> float | None:
        """Seconds until a batch may be taken: 0 where one is full or its first has waited long enough; None: nobody waits."""
        if not self._line:
            return None
        if len(self._line) >= self._most:
            return 0.0
        return max(0.0, self._line[0].arrived_s + self._patience_s - now_s)

    def take(self) -> list[Request]:
        """The requests of the next batch, which no longer wait."""
        return [self._line.popleft() for _ in range(min(self._most, len(self._line)))]


class Batch:
    """Requests that are generated together, one place each, until the last of them has its tokens.

    `end_tokens`: ids at which a sequence ends by itself, unless its request ignores them.
    """

    def __init__(self, requests: Sequence[Request], end_tokens: frozenset[int]) -> None:
        self.requests = tuple(requests)
        self.finished = [False] * len(self.requests)
        """For each place whether its sequence has ended: it goes on computing, for nobody."""
        self._end_tokens = end_tokens
        self._given = [0] * len(self.requests)
        self._stopped = False

    @property
    def padded_tokens(self) -> int:
        """Tokens that only fill prompts up to the longest."""
        return len(self.requests) * self._longest_prompt - sum(len(request.prompt) for request in self.requests)

    @property
    def most_steps(self) -> int:
        """Steps until the longest output is done, if nothing ends by itself."""
        return max(request.most_tokens for request in self.requests)

    @property
    def _longest_prompt(self) -> int:
        return max(len(request.prompt) for request in self.requests)

    def padded(self, pad_token: int) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids and mask (0: padding), each places × longest prompt.

        The padding is on the left: a decoder goes on at the right end, where every prompt must have its last token.
        """
        missing = [self._longest_prompt - len(request.prompt) for request in self.requests]
        ids = [[pad_token] * pads + list(request.prompt) for pads, request in zip(missing, self.requests, strict=True)]
        mask = [[0] * pads + [1] * len(request.prompt) for pads, request in zip(missing, self.requests, strict=True)]
        return ids, mask

    def step(self, tokens: Sequence[int]) -> list[Produced]:
        """What a step that made `tokens`, one a place, gives to those whose sequences had not ended; updates `finished`."""
        produced = []
        for place, (request, token) in enumerate(zip(self.requests, tokens, strict=True)):
            if self._stopped or request.gone:
                self.finished[place] = True
            if self.finished[place]:
                continue
            self._given[place] += 1
            reason: FinishReason | None = None
            if token in self._end_tokens and not request.ignore_end:
                reason = "stop"
            elif self._given[place] == request.most_tokens:
                reason = "length"
            self.finished[place] = reason is not None
            produced.append(Produced(request, token, reason))
        return produced

    def stop(self) -> None:
        """Give nobody anything more: the next step is the last."""
        self._stopped = True
