"""The metrics of one cell, as leverlab.metrics defines them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leverlab.aggregate.energy import energy_j
from leverlab.checks.columns import Floats, ended_well, numeric
from leverlab.checks.keeping_up import keeping_up
from leverlab.checks.links import moved_bytes
from leverlab.checks.window import Window, achieved_rate, offered_rate, steady_window
from leverlab.load_point import LoadPoint
from leverlab.metrics import ERROR_RATIO, HIGHEST_RATE, METRICS, SERVER_FACTS
from leverlab.metrics.classes import ASKED, CLASSES, class_and_metric
from leverlab.stats.intervals import Interval, percentile_interval
from leverlab.stats.summaries import PERCENTILES, statistic_of

Key = tuple[str, str | None]
"""A metric's name and its statistic; None for a metric that has one value a cell."""

INTERVAL_METRICS: Final = ("ttft_s", "ttft_service_s", "tpot_s", "e2e_s")
"""Metrics of a request, whose percentiles get an interval inside the cell."""

_CLASS_RATES: Final = {f"{name}_throughput": name for name in CLASSES}

NO_PROCESSES: Final[Mapping[str, Any]] = MappingProxyType({})

NO_FACTS: Final[Mapping[str, float]] = MappingProxyType({})

_GAUGES: Final = (
    ("mean_running", "running", np.mean),
    ("mean_waiting", "waiting", np.mean),
    ("kv_usage_ratio", "kv_cache_usage", np.max),
)
"""(metric, the server's gauge, what is made of its values over the window)."""
_LEAST_LOOKS: Final = 3
"""Of fewer the mean is what a moment was: a cell of half a second is looked at once, perhaps before its requests run."""
_LINKS: Final = {
    "nvlink_sent_bytes": "nvlink_sent_bytes",
    "bus_received_bytes": "pcie_received_bytes",
    "bus_sent_bytes": "pcie_sent_bytes",
}
"""Metric → column of the GPUs' samples."""
_SERVER_MEANS: Final = (
    "queue_time_s",
    "prefill_time_s",
    "decode_time_s",
    "kv_transfer_s",
    "kv_transfer_bytes",
    "proxy_prefill_s",
    "proxy_added_s",
)
"""Means over the cell of histograms and sums of the server's own."""


