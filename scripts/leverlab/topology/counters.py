"""The counters of several engine servers as those of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

GAUGES: Final = frozenset({"running", "waiting", "kv_cache_usage"})
"""Canonical names of what is a state, and not a counter: its difference means nothing."""

_LARGEST: Final = frozenset({"kv_cache_usage"})

_ONCE_A_REQUEST: Final = frozenset({"prompt_tokens", "generation_tokens", "requests_finished"})
"""Counters that say what clients asked and got. A prefill server counts the same prompt, one token and one request more."""

_LOOKED_UP: Final = frozenset({"prefix_queried_tokens", "prefix_hit_tokens"})
"""Counters of a prompt that is looked up before it is computed. A decode server looks the same prompt up again, and hits there only
spare the taking over: added, the two would halve the share of prompts that nobody had to compute."""

_HANDED_OVER: Final = {
    "external_queried_tokens": "handed_over_queried_tokens",
    "external_hit_tokens": "handed_over_tokens",
}
"""What a decode server's connector counts is no tier below its cache, but what the prefill servers have just computed. A prefill
server's counts what lies below its own cache: nothing where the connector only hands over."""

_TRANSFERS: Final = frozenset({"kv_transfer_s_count", "kv_transfer_bytes_count"})
"""Counts of what one side alone observes: a decode server of vLLM (NIXL), a prefill server of SGLang."""

SEPARATOR: Final = ":"


@dataclass(frozen=True, slots=True)
class Counted:
    """The canonical metrics of one engine server. `answers`: whether what it generates reaches the client."""

    name: str
    answers: bool
    values: Mapping[str, float]


def combined(counted: Sequence[Counted]) -> dict[str, float]:
    """Canonical names over all servers, and `<server>:<name>` for each of several.

    Sums; of `kv_cache_usage` the largest. What a request is counted for once (tokens, requests, the counts of histograms)
    is summed over the servers that answer: so the mean of a histogram is the time that a request spent on all servers
    together. Where prefill servers stand before them, prompts are looked up, in the cache and in tiers below it, by these; what
    comes from them is called `handed_over_tokens`. A single server's values stay as they are.
    """
    if len(counted) == 1:
        return dict(counted[0].values)
    disaggregated = not all(server.answers for server in counted)
    values: dict[str, float] = {}
    for server in counted:
        for name, value in server.values.items():
            values[f"{server.name}{SEPARATOR}{name}"] = value
            total = _total(name, server.answers) if disaggregated else name
            if total is not None:
                before = values.get(total, 0.0)
                values[total] = max(before, value) if name in _LARGEST else before + value
    return values


def over_all(values: Mapping[str, float], name: str) -> float:
    """The sum of `name` over every server of `combined`, those too whose count means something else there."""
    each = [value for key, value in values.items() if key.endswith(f"{SEPARATOR}{name}")]
    return sum(each) if each else values.get(name, 0.0)


def _total(name: str, answers: bool) -> str | None:
    """Under which name a decode (`answers`) or a prefill server's counter is added up; None where it is not."""
    if answers:
        return None if name in _LOOKED_UP else _HANDED_OVER.get(name, name)
    once = name in _ONCE_A_REQUEST or (name.endswith("_count") and name not in _TRANSFERS)
    return None if once else name


def is_gauge(name: str) -> bool:
    """Whether `name`, of all servers or of one, is a state."""
    return name.rpartition(SEPARATOR)[2] in GAUGES
