"""How requests are offered to a server: a load point, the client that does it, and the state of the caches before it."""

from dataclasses import dataclass
from typing import Literal

LoadKind = Literal["rate", "concurrency", "burst", "search"]

Client = Literal["replay", "vllm-bench", "offline"]
"""leverlab's own replay client, `vllm bench serve`, or nobody: whole batches are handed to the engine's program."""

CacheState = Literal["cold", "warm", "tier", "restarted"]
"""From which state of the caches a phase starts: nothing is kept anywhere; the workload's prompts are in the engine's own
cache; they are in a tier below it alone; the same after the server was stopped and started again, as far as a tier outlives it.
"""


@dataclass(frozen=True, slots=True, order=True)
class LoadPoint:
    """`rate`: an open loop at `value` requests/s; `concurrency`: a closed loop of `value` streams; `burst`: all at once.

    `search`: open loops at rates that are tried until the highest within the objectives is known. The course calls a burst
    "rate inf". `value` is positive for a rate and a concurrency, and None otherwise.
    """

    kind: LoadKind
    value: float | None = None

    def __post_init__(self) -> None:
        if (self.kind in ("burst", "search")) != (self.value is None):
            raise ValueError(
                f"a rate and a concurrency have a value, a burst and a search have none: {self.kind} {self.value}"
            )
        if self.value is not None and not 0 < self.value < float("inf"):
            raise ValueError(
                f"{self.kind} {self.value}: must be positive; write inf for a burst (all requests at once)"
            )

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind} {_number(self.value)}"

    @property
    def slug(self) -> str:
        """The load point in an id: `rate-4`, `burst`."""
        return str(self).replace(" ", "-")

    @property
    def identity(self) -> dict[str, object]:
        """The load point's part of a phase's identity."""
        return {"kind": self.kind} if self.value is None else {"kind": self.kind, "value": self.value}

    @property
    def sort_key(self) -> tuple[int, float]:
        """Rates first, in order, then concurrencies, then the burst, then the search."""
        return (("rate", "concurrency", "burst", "search").index(self.kind), self.value or 0.0)


def _number(value: float) -> str:
    """`value` so that `parse_load_point` reads the same number again, without an exponent's `+`."""
    return str(int(value)) if float(value).is_integer() else repr(value)


def parse_load_point(text: str) -> LoadPoint:
    """The load point that `text` names: `rate 4`, `concurrency 8`, `burst`, `inf` or `rate inf`, `search`."""
    words = text.split()
    if words in (["burst"], ["inf"], ["rate", "inf"]):
        return LoadPoint("burst")
    if words == ["search"]:
        return LoadPoint("search")
    if len(words) == 2 and words[0] in ("rate", "concurrency"):
        try:
            return LoadPoint("rate" if words[0] == "rate" else "concurrency", float(words[1]))
        except ValueError as error:
            raise ValueError(f"load point {text!r}: {error}") from None
    raise ValueError(f"{text!r} is no load point: write `rate 4`, `concurrency 8`, `burst` (also `inf`) or `search`")
