"""The tables of a study: every column with its unit and definition, in a schema that has a version."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from leverlab.aggregate.cell_metrics import INTERVAL_METRICS
from leverlab.load.schema import REQUESTS
from leverlab.metrics import METRICS
from leverlab.parquet import encoding
from leverlab.stats.summaries import PERCENTILES

SCHEMA_VERSION: Final = 2
"""Version of the tables' form: raised when a column changes its meaning, its unit or its type, or goes."""

_TEXT, _NUMBER, _COUNT, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()


def lever_column(lever: str) -> str:
    """The column that holds a lever's level."""
    return f"lever:{lever}"


def metric_column(metric: str, statistic: str | None) -> str:
    """The column of cells.parquet that holds a metric: `ttft_s_p50`, `throughput`."""
    return metric if statistic is None else f"{metric}_{statistic}"


def metric_keys() -> list[tuple[str, str | None]]:
    """Every metric with each of its statistics, in the registry's order."""
    return [(name, statistic) for name, metric in METRICS.items() for statistic in metric.statistics or (None,)]


def _field(name: str, kind: pa.DataType, definition: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "definition": definition})


def _factors(levers: Sequence[str]) -> list[pa.Field]:
    return [
        _field("cell", _TEXT, "the cell's id: server and phase"),
        _field("server", _TEXT, "the server's id"),
        _field("phase", _TEXT, "the phase's id: workload, load point and cache state"),
        _field(
            "replicate",
            _TEXT,
            "the replicate: all servers of one replay the same workload; `r1c1` is the baseline's copy in r1",
        ),
        _field(
            "engine",
            _TEXT,
            "the engine's name in config/engines.yaml, as the study names it; where a level names another, that one serves",
        ),
        _field("model", _TEXT, "the model's name in config/models.yaml, likewise"),
        _field("gpu", _TEXT, "the GPU type's name in config/gpus.yaml"),
        _field("gpu_count", _COUNT, "GPUs that a server takes, likewise", "1"),
        _field(
            "treatment", _TEXT, "what differs from the study's baseline, `baseline`, or `baseline again` for its copy"
        ),
        *[_field(lever_column(lever), _TEXT, f"level of the lever {lever}") for lever in levers],
        *_load_fields(),
    ]


def _load_fields() -> list[pa.Field]:
    return [
        _field("load", _TEXT, "the load point: `rate 4`, `concurrency 8`, `burst`"),
        _field("load_kind", _TEXT, "rate (open loop), concurrency (closed loop) or burst (all at once)"),
        _field("load_value", _NUMBER, "requests/s of an open loop, streams of a closed one; null in a burst"),
    ]


def requests_schema(levers: Sequence[str]) -> pa.Schema:
    """requests.parquet: a row a request of every measured cell, valid or not."""
    checks = _field("checks", _TEXT, "severest finding of the cell's checks: ok, caution or invalid")
    return _versioned([*_factors(levers), checks, *REQUESTS])


def cells_schema(levers: Sequence[str]) -> pa.Schema:
    """cells.parquet: a row a cell and replicate, those that are missing too."""
    fields = [
        *_factors(levers),
        _field("cache", _TEXT, "state of the caches from which the phase starts: cold, warm, tier or restarted"),
        _field("workload", _TEXT, "the workload's id"),
        _field(
            "status",
            _TEXT,
            "measured, failed, infeasible (the server cannot be), skipped (beyond the knee), or missing (no trial has reached it)",
        ),
        _field("reason_code", _TEXT, "why it is not measured, for programs"),
        _field("reason", _TEXT, "why it is not measured, for people"),
        _field(
            "checks",
            _TEXT,
            "severest finding of the checks: ok, caution or invalid (in no effect); null unless measured",
        ),
        _field("check_codes", _TEXT, "codes of the checks that are not ok, severest first, joined by `,`"),
        _field("trial", _COUNT, "number of the trial that measured it", "1"),
        _field("position", _COUNT, "which phase of its trial this was, from 0", "1"),
        _field("started_at", _TEXT, "when the phase began: UTC, ISO 8601"),
        _field("duration_s", _NUMBER, "how long the phase took", "s"),
        _field("request_timeout_s", _NUMBER, "how long each request was followed", "s"),
        _field("requests", _COUNT, "requests of the phase", "1"),
        _field("window_s", _NUMBER, "length of the window that rates are taken over", "s"),
        _field(
            "offered_rate",
            _NUMBER,
            "requests that arrived in the window / its length, as they were drawn",
            "requests/s",
        ),
        _field(
            "beyond_knee",
            _FLAG,
            "whether more was offered than the server sustains; null but at a rate, and where requests wait for the answers to others",
        ),
        _field("answers_compared", _COUNT, "requests that answers_alike is a share of; null where it is", "1"),
    ]
    for name, statistic in metric_keys():
        metric = METRICS[name]
        text = metric.definition if statistic is None else f"{statistic} over the cell of: {metric.definition}"
        fields.append(_field(metric_column(name, statistic), _NUMBER, text, metric.unit))
    for name in INTERVAL_METRICS:
        for statistic in PERCENTILES:
            for end in ("low", "high"):
                text = f"{end} end of the 95 % order-statistic interval of {name} {statistic} inside the cell"
                fields.append(_field(f"{name}_{statistic}_{end}", _NUMBER, text, METRICS[name].unit))
    fields += [
        _field(
            "search", _TEXT, "JSON: what a search for the rate found, as cell.json records it; null for other loads"
        ),
        _field("provenance", _TEXT, "JSON: what the node was and had installed, as cell.json records it"),
        _field("specification", _TEXT, "JSON: `{server, phase}` identities, enough to measure the cell again"),
    ]
    return _versioned(fields)


