"""What the proxy says of itself at /metrics, and the same in canonical names.

Its own time starts with the kernel's receive stamp of what it waits for and ends when the kernel has taken what it sends.
Added to a request's first token: receipt to forwarding, for disaggregation also the prefill server's answer to the decode
server's request, and the first bytes of the answer to their sending. What the network stack between the processes takes
once more is not in it: on loopback some tens of microseconds a hop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from leverlab.engines.prometheus import samples

_PREFIX: Final = "leverlab_proxy_"
_NS: Final = 1e9


@dataclass(slots=True)
class Totals:
    """Since the start, in ns and events."""

    requests: int = 0
    failures: int = 0
    added_ns: int = 0
    added_count: int = 0
    prefill_ns: int = 0
    prefill_count: int = 0
    relay_ns: int = 0
    relay_count: int = 0

    def render(self) -> bytes:
        """The text of /metrics."""
        lines = []
        for each in fields(self):
            value, name = getattr(self, each.name), each.name
            if name.endswith("_ns"):
                name, value = f"{name.removesuffix('_ns')}_seconds_sum", value / _NS
            elif name.endswith("_count"):
                name = f"{name.removesuffix('_count')}_seconds_count"
            else:
                name = f"{name}_total"
            lines += [f"# TYPE {_PREFIX}{name} counter", f"{_PREFIX}{name} {value}"]
        return ("\n".join(lines) + "\n").encode()


_CANONICAL: Final[Mapping[str, str]] = {
    f"{_PREFIX}requests_total": "proxy_requests",
    f"{_PREFIX}failures_total": "proxy_failures",
    **{
        f"{_PREFIX}{name}_seconds_{part}": f"proxy_{name}_s_{part}"
        for name in ("added", "prefill", "relay")
        for part in ("sum", "count")
    },
}
"""added: to a request's first token; prefill: the prefill server's leg, sending to answer; relay: a later read to its sending."""


def proxy_counters(text: str) -> dict[str, float]:
    """The proxy's /metrics in canonical names."""
    return {_CANONICAL[name]: value for name, _, value in samples(text, set(_CANONICAL))}
