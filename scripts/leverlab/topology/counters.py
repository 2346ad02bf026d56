"""The counters of several engine servers as those of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

GAUGES: Final = frozenset({"running", "waiting", "kv_cache_usage"})
"""Canonical names of what is a state, and not a counter: its difference means nothing."""

_LARGEST: Final = frozenset({"kv_cache_usage"})

_ONCE_A_REQUEST: Final = frozenset(
    {"prompt_tokens", "generation_tokens", "requests_finished", "external_queried_tokens", "external_hit_tokens"}
)
"""Counters that say what clients asked and got, and what the servers that answer them took over. A prefill server counts the
same prompt, one token and one request more."""

_HANDED_OVER: Final = {
    "external_queried_tokens": "handed_over_queried_tokens",
    "external_hit_tokens": "handed_over_tokens",
}
"""What a decode server's connector counts is no tier below its cache, but what the prefill servers have just computed."""

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
    together. What comes to them from prefill servers is called `handed_over_tokens`. A single server's values stay as they are.
    """
    if len(counted) == 1:
        return dict(counted[0].values)
    names = {} if all(server.answers for server in counted) else _HANDED_OVER
    values: dict[str, float] = {}
    for server in counted:
        for name, value in server.values.items():
            values[f"{server.name}{SEPARATOR}{name}"] = value
            if not server.answers and (name in _ONCE_A_REQUEST or name.endswith("_count")):
                continue
            total = names.get(name, name)
            before = values.get(total, 0.0)
            values[total] = max(before, value) if name in _LARGEST else before + value
    return values


def is_gauge(name: str) -> bool:
    """Whether `name`, of all servers or of one, is a state."""
    return name.rpartition(SEPARATOR)[2] in GAUGES