def saturation_schema() -> pa.Schema:
    """saturation.parquet: a row a context and treatment that was offered at least one rate."""
    fields = [
        _field("engine", _TEXT, "the engine's name in config/engines.yaml"),
        _field("model", _TEXT, "the model's name in config/models.yaml"),
        _field("gpu", _TEXT, "the GPU type's name in config/gpus.yaml"),
        _field("gpu_count", _COUNT, "GPUs that a server takes", "1"),
        _field("treatment", _TEXT, "what differs from the study's baseline, or `baseline`"),
        _field("place", _TEXT, "where the knee is: within, above or below the rates that were offered; mixed where it is above, or below, in some replicates only"),
        _field("low", _NUMBER, "highest rate that every replicate sustained; null where one sustained none", "requests/s"),
        _field("high", _NUMBER, "rate that no replicate sustained; null where one sustained all", "requests/s"),
        _field("capacity", _NUMBER, "geometric mean over replicates of what was finished a second beyond the knee", "requests/s"),
        _field("capacity_low", _NUMBER, "low end of its 95 % interval over the replicates", "requests/s"),
        _field("capacity_high", _NUMBER, "high end of its 95 % interval over the replicates", "requests/s"),
        _field("replicates", _COUNT, "replicates with a valid cell at a rate", "1"),
        _field("ratio", _NUMBER, "capacity / that of the baseline, in pairs of replicates", "1"),
        _field("ratio_low", _NUMBER, "low end of its 95 % interval", "1"),
        _field("ratio_high", _NUMBER, "high end of its 95 % interval", "1"),
    ]  # fmt: skip
    return _versioned(fields)


def effects_schema() -> pa.Schema:
    """effects.parquet: a row a context, kind, treatment, load point, metric and statistic."""
    change = "treatment / baseline for a comparison by ratio, treatment - baseline otherwise"
    fields = [
        _field("engine", _TEXT, "the engine's name in config/engines.yaml"),
        _field("model", _TEXT, "the model's name in config/models.yaml"),
        _field("gpu", _TEXT, "the GPU type's name in config/gpus.yaml"),
        _field("gpu_count", _COUNT, "GPUs that a server takes", "1"),
        _field("kind", _TEXT, "treatment; noise floor (the baseline's copy); main effect or interaction of crossed levers; simple effect at a level of another lever"),
        _field("treatment", _TEXT, "what differs from the study's baseline; the levels of a main effect, interaction or simple effect"),
        _field("changed", _TEXT, "JSON: `[[lever, level, the baseline's level], …]`"),
        _field("lever", _TEXT, "the lever whose primary metric this is, or the only one that changes; null for several"),
        *_load_fields(),
        _field("metric", _TEXT, "name of the metric"),
        _field("statistic", _TEXT, "mean, p50, p95 or p99 inside a cell; null for a metric of one value a cell"),
        _field("unit", _TEXT, "unit of baseline_value and treatment_value"),
        _field("better", _TEXT, "lower, higher or neither: which way is better"),
        _field("comparison", _TEXT, "ratio or difference"),
        _field("baseline_value", _NUMBER, "mean over the pairs (geometric for a ratio) at the baseline"),
        _field("treatment_value", _NUMBER, "mean over the pairs (geometric for a ratio) with the treatment"),
        _field("estimate", _NUMBER, f"{change}, over the pairs"),
        _field("interval_low", _NUMBER, "low end of the pointwise 95 % interval of the estimate"),
        _field("interval_high", _NUMBER, "high end of the pointwise 95 % interval of the estimate"),
        _field("verdict_low", _NUMBER, "low end of the interval that the verdict rests on, at verdict_level"),
        _field("verdict_high", _NUMBER, "high end of the interval that the verdict rests on, at verdict_level"),
        _field("verdict_level", _NUMBER, "Holm's level for a metric of the kind's family, 0.95 for every other", "1"),
        _field("simultaneous_low", _NUMBER, "low end of the Bonferroni interval: all primary ones hold together at 95 %"),
        _field("simultaneous_high", _NUMBER, "high end of the Bonferroni interval: all primary ones hold together at 95 %"),
        _field("prediction_low", _NUMBER, "low end of the 95 % interval for the change of one further replicate"),
        _field("prediction_high", _NUMBER, "high end of the 95 % interval for the change of one further replicate"),
        _field("p_value", _NUMBER, "two-sided, of the paired t test against no change", "1"),
        _field("adjusted_p", _NUMBER, "p value after Holm over the family of its kind; null for exploratory ones", "1"),
        _field("spread", _NUMBER, "standard deviation of the paired log ratios or differences"),
        _field("minimum_detectable", _NUMBER, "the change that would have been found with 80 % power: a factor above 1, or a difference"),
        _field("noise_floor", _NUMBER, "what two equal servers stay below with 95 %, from the baseline's copy: a factor above 1, or a difference"),
        _field("cautions", _TEXT, "JSON: `[{code, message}, …]` of what to know before believing the effect"),
        _field("pairs", _COUNT, "replicates with a valid value on both sides", "1"),
        _field("excluded", _TEXT, "JSON: `[{replicate, side, code, reason}, …]` of the replicates left out"),
        _field("primary", _FLAG, "whether this is the metric that the lever is judged by; everything else is exploratory"),
        _field("family", _COUNT, "comparisons of the same kind in primary metrics, which Holm corrects for", "1"),
        _field("verdict", _TEXT, "improves, worsens, no difference found, not judgeable or invalid"),
        _field("reason", _TEXT, "why there is no other verdict, or what was left out; empty where it is plain"),
    ]  # fmt: skip
    return _versioned(fields)


