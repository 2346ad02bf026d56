"""Warm-up: requests that are in no workload, until two windows in a row agree.

What a first request meets (compilation, allocation, first shapes) must not be in a measurement. A window is a few requests
one after another with the lengths of the workload's; two agree where their medians of TTFT and of TPOT differ by at most a
tenth. On a machine that never becomes steady the warm-up ends all the same, and says so.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from leverlab.identity import seed_from
from leverlab.load.plan import PlannedRequest
from leverlab.models.words import added_tokens, word_tokens

AGREEMENT: Final = 0.1
"""By how much the medians of two windows may differ, as a share of the larger."""

MAXIMUM_WINDOWS: Final = 6
REQUESTS_PER_WINDOW: Final = 3
MAXIMUM_OUTPUT_TOKENS: Final = 8
"""Enough tokens for a TPOT; the workload's outputs would only make the warm-up longer."""

PATIENCE_S: Final = 6.0
"""After the third window a further one is begun only within this time from the start of the second: the first may compile for minutes."""


@dataclass(frozen=True, slots=True)
class Window:
    """Medians of one window, in seconds; None where no request of it told."""

    ttft_s: float | None
    tpot_s: float | None

    def agrees(self, other: "Window") -> bool:
        """Whether both medians are known and agree; a TPOT that neither has is no disagreement."""
        pairs = [(self.ttft_s, other.ttft_s)]
        if self.tpot_s is not None or other.tpot_s is not None:
            pairs.append((self.tpot_s, other.tpot_s))
        return all(a is not None and b is not None and abs(a - b) <= AGREEMENT * max(a, b) for a, b in pairs)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The windows in order, and whether the last two agreed."""

    windows: list[Window]
    steady: bool

    def as_mapping(self) -> dict[str, Any]:
        """As trial.json keeps it."""
        return asdict(self)


class PromptMaker:
    """Makes prompts of given lengths from a model's own words, drawn from a seed that no workload uses."""

    def __init__(self, model_folder: Path, *seed: object) -> None:
        tokenizer = model_folder / "tokenizer.json"
        self._words = word_tokens(tokenizer)
        self._added = added_tokens(tokenizer)
        self._draw = random.Random(seed_from("not a workload", *seed))
        self._made = 0

    def request(self, prompt_tokens: int, output_tokens: int) -> PlannedRequest:
        """A request whose prompt has `prompt_tokens` tokens (at least one word) and was not made before."""
        words = self._draw.choices(self._words, k=max(prompt_tokens - self._added, 1))
        self._made += 1
        return PlannedRequest(
            self._made - 1, f"warmup-{self._made - 1}", " ".join(words), prompt_tokens, output_tokens, 0.0
        )


def window_lengths(requests: Sequence[PlannedRequest]) -> list[tuple[int, int]]:
    """(prompt tokens, output tokens) of a window's requests: spread evenly over the workload's, in the order of length."""
    ordered = sorted((request.prompt_tokens, request.output_tokens) for request in requests)
    at = [(2 * part + 1) * len(ordered) // (2 * REQUESTS_PER_WINDOW) for part in range(REQUESTS_PER_WINDOW)]
    return [(ordered[i][0], min(ordered[i][1], MAXIMUM_OUTPUT_TOKENS)) for i in at]


def warm_up(
    lengths: Sequence[tuple[int, int]],
    prompts: PromptMaker,
    send: Callable[[Sequence[PlannedRequest]], pa.Table],
    clock: Callable[[], float] = time.monotonic,
) -> WarmUp:
    """Send windows of requests of `lengths` until two in a row agree, at most `MAXIMUM_WINDOWS`.

    `send` offers requests one after another and returns the table of `leverlab.load.schema.REQUESTS`.
    """
    windows: list[Window] = []
    second_at = clock()
    while len(windows) < MAXIMUM_WINDOWS:
        if len(windows) == 1:
            second_at = clock()
        table = send([prompts.request(*length) for length in lengths])
        windows.append(Window(_median(table, "ttft_s"), _median(table, "tpot_s")))
        if len(windows) > 1 and windows[-1].agrees(windows[-2]):
            return WarmUp(windows, True)
        if len(windows) > 2 and clock() - second_at > PATIENCE_S:
            break
    return WarmUp(windows, False)


def _median(table: pa.Table, name: str) -> float | None:
    values = [value for value in table.column(name).to_pylist() if value is not None]
    return statistics.median(values) if values else None
