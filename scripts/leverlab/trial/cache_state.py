"""Bringing the server's caches into the state that a phase asks for, and seeing that they are.

Cold: a probe is put into the caches, they are reset, and the probe sent again must find nothing. Warm: the phase's own
prompts are sent once with one token of output, and some of them sent again must find themselves. A tier: filled as for warm,
then the engine's own cache alone is reset, and what is sent again must be found below it. Restarted: filled, and the server
stopped and started again; how much of it is still there is for the phase itself to find. What is seen are the server's own hit
counters, and where it has none, the cached tokens that it reports for each request. Of several servers each is sent the same,
so that each holds it, or has lost it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

import pyarrow as pa

from leverlab.load.plan import PlannedRequest
from leverlab.load_point import CacheState
from leverlab.topology import over_all
from leverlab.trial.warmup import PromptMaker
from leverlab.units import format_share

PROBE_TOKENS: Final = 320
"""More than two of the largest blocks in use (128 tokens), as only whole blocks are found again."""

TIER_PROBE_TOKENS: Final = 2112
"""More than two of the largest chunks in use below the engine's own cache (1024 tokens)."""

FILL_STREAMS: Final = 8
SAMPLE: Final = 4
"""Prompts of a warm phase that are looked up to see that they are there."""

WARM_SHARE: Final = 0.5
"""Share of the sample's prompt tokens that must be found in a warm cache."""

_NOTHING_TOLD: Final = "the server tells neither hits nor cached tokens, or did not answer the probe"
_NO_RESET: Final = "the server did not reset its cache"
_NO_TIER: Final = "the server asks for no prompt below its own cache: it has no tier there"
_NOTHING_BELOW: Final = "the prefill servers found nothing below their own caches: they have no tier there, or it lost what it was filled with"
_SHARE_BELOW: Final = "{} of the tokens of a sample that the engine's own cache did not have were in the tier below"


class CachedServer(Protocol):
    """What this module needs of a started server."""

    def reset_cache(self, *, tiers: bool = True) -> bool:
        """Empty the prefix cache once nothing runs and, with `tiers`, what lies below; whether the server says that it did."""

    def keeps_cache(self) -> bool | None:
        """Whether the server keeps a prefix cache; None where only its counters tell."""

    def settled_counters(self) -> dict[str, float]:
        """The canonical counters once nothing is running."""

    def send_to_each(self, requests: Sequence[PlannedRequest], streams: int) -> pa.Table:
        """Offer `requests` to every engine server, `streams` at a time, and return their table; nothing of it is measured."""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What cell.json says of the caches. `verified` is None where the state could not be seen."""

    asked: CacheState
    how: str
    verified: bool | None
    saw: str

    def as_mapping(self) -> dict[str, Any]:
        """As cell.json keeps it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Look:
    """Tokens of some requests that the caches were asked for, and that they had; None where nothing tells.

    `hits` are those of the engine's own cache. What it did not have is asked of the tier below it, where there is one.
    """

    queried: float | None
    hits: float | None
    below_queried: float = 0.0
    below_hits: float = 0.0
    disaggregated: bool = False
    """Whether a connector stands below the caches in any case, to hand KV caches over: that it is asked tells of no tier."""

    @property
    def found(self) -> float | None:
        """Hits in either."""
        return None if self.hits is None else self.hits + self.below_hits


def bring_about(
    asked: CacheState, server: CachedServer, workload: Sequence[PlannedRequest], prompts: PromptMaker
) -> CacheReport:
    """Bring the caches into the state `asked`. Never raises for a state that was not reached: it is said.

    For `restarted` the server was filled by `fill` and restarted before.
    """
    match asked:
        case "cold":
            return _cold(server, prompts)
        case "warm":
            return _warm(server, workload)
        case "tier":
            return _tier(server, workload)
        case "restarted":
            return _restarted(server, prompts)


def fill(server: CachedServer, workload: Sequence[PlannedRequest]) -> bool:
    """Empty the caches and send each prompt of `workload` once; whether they could be emptied."""
    if not server.reset_cache():
        return False
    server.send_to_each([_alone(request) for request in workload], FILL_STREAMS)
    return True


def _cold(server: CachedServer, prompts: PromptMaker) -> CacheReport:
    probe = prompts.request(PROBE_TOKENS, 1)
    look = _look(server, [probe])
    if look.below_queried and not look.disaggregated:
        probe = prompts.request(TIER_PROBE_TOKENS, 1)
        server.send_to_each([probe], 1)
    how = "reset; a probe that was there before found nothing; reset again"
    if not server.reset_cache():
        return CacheReport("cold", "reset", False, _NO_RESET)
    look = _look(server, [probe])
    if not server.reset_cache():
        return CacheReport("cold", how, False, f"{_NO_RESET} a second time")
    if look.found is None:
        return CacheReport("cold", how, None, _NOTHING_TOLD)
    saw = f"{look.hits:.0f} of the probe's {probe.prompt_tokens} tokens were hits"
    if look.below_queried:
        saw += f", and {look.below_hits:.0f} in the tier below"
    return CacheReport("cold", how, look.found == 0, saw)


