"""Bringing the server's prefix cache into the state that a phase asks for, and seeing that it is.

Cold: a probe is put into the cache, the cache is reset, and the probe sent again must find nothing. Warm: the phase's own
prompts are sent once with one token of output, and some of them sent again must find themselves. What is seen are the
server's own hit counters, and where it has none, the cached tokens that it reports for each request.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

import pyarrow as pa

from leverlab.load.plan import PlannedRequest
from leverlab.trial.warmup import PromptMaker

PROBE_TOKENS: Final = 320
"""More than two of the largest blocks in use (128 tokens), as only whole blocks are found again."""

FILL_STREAMS: Final = 8
SAMPLE: Final = 4
"""Prompts of a warm phase that are looked up to see that they are there."""

WARM_SHARE: Final = 0.5
"""Share of the sample's prompt tokens that must be found in a warm cache."""

_NOTHING_TOLD: Final = "the server tells neither hits nor cached tokens, or did not answer the probe"


class CachedServer(Protocol):
    """What this module needs of a started server."""

    def reset_cache(self) -> bool:
        """Empty the prefix cache once nothing runs; whether the server says that it did."""

    def keeps_cache(self) -> bool | None:
        """Whether the server keeps a prefix cache; None where only its counters tell."""

    def settled_counters(self) -> dict[str, float]:
        """The canonical counters once nothing is running."""

    def send(self, requests: Sequence[PlannedRequest], streams: int) -> pa.Table:
        """Offer `requests`, `streams` at a time, and return their table; nothing of it is measured."""


@dataclass(frozen=True, slots=True)
class CacheState:
    """What cell.json says of the cache. `verified` is None where the state could not be seen."""

    asked: str
    how: str
    verified: bool | None
    saw: str

    def as_mapping(self) -> dict[str, Any]:
        """As cell.json keeps it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Look:
    """Tokens of some requests that the cache was asked for, and that it had; None where nothing tells."""

    queried: float | None
    hits: float | None


def bring_about(
    asked: str, server: CachedServer, workload: Sequence[PlannedRequest], prompts: PromptMaker
) -> CacheState:
    """Bring the cache into the state `asked` (cold, warm). Never raises for a state that was not reached: it is said."""
    return _cold(server, prompts) if asked == "cold" else _warm(server, workload)


def _cold(server: CachedServer, prompts: PromptMaker) -> CacheState:
    probe = prompts.request(PROBE_TOKENS, 1)
    server.send([probe], 1)
    how = "reset; a probe that was there before found nothing; reset again"
    if not server.reset_cache():
        return CacheState("cold", "reset", False, "the server did not reset its cache")
    look = _look(server, [probe])
    if not server.reset_cache():
        return CacheState("cold", how, False, "the server did not reset its cache a second time")
    if look.hits is None:
        return CacheState("cold", how, None, _NOTHING_TOLD)
    return CacheState("cold", how, look.hits == 0, f"{look.hits:.0f} of the probe's {PROBE_TOKENS} tokens were hits")


def _warm(server: CachedServer, workload: Sequence[PlannedRequest]) -> CacheState:
    how = f"reset; each of the {len(workload)} prompts sent once with one token of output"
    if not server.reset_cache():
        return CacheState("warm", "reset", False, "the server did not reset its cache")
    fill = [replace(request, output_tokens=1, after=None, pause_s=0.0) for request in workload]
    server.send(fill, FILL_STREAMS)
    step = max(len(fill) // SAMPLE, 1)
    look = _look(server, fill[::step][:SAMPLE])
    if look.queried == 0:
        return CacheState("warm", how, True, "the server looks no prompt up: it keeps no prefix cache")
    if look.hits == 0 and server.keeps_cache() is False:
        return CacheState("warm", how, True, "the server says that it keeps no prefix cache")
    if look.queried is None or look.hits is None:
        return CacheState("warm", how, None, _NOTHING_TOLD)
    share = look.hits / look.queried
    return CacheState("warm", how, share >= WARM_SHARE, f"{share:.0%} of a sample's prompt tokens were hits")


def _look(server: CachedServer, requests: Sequence[PlannedRequest]) -> _Look:
    """Send `requests` one after another and see what the cache had of them."""
    before = server.settled_counters()
    table = server.send(requests, 1)
    after = server.settled_counters()
    if set(table.column("status").to_pylist()) != {"ok"}:
        return _Look(None, None)
    if "prefix_hit_tokens" in after and "prefix_queried_tokens" in after:
        names = ("prefix_queried_tokens", "prefix_hit_tokens")
        return _Look(*(after[name] - before.get(name, 0.0) for name in names))
    cached = table.column("cached_tokens").to_pylist()
    if None in cached:
        return _Look(None, None)
    return _Look(float(sum(table.column("prompt_tokens").to_pylist())), float(sum(cached)))
