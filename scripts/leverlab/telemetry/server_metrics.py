"""The server's own counters, in canonical names: before and after a phase, and twice a second during it."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx
import pyarrow as pa

from leverlab.telemetry.columns import column
from leverlab.topology.counters import is_gauge

PERIOD_S: Final = 0.5

SERVER_METRICS: Final[pa.Schema] = pa.schema(
    [
        column("time_s", pa.float64(), "s", "middle between asking and the answer, from the phase's t = 0"),
        column(
            "name",
            pa.string(),
            "",
            "canonical name of a counter, a gauge, or a histogram's sum or count; of one of several servers with `<server>:` before it",
        ),
        column(
            "value", pa.float64(), "", "its value: tokens, requests, seconds (`_s_sum`), a share (`kv_cache_usage`)"
        ),
    ]
)


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Counters and histograms of `after` less those of `before`; gauges are left out.

    Negative where a counter fell, as it does when a server starts anew: a check of the cell sees that. A counter that
    was not there before began at zero (vLLM shows none before its first event); one that vanished fell to zero.
    """
    names = sorted(name for name in before.keys() | after.keys() if not is_gauge(name))
    return {name: after.get(name, 0.0) - before.get(name, 0.0) for name in names}


class MetricsSampler:
    """Rows of `SERVER_METRICS`. A server too busy to answer in time leaves a gap, counted in `unanswered`."""

    def __init__(self, counters: Callable[[], Mapping[str, float]]) -> None:
        """`counters` tells all of them; it raises httpx.HTTPError where a server does not answer."""
        self._counters = counters
        self._seen: list[tuple[float, Mapping[str, float]]] = []
        self.unanswered = 0

    def look(self) -> None:
        """All metrics once."""
        asked = time.monotonic()
        try:
            values = self._counters()
        except httpx.HTTPError:
            self.unanswered += 1
            return
        self._seen.append(((asked + time.monotonic()) / 2, values))

    def table(self, origin_s: float) -> pa.Table:
        """All values, one a row, with times from `origin_s` (CLOCK_MONOTONIC)."""
        rows = [
            {"time_s": seen_s - origin_s, "name": name, "value": value}
            for seen_s, values in self._seen
            for name, value in values.items()
        ]
        return pa.Table.from_pylist(rows, SERVER_METRICS)