def _warm(server: CachedServer, workload: Sequence[PlannedRequest]) -> CacheReport:
    how = f"reset; each of the {len(workload)} prompts sent once with one token of output"
    if not fill(server, workload):
        return CacheReport("warm", "reset", False, _NO_RESET)
    look = _look(server, _sample(workload))
    if look.queried == 0:
        return CacheReport("warm", how, True, "the server looks no prompt up: it keeps no prefix cache")
    if look.hits == 0 and server.keeps_cache() is False:
        return CacheReport("warm", how, True, "the server says that it keeps no prefix cache")
    if look.queried is None or look.hits is None:
        return CacheReport("warm", how, None, _NOTHING_TOLD)
    share = look.hits / look.queried
    return CacheReport("warm", how, share >= WARM_SHARE, f"{format_share(share)} of a sample's prompt tokens were hits")


def _tier(server: CachedServer, workload: Sequence[PlannedRequest]) -> CacheReport:
    how = (
        f"all reset; each of the {len(workload)} prompts sent once with one token of output; the engine's own cache reset, what is "
        "below it kept"
    )
    if not fill(server, workload):
        return CacheReport("tier", "reset", False, _NO_RESET)
    look = _look_below(server, workload)
    if isinstance(look, str):
        return CacheReport("tier", how, None if look == _NOTHING_TOLD else False, look)
    if not look.below_queried:
        return CacheReport("tier", how, True, _NO_TIER)
    if look.disaggregated and not look.below_hits:
        return CacheReport("tier", how, None, _NOTHING_BELOW)
    share = _share_below(look)
    return CacheReport("tier", how, share >= WARM_SHARE, _SHARE_BELOW.format(format_share(share)))


def _restarted(server: CachedServer, prompts: PromptMaker) -> CacheReport:
    """Sees to the engine's own cache alone, with a probe: a prompt of the phase, sent to look, would bring itself into the tier."""
    how = (
        "all reset; each of the prompts sent once with one token of output; the server stopped, started again and warmed up; its own "
        "cache reset, what is below it kept"
    )
    probe = prompts.request(PROBE_TOKENS, 1)
    server.send_to_each([probe], 1)
    if not server.reset_cache(tiers=False):
        return CacheReport("restarted", how, False, f"{_NO_RESET} alone")
    look = _look(server, [probe])
    if not server.reset_cache(tiers=False):
        return CacheReport("restarted", how, False, f"{_NO_RESET} alone a second time")
    if look.hits is None:
        return CacheReport("restarted", how, None, _NOTHING_TOLD)
    saw = f"{look.hits:.0f} of the probe's {PROBE_TOKENS} tokens were in the engine's own cache"
    return CacheReport("restarted", how, look.hits == 0, saw if look.below_queried else f"{saw}; {_NO_TIER}")


def _look_below(server: CachedServer, workload: Sequence[PlannedRequest]) -> _Look | str:
    """Reset the engine's own cache, see what of a sample is found below it, and reset it again; or what went wrong."""
    if not server.reset_cache(tiers=False):
        return f"{_NO_RESET} alone"
    first, *others = _sample(workload)
    # Later ones may find in the engine's own cache what those before them have brought there.
    looks = [_look(server, [first]), *([_look(server, others)] if others else [])]
    if not server.reset_cache(tiers=False):
        return f"{_NO_RESET} alone a second time"
    known = [look for look in looks if look.queried is not None and look.hits is not None]
    if len(known) < len(looks):
        return _NOTHING_TOLD
    if looks[0].hits:
        return f"{looks[0].hits:.0f} tokens of the first prompt were in the engine's own cache"
    return _Look(
        sum(look.queried or 0.0 for look in known),
        sum(look.hits or 0.0 for look in known),
        sum(look.below_queried for look in known),
        sum(look.below_hits for look in known),
        any(look.disaggregated for look in known),
    )


def _share_below(look: _Look) -> float:
    """Of what the engine's own cache did not have, the share that was found below."""
    return look.below_hits / look.below_queried


def _sample(workload: Sequence[PlannedRequest]) -> list[PlannedRequest]:
    step = max(len(workload) // SAMPLE, 1)
    return [_alone(request) for request in workload[::step][:SAMPLE]]


def _alone(request: PlannedRequest) -> PlannedRequest:
    """The request with one token of output, waiting for no other."""
    return replace(request, output_tokens=1, after=None, joins=(), pause_s=0.0)


def _look(server: CachedServer, requests: Sequence[PlannedRequest]) -> _Look:
    """Send `requests` one after another and see what the caches had of them."""
    before = server.settled_counters()
    table = server.send_to_each(requests, 1)
    after = server.settled_counters()
    if set(table.column("status").to_pylist()) != {"ok"}:
        return _Look(None, None)

    def counted(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    def everywhere(name: str) -> float:
        return over_all(after, name) - over_all(before, name)

    if "prefix_hit_tokens" in after and "prefix_queried_tokens" in after:
        # Each server's own cache is to be in the state; only what prefill servers have below theirs is a tier.
        return _Look(
            everywhere("prefix_queried_tokens"),
            everywhere("prefix_hit_tokens"),
            counted("external_queried_tokens"),
            counted("external_hit_tokens"),
            disaggregated="handed_over_queried_tokens" in after,
        )
    cached = table.column("cached_tokens").to_pylist()
    if None in cached:
        return _Look(None, None)
    return _Look(float(sum(table.column("prompt_tokens").to_pylist())), float(sum(cached)))
