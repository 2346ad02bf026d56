"""Every metric of the project, defined once: names, units, definitions, which way is better, how it is compared.

The definitions are those of docs/metrics.md, which is generated from here.
"""

from dataclasses import dataclass
from typing import Final, Literal

from leverlab.load_point import LoadPoint, parse_load_point

Comparison = Literal["ratio", "difference"]
Better = Literal["lower", "higher", "neither"]
Source = Literal["client", "server counters", "server gauges", "server log", "trial", "NVML"]
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


def _registry(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS: Final[dict[str, Metric]] = _registry(
    Metric(
        "ttft_s",
        "s",
        "first chunk that reports a generated token - scheduled send time: what a user who arrived then waited",
        "lower",
        statistics=STATISTICS,
        label="time to first token",
    ),
    Metric(
        "ttft_service_s",
        "s",
        "first chunk that reports a generated token - actual send time",
        "lower",
        statistics=STATISTICS,
        label="time to first token from the actual send",
    ),
    Metric(
        "tpot_s",
        "s",
        "(last token-bearing chunk - first) / (tokens after the first chunk), tokens from the server's usage",
        "lower",
        statistics=STATISTICS,
        label="time per output token",
    ),
    Metric(
        "chunk_gap_s",
        "s",
        "time between token-bearing chunks of one request; the inter-token latency only where each chunk carries one token",
        "lower",
        statistics=STATISTICS,
        label="gap between chunks",
    ),
    Metric(
        "chunk_gap_spread",
        "1",
        "99th percentile of chunk_gap_s / its median: how uneven a stream is",
        "lower",
        label="spread of the gaps between chunks (p99 / median)",
    ),
    Metric(
        "e2e_s",
        "s",
        "last token-bearing chunk - scheduled send time",
        "lower",
        statistics=STATISTICS,
        label="end-to-end latency",
    ),
    Metric(
        "send_lag_s",
        "s",
        "actual - scheduled send time: the client's own lateness",
        "neither",
        "difference",
        STATISTICS,
        "send lag",
    ),
    Metric(
        "throughput",
        "tokens/s",
        "at a rate: completion tokens of requests that arrived in the window / that window, every request "
        "followed to its end; in a burst or closed loop: completion tokens / (first send to last token)",
        "higher",
        label="output tokens per second",
    ),
    Metric(
        "total_throughput",
        "tokens/s",
        "as throughput, with prompt tokens counted too",
        "higher",
        label="prompt and output tokens per second",
    ),
    Metric(
        "throughput_per_gpu",
        "tokens/s",
        "throughput / GPUs that the server takes; on a CPU the throughput itself",
        "higher",
        label="output tokens per second and GPU",
    ),
    Metric(
        "achieved_rate",
        "requests/s",
        "at a rate: of the requests of the window, those between the 10 % and the 90 % point of their ends / the time "
        "between these two ends; in a burst or closed loop: requests that ended well / the window of throughput",
        "higher",
        label="completed requests per second",
    ),
    Metric(
        "goodput",
        "requests/s",
        "requests that meet every objective of the study / the same window",
        "higher",
        "difference",
        label="requests within objectives per second",
    ),
    Metric(
        HIGHEST_RATE,
        "requests/s",
        "highest rate of arrivals at which every objective of the study is met and the server keeps up, found by `load: search`",
        "higher",
        label="highest rate within objectives",
    ),
    Metric(
        ERROR_RATIO,
        "1",
        "requests that did not end well / requests",
        "lower",
        "difference",
        label="share of failed requests",
    ),
    Metric(
        "queue_time_s",
        "s",
        "mean over the cell of the server's own queue-time histogram (difference of sum / difference of count)",
        "lower",
        "difference",
        label="queue time (server)",
        source="server counters",
    ),
    Metric(
        "prefill_time_s",
        "s",
        "mean over the cell of the server's own prefill-time histogram",
        "lower",
        label="prefill time (server)",
        source="server counters",
    ),
    Metric(
        "decode_time_s",
        "s",
        "mean over the cell of the server's own decode-time histogram",
        "lower",
        label="decode time (server)",
        source="server counters",
    ),
    Metric(
        "cache_hit_ratio",
        "1",
        "difference of prefix-cache hit tokens / difference of queried tokens",
        "higher",
        "difference",
        label="prefix-cache hit ratio",
        source="server counters",
    ),
    Metric(
        "preemptions",
        "1",
        "difference of the server's preemption counter over the cell",
        "lower",
        "difference",
        label="preemptions",
        source="server counters",
    ),
    Metric(
        "energy_per_token_j",
        "J/token",
        "NVML energy of all GPUs (trapezoid of power where the counter is missing) over the window of throughput / "
        "tokens that arrived within it",
        "lower",
        label="energy per output token",
        source="NVML",
    ),
    Metric(
        "acceptance_ratio",
        "1",
        "difference of accepted draft tokens / difference of drafted tokens, where the server speculates",
        "higher",
        "difference",
        label="share of draft tokens accepted",
        source="server counters",
    ),
    Metric(
        "tokens_per_draft",
        "tokens",
        "1 + difference of accepted draft tokens / difference of drafts: tokens that a request gets from a verified draft",
        "higher",
        label="tokens per verified draft",
        source="server counters",
    ),
    Metric(
        "external_hit_ratio",
        "1",
        "difference of tokens found in the KV connector (a tier below the GPU, another server) / difference of tokens asked there",
        "higher",
        "difference",
        label="hit ratio of the external KV cache",
        source="server counters",
    ),
    Metric(
        "mean_running",
        "requests",
        "mean of the server's gauge of running requests over the window of throughput, asked twice a second",
        "neither",
        label="requests running on average",
        source="server gauges",
    ),
    Metric(
        "mean_waiting",
        "requests",
        "mean of the server's gauge of waiting requests over the window of throughput, asked twice a second",
        "neither",
        "difference",
        label="requests waiting on average",
        source="server gauges",
    ),
    Metric(
        "kv_usage_ratio",
        "1",
        "largest share of the KV cache in use over the window of throughput, by the server's gauge",
        "neither",
        "difference",
        label="peak use of the KV cache",
        source="server gauges",
    ),
    Metric(
        "block_waste_ratio",
        "1",
        "of the KV slots that a request's blocks hold at its end, those that hold no token, over all requests that ended well: "
        "its length rounded up to whole blocks",
        "lower",
        "difference",
        label="KV slots wasted in last blocks",
        source="server log",
    ),
    Metric(
        "gpu_utilisation_ratio",
        "1",
        "mean over the window of throughput, and over the GPUs, of the share of time in which a kernel ran (NVML)",
        "neither",
        "difference",
        label="GPU utilisation",
        source="NVML",
    ),
    Metric(
        "gpu_power_w",
        "W",
        "energy of all GPUs over the window of throughput / that window",
        "neither",
        label="power of all GPUs",
        source="NVML",
    ),
    Metric(
        "gpu_memory_bytes",
        "bytes",
        "most memory in use during the cell, summed over the GPUs (NVML)",
        "neither",
        label="GPU memory in use",
        source="NVML",
    ),
    Metric(
        "kv_cache_tokens",
        "tokens",
        "tokens that the KV cache holds, as the server says at its start",
        "higher",
        label="capacity of the KV cache",
        source="server log",
    ),
    Metric(
        "kv_blocks",
        "blocks",
        "blocks of the KV cache, as the server says once it runs",
        "neither",
        label="blocks of the KV cache",
        source="server log",
    ),
    Metric(
        "weights_bytes",
        "bytes",
        "memory that the model's weights take on one GPU, as the server says at its start",
        "lower",
        label="memory of the weights",
        source="server log",
    ),
    Metric(
        "graph_memory_bytes",
        "bytes",
        "memory that captured graphs take on one GPU, as the server says at its start; 0 where it captures none",
        "lower",
        "difference",
        label="memory of captured graphs",
        source="server log",
    ),
    Metric(
        "graph_capture_s",
        "s",
        "time that capturing graphs took at the server's start; 0 where it captures none",
        "lower",
        "difference",
        label="time to capture graphs",
        source="server log",
    ),
    Metric(
        "start_s",
        "s",
        "from starting the server's process to its first answer that it is ready; compile caches as the trial found them",
        "lower",
        label="time to start the server",
        source="trial",
    ),
)


def comparable(metric: str, load: LoadPoint) -> bool:
    """Whether two servers may be compared by `metric` at `load`: where the rate was searched for, by that rate alone."""
    return (metric == HIGHEST_RATE) == (load.kind == "search")


@dataclass(frozen=True, slots=True)
class MetricReference:
    """A metric, its statistic (None for one value a cell) and a load point: what a study calls primary."""

    metric: str
    statistic: str | None
    load: LoadPoint | None = None

    def __str__(self) -> str:
        name = METRICS[self.metric].reference(self.statistic)
        return name if self.load is None else f"{name} at {self.load}"


def parse_metric_reference(text: str) -> MetricReference:
    """The reference that `text` makes: `ttft_s p50 at rate 4`, `throughput at burst`, `tpot_s p95`.

    Raises ValueError naming what is known when the metric, the statistic or the load point is not.
    """
    name, _, load = text.partition(" at ")
    words = name.split()
    if not words or words[0] not in METRICS:
        raise UnknownMetricError(words[0] if words else "", text)
    metric = METRICS[words[0]]
    statistic = words[1] if len(words) == 2 else None
    if (
        len(words) > 2
        or (statistic is not None) != bool(metric.statistics)
        or (statistic and statistic not in metric.statistics)
    ):
        wanted = f"one of {', '.join(metric.statistics)} after it" if metric.statistics else "no statistic"
        raise ValueError(f"{text!r}: {metric.name} takes {wanted}")
    return MetricReference(metric.name, statistic, parse_load_point(load) if load else None)


class UnknownMetricError(ValueError):
    """A metric's name that is not in the registry; `name` is what was written."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text!r}: there is no metric {name!r}; there are {', '.join(METRICS)}")
        self.name = name