class MeasuredCell:
    """The tables of one cell, ready to be computed with. `server_delta` and `server_facts` as in cell.json, the tables `gpu` and
    `server_metrics` as they are kept beside it, None where they are not. `gpu_count`: GPUs that the server takes, 1 on a CPU;
    `processes` as in cell.json. `waiting`: whether requests wait for the answers to others.

    Of a cell that searched for its rate, `load` is the rate of its tables, and `highest_rate` what it found.
    """

    def __init__(
        self,
        requests: pa.Table,
        chunks: pa.Table,
        load: LoadPoint,
        server_delta: Mapping[str, float],
        gpu: pa.Table | None,
        highest_rate: float | None = None,
        server_facts: Mapping[str, float] = NO_FACTS,
        server_metrics: pa.Table | None = None,
        gpu_count: int = 1,
        processes: Mapping[str, Any] = NO_PROCESSES,
        waiting: bool = False,
    ) -> None:
        self._table = requests
        self._well = ended_well(requests)
        self._load = load
        self._delta = server_delta
        self._gpu = gpu
        self._highest_rate = highest_rate
        self._facts = server_facts
        self._server_metrics = server_metrics
        self._gpu_count = gpu_count
        self._processes = processes
        self._waiting = waiting
        self._chunk_index, self._arrival_s = numeric(chunks, "index"), numeric(chunks, "arrival_s")
        self._chunk_tokens = numeric(chunks, "tokens")
        self.window: Window | None = steady_window(
            self._column("scheduled_s"), self._column("sent_s"), self._column("last_token_s"), load
        )

    @property
    def offered_rate(self) -> float | None:
        """Requests per second that arrived in the window, as they were drawn; None in a burst or closed loop."""
        return offered_rate(self.window, self._load) if self.window else None

    @property
    def beyond_knee(self) -> bool | None:
        """Whether the server was offered more than it sustains; None where nothing tells. See `leverlab.checks.keeping_up`."""
        return keeping_up(self._table, self._load, self._waiting).beyond

    def metrics(self, objectives: Mapping[str, float]) -> dict[Key, float | None]:
        """Every metric of the registry with each of its statistics; None where the cell does not tell it.

        Statistics are taken over the requests that ended well; percentiles by linear interpolation between order statistics
        (Hyndman and Fan's type 7); None with fewer of them than the statistic needs. `objectives` are the study's: `{ttft_p95: seconds}`.
        """
        found: dict[Key, float | None] = {}
        for name, metric in METRICS.items():
            if metric.statistics:
                values = self._values(name)
                found |= {(name, wanted): statistic_of(values, wanted) for wanted in metric.statistics}
        found |= self._rates(objectives)
        found["answers_alike", None] = None  # a cell alone does not tell: leverlab.aggregate.answers
        found["error_ratio", None] = float(1 - self._well.mean()) if len(self._well) else None
        for name in _SERVER_MEANS:
            found[name, None] = self._quotient(f"{name}_sum", f"{name}_count")
        found["cache_hit_ratio", None] = self._quotient("prefix_hit_tokens", "prefix_queried_tokens")
        found[HIGHEST_RATE, None] = self._highest_rate
        found["preemptions", None] = self._delta.get("preemptions")
        for name, column in _LINKS.items():
            found[name, None] = None if self._gpu is None else moved_bytes(self._gpu, column)
        sent, tokens = found["nvlink_sent_bytes", None], self._computed_tokens()
        found["nvlink_bytes_per_token", None] = sent / self._gpu_count / tokens if sent is not None and tokens else None
        found["energy_per_token_j", None] = self._energy_per_token_j()
        found["acceptance_ratio", None] = self._quotient("accepted_tokens", "draft_tokens")
        accepted = self._quotient("accepted_tokens", "drafts")
        found["tokens_per_draft", None] = None if accepted is None else 1 + accepted
        found["external_hit_ratio", None] = self._quotient("external_hit_tokens", "external_queried_tokens")
        middle_s, late_s = found["chunk_gap_s", "p50"], found["chunk_gap_s", "p99"]
        found["chunk_gap_spread", None] = late_s / middle_s if middle_s and late_s is not None else None
        for name, gauge, summary in _GAUGES:
            looks = self._gauge(gauge)
            found[name, None] = float(summary(looks)) if len(looks) >= _LEAST_LOOKS else None
        found["adapter_ttft_spread", None] = self._adapter_spread()
        found["block_waste_ratio", None] = self._block_waste()
        found["restore_time_s", None] = self._quotient("restore_s", "restores")
        found["restored_bytes", None] = self._delta.get("restored_bytes")
        bandwidth = self._quotient("restored_bytes", "restore_s")
        found["restore_bandwidth", None] = None if bandwidth is None else bandwidth / 1e9
        found["expert_imbalance_logged", None] = self._quotient("expert_load_most", "expert_load_mean")
        found["handed_over_ratio", None] = self._quotient("handed_over_tokens", "handed_over_queried_tokens")
        found["kv_transfer_rate", None] = self._quotient("kv_transfer_bytes_sum", "kv_transfer_s_sum")
        found |= {(name, None): self._facts.get(name) for name in SERVER_FACTS}
        return found | self._of_gpus() | self._of_pools()

    def intervals(self) -> dict[tuple[str, str], Interval | None]:
        """For the percentiles of a request's latencies, the order-statistic interval inside this cell."""
        return {
            (name, statistic): percentile_interval(list(self._values(name)), share)
            for name in INTERVAL_METRICS
            for statistic, share in PERCENTILES.items()
        }

    def _column(self, name: str) -> Floats:
        return numeric(self._table, name)

    def _values(self, name: str) -> Floats:
        """The values of a metric that has one a request, or a chunk, of the requests that ended well."""
        if name == "chunk_gap_s":
            return self._chunk_gaps_s()
        wanted, of_class = self._well, class_and_metric(name)
        if of_class is not None:
            wanted, name = wanted & self._of_class(of_class[0]), of_class[1]
        values: Floats = self._column(name)[wanted]
        known: Floats = values[~np.isnan(values)]
        return known

    def _of_class(self, name: str) -> npt.NDArray[np.bool_]:
        """Which requests are of a class; none where the workload has no classes, or the cell is older than they are."""
        if name in ASKED:
            adapters = self._adapters()
            named = np.array([adapter is not None for adapter in adapters], bool)
            return named if name == "adapter" or not named.any() else ~named
        if "priority" not in self._table.column_names:
            return np.zeros(self._table.num_rows, bool)
        found: npt.NDArray[np.bool_] = self._column("priority") == CLASSES[name]
        return found

    def _adapters(self) -> list[str | None]:
        """The adapter that each request asked; None for the base model, and in a cell that is older than the column."""
        if "adapter" not in self._table.column_names:
            return [None] * self._table.num_rows
        found: list[str | None] = self._table.column("adapter").to_pylist()
        return found

    def _adapter_spread(self) -> float | None:
        adapters, values_s = np.array(self._adapters(), dtype=object), self._column("ttft_s")
        wanted = self._well & ~np.isnan(values_s)
        names = {name for name in adapters[wanted] if name is not None}
        medians_s = [float(np.median(values_s[wanted & (adapters == name)])) for name in names]
        return max(medians_s) / min(medians_s) if len(medians_s) > 1 and min(medians_s) > 0 else None

    def _chunk_gaps_s(self) -> Floats:
        wanted = np.isin(self._chunk_index, self._column("index")[self._well])
        index, arrival_s = self._chunk_index[wanted], self._arrival_s[wanted]
        order = np.lexsort((arrival_s, index))
        gaps_s: Floats = np.diff(arrival_s[order])[np.diff(index[order]) == 0]
        return gaps_s

    def _rates(self, objectives: Mapping[str, float]) -> dict[Key, float | None]:
        names = ("throughput", "total_throughput", "throughput_per_gpu", "achieved_rate", "goodput", *_CLASS_RATES)
        window = self.window
        if window is None:
            return {(name, None): None for name in names}
        output = np.nan_to_num(self._column("completion_tokens"))
        # The prompt of a request without any token may never have been processed.
        prompts = np.where(np.isnan(self._column("first_token_s")), 0.0, np.nan_to_num(self._column("prompt_tokens")))
        generated, processed = float(output[window.inside].sum()), float(prompts[window.inside].sum())
        return {
            ("throughput", None): generated / window.length_s,
            ("total_throughput", None): (generated + processed) / window.length_s,
            ("throughput_per_gpu", None): generated / window.length_s / self._gpu_count,
            ("achieved_rate", None): achieved_rate(window, self._well, self._column("last_token_s"), self._load),
            ("goodput", None): self._goodput(window, objectives),
            **{
                (name, None): float(output[window.inside & asked].sum()) / window.length_s if asked.any() else None
                for name, of in _CLASS_RATES.items()
                for asked in [self._of_class(of)]
            },
        }

    def _goodput(self, window: Window, objectives: Mapping[str, float]) -> float | None:
        if not objectives:
            return None
        good = window.inside & self._well
        for objective, limit_s in objectives.items():
            if objective == ERROR_RATIO:
                continue  # of all requests together; one that did not end well is not good anyway
            # A request of one chunk has no time per output token, and so none that is too long.
            good &= ~(self._column(f"{objective.split('_')[0]}_s") > limit_s)
        return float(good.sum()) / window.length_s

    def _quotient(self, above: str, below: str) -> float | None:
        over, under = self._delta.get(above), self._delta.get(below)
        return over / under if over is not None and under else None

    def _gauge(self, name: str) -> Floats:
        """What a gauge of the server was over the window; empty where nobody looked."""
        if self._server_metrics is None or self.window is None:
            return np.empty(0)
        rows = self._server_metrics.filter(pc.equal(self._server_metrics.column("name"), name))
        values: Floats = numeric(rows, "value")[self._within(rows)]
        return values

    def _block_waste(self) -> float | None:
        """The share of empty slots in the blocks of the requests that ended well, each as long as at its end.

        What is counted is the last block alone (Kwon et al. 2023, PagedAttention, section 3.1): blocks that are shared count for each.
        """
        block = self._facts.get("kv_block_tokens")
        lengths = (self._column("prompt_tokens") + self._column("completion_tokens"))[self._well]
        known: Floats = lengths[~np.isnan(lengths)]
        if not block or not known.sum():
            return None
        held = np.ceil(known / block) * block
        return float(1 - known.sum() / held.sum())

    def _computed_tokens(self) -> float | None:
        """Tokens that passed through the model; None where the server does not count them."""
        names = ("prompt_tokens", "generation_tokens", "requests_finished")
        prompts, generated, answers = (self._delta.get(name) for name in names)
        if prompts is None or generated is None or answers is None:
            return None
        cached = self._delta.get("prefix_hit_tokens", 0.0) + self._delta.get("external_hit_tokens", 0.0)
        return prompts - cached + generated - answers

    def _of_gpus(self) -> dict[Key, float | None]:
        """Utilisation, power and memory of the cell's GPUs; None without samples within the window."""
        names = ("gpu_utilisation_ratio", "gpu_power_w", "gpu_memory_bytes")
        if self._gpu is None or self.window is None or not self._within(self._gpu).any():
            return {(name, None): None for name in names}
        busy = numeric(self._gpu, "sm_utilisation")[self._within(self._gpu)]
        used_j = energy_j(self._gpu, self.window.start_s, self.window.end_s)
        index, memory = numeric(self._gpu, "gpu"), numeric(self._gpu, "memory_used_bytes")
        most = [float(np.nanmax(memory[index == gpu])) for gpu in np.unique(index) if not np.isnan(memory).all()]
        return {
            ("gpu_utilisation_ratio", None): None if np.isnan(busy).all() else float(np.nanmean(busy)),
            ("gpu_power_w", None): None if used_j is None else used_j / self.window.length_s,
            ("gpu_memory_bytes", None): sum(most) if most else None,
        }

    def _of_pools(self) -> dict[Key, float | None]:
        """Utilisation of the GPUs of each pool of servers; None where there is no such pool, or no samples of it."""
        found: dict[Key, float | None] = {}
        for role in ("prefill", "decode"):
            own = {
                gpu
                for process, place in self._processes.items()
                if process.partition("-")[0] == role
                for gpu in place["gpus"]
            }
            busy = np.empty(0)
            if own and self._gpu is not None and self.window is not None:
                theirs = np.isin(np.array(self._gpu.column("uuid").to_pylist(), dtype=object), list(own))
                busy = numeric(self._gpu, "sm_utilisation")[self._within(self._gpu) & theirs]
            known = busy[~np.isnan(busy)]
            found[f"{role}_gpu_utilisation_ratio", None] = float(known.mean()) if len(known) else None
        return found

    def _within(self, samples: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table of samples lie in the window."""
        assert self.window is not None
        time_s = numeric(samples, "time_s")
        inside: npt.NDArray[np.bool_] = (time_s >= self.window.start_s) & (time_s <= self.window.end_s)
        return inside

    def _energy_per_token_j(self) -> float | None:
        if self._gpu is None or not self._gpu.num_rows or self.window is None:
            return None
        inside = (self._arrival_s >= self.window.start_s) & (self._arrival_s < self.window.end_s)
        if self._load.kind != "rate":
            inside |= self._arrival_s == self.window.end_s
        tokens = float(self._chunk_tokens[inside].sum())
        used_j = energy_j(self._gpu, self.window.start_s, self.window.end_s)
        return used_j / tokens if used_j is not None and tokens else None