def accuracy_schema() -> pa.Schema:
    """accuracy.parquet: a row a context, treatment and score of the study's task; empty where the study asks none."""
    fields = [
        _field("engine", _TEXT, "the engine's name in config/engines.yaml"),
        _field("model", _TEXT, "the model's name in config/models.yaml"),
        _field("gpu", _TEXT, "the GPU type's name in config/gpus.yaml"),
        _field("gpu_count", _COUNT, "GPUs that a server takes", "1"),
        _field("treatment", _TEXT, "what differs from the study's baseline, `baseline`, or `baseline again` for its copy"),
        _field("server", _TEXT, "the server's id"),
        _field("replicate", _TEXT, "`r1`, or `r1c1` for the baseline's copy"),
        _field("task", _TEXT, "the task's name in lm_eval"),
        _field("run", _TEXT, "id of what was asked: task, limit, worked examples, seed, data, version of lm_eval"),
        _field("status", _TEXT, "measured, failed, infeasible (the server cannot be), or missing"),
        _field("reason", _TEXT, "why it is not measured"),
        _field("weights", _TEXT, "real; random (dummy weights: the scores mean nothing); simulated (a stand-in for an engine)"),
        _field("as_asked", _FLAG, "whether the server ran with what was asked for; what did not is compared with nothing"),
        _field("leading", _FLAG, "whether this is the task's first score: the one that a verdict is given on"),
        _field("metric", _TEXT, "name of the score in lm_eval"),
        _field("filter", _TEXT, "which part of an answer was compared, in the task's words"),
        _field("value", _NUMBER, "the score, as lm_eval gives it"),
        _field("standard_error", _NUMBER, "its standard error over the questions, as lm_eval gives it"),
        _field("questions", _COUNT, "questions that were asked", "1"),
        _field("higher_is_better", _FLAG, "whether a higher score is better"),
        _field("pairs", _COUNT, "questions that the baseline's server was asked in the same words", "1"),
        _field("gained", _COUNT, "of these, marked higher than with the baseline", "1"),
        _field("lost", _COUNT, "of these, marked lower than with the baseline", "1"),
        _field("difference", _NUMBER, "mean mark - the baseline's, over the pairs"),
        _field("difference_low", _NUMBER, "low end of its 95 % interval"),
        _field("difference_high", _NUMBER, "high end of its 95 % interval"),
        _field("p_value", _NUMBER, "two-sided, of no change", "1"),
        _field("method", _TEXT, "McNemar (exact, for right or wrong), or paired t"),
        _field("adjusted_p", _NUMBER, "p value after Holm over the study's treatments; null where no verdict is given", "1"),
        _field("verdict", _TEXT, "improves, worsens or no difference found; null for further scores, random weights and the copy"),
        _field("answers", _COUNT, "answers to the task's questions that both servers gave", "1"),
        _field("same_answers", _COUNT, "of these, the same as the baseline's to the last character", "1"),
        _field("prompts", _COUNT, "answers to the study's own prompts that both servers gave", "1"),
        _field("same_prompts", _COUNT, "of these, the same as the baseline's to the last character", "1"),
    ]  # fmt: skip
    return _versioned(fields)


def _versioned(fields: Sequence[pa.Field]) -> pa.Schema:
    names = [field.name for field in fields]
    assert len(set(names)) == len(names), "a column's name stands twice"
    return pa.schema(fields, metadata={"leverlab_schema_version": str(SCHEMA_VERSION)})


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """`rows` as a table; what a row lacks is null."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema)


def write_tables(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Write `tables`, one after another, into one Parquet file at `path`, by rename; the same bytes for the same rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(partial, schema, **encoding(schema)) as writer:
            for table in tables:
                writer.write_table(table)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
