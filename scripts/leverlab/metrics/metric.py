"""What a metric is: its name, unit and definition, which way is better, how it is compared, where it comes from."""

from dataclasses import dataclass
from typing import Final, Literal

Comparison = Literal["ratio", "difference"]
Better = Literal["lower", "higher", "neither"]
Source = Literal["client", "server counters", "server gauges", "server log", "client and server", "trial", "NVML"]
"""Where a metric comes from: the client's own stamps, the server's /metrics, what it says at its start, the trial, the driver."""

HIGHEST_RATE: Final = "highest_rate"
"""What a search for the rate finds: the one metric by which such cells are compared, since each was offered its own rate."""

ERROR_RATIO: Final = "error_ratio"

SERVER_FACTS: Final = (
    "kv_cache_tokens",
    "kv_blocks",
    "weights_bytes",
    "graph_memory_bytes",
    "graph_capture_s",
    "start_s",
)
"""Metrics that belong to the server's start: the same in every cell of one trial."""

FIXED_FACTS: Final = frozenset({"kv_cache_tokens", "kv_blocks", "weights_bytes", "graph_memory_bytes"})
"""Those that the configuration decides, so that they need not scatter: sizes. Times of the start are measured as all others."""

GRAPHS_STATED_TO_GIB: Final = 0.02
"""Last digit in which an engine's log states the memory of its graphs, GiB: changes up to it may be of rounding alone. SGLang states it in
two parts, each of which is rounded to 0.01."""

SIZES_VARY_BY: Final = 0.005
"""Share by which the other sizes of FIXED_FACTS differ from one start of the same server to the next: memory is taken in blocks, from what
happens to be free, and the log rounds."""

STATISTICS: Final = ("mean", "p50", "p95", "p99")

MINIMUM_SAMPLES: Final = {"mean": 1, "p50": 1, "p95": 20, "p99": 100}
"""Values that a statistic needs: one beyond a percentile. A percentile of fewer is their maximum, and is not given."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: per request or chunk (`statistics` are taken over a cell) or one value a cell (no statistic)."""

    name: str
    unit: str
    definition: str
    better: Better
    comparison: Comparison = "ratio"
    statistics: tuple[str, ...] = ()
    label: str = ""
    source: Source = "client"

    def reference(self, statistic: str | None) -> str:
        """How a study writes it: `ttft_s p50`, `throughput`."""
        return self.name if statistic is None else f"{self.name} {statistic}"
