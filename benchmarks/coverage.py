"""How often the 95 % intervals hold the true change, and how often a study that changes nothing shows a verdict.

    python benchmarks/coverage.py                                # 2,000 studies a setting
    python benchmarks/coverage.py --studies 200 --seed 7 --replicates 3 5

A queueing server with heavy tails is simulated, with an effect of each server's lifetime and of each replicate's node. Its
requests go through the program's own path: tables, metrics of the cell, rows, effects, verdicts. One draw of a study serves
all counts of replicates: the smaller ones look at its first replicates. The truth is the expected log ratio under the same
simulation, as the mean over many more replicates.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from simulated_queue import Array, Served, serve

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.aggregate.cells import numbers
from leverlab.aggregate.effects import effect_rows
from leverlab.config import load
from leverlab.load.schema import CHUNKS, REQUESTS
from leverlab.load_point import LoadPoint
from leverlab.matrix.expand import StudyMatrix, expand

REPOSITORY = Path(__file__).resolve().parents[1]

METRICS: Final = ("p50", "p99", "throughput")
LEVERS: Final = ("prefix_caching", "max_num_seqs")
"""Their primary metrics are p99 and throughput: a family of two. p50 is looked at as an exploratory metric of the first."""

REQUESTS_A_CELL: Final = 200
RATE: Final = 4.0
KNOWN_EFFECT: Final = 0.9
"""Factor on the time of all work of a treated server."""
BATCH: Final = 10
TRUTH_REPLICATES: Final = 40_000

STUDY = """\
question: Do the intervals hold what they promise?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 200, prompt_tokens: 16, output_tokens: 8}
load: {rates: [4, inf]}
levers:
  prefix_caching: [on, off]
  max_num_seqs: [64, 4]
baseline: {prefix_caching: on, max_num_seqs: 64}
primary:
  prefix_caching: ttft_s p99 at rate 4
  max_num_seqs: throughput at burst
replicates: 10
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """Counts over the studies of one setting, for one metric. `held`: intervals that hold the truth."""

    effect: float
    replicates: int
    metric: str
    true_ratio: float
    studies: int
    held: int
    missed_below: int
    missed_above: int
    verdicts: int


def summary(served: Served, metric: str) -> Array:
    """`metric` of each cell: percentiles of TTFT, or generated tokens per second of a burst."""
    if metric == "throughput":
        return np.asarray(served.tokens.sum(axis=1) / served.last_s.max(axis=1))
    return np.asarray(np.quantile(served.first_s - served.scheduled_s, float(metric[1:]) / 100, axis=1))


def true_changes(seed: int, effect: float, replicates: int = TRUTH_REPLICATES) -> dict[str, float]:
    """Expected log ratio of each metric; exactly 0 without an effect, where both sides are drawn alike."""
    if effect == 1:
        return dict.fromkeys(METRICS, 0.0)
    generator = np.random.default_rng([seed, 1])
    sides = {
        burst: serve(generator, replicates, (1.0, effect), REQUESTS_A_CELL, None if burst else RATE)
        for burst in (False, True)
    }
    return {
        metric: float(np.mean(np.log(summary(after, metric) / summary(before, metric))))
        for metric in METRICS
        for before, after in [sides[metric == "throughput"]]
    }


def tables(served: Served, cell: int) -> tuple[pa.Table, pa.Table]:
    """The requests and chunks of one cell: of each request its first token, and the others at once."""
    count = REQUESTS_A_CELL
    scheduled_s, first_s, last_s = served.scheduled_s[cell], served.first_s[cell], served.last_s[cell]
    tokens = served.tokens[cell].astype(np.int64)
    index, ones = np.arange(count), np.ones(count, np.int64)
    columns: dict[str, Any] = {
        "index": index, "status": pa.repeat("ok", count), "http_status": 200 * ones, "error": pa.repeat("", count),
        "prompt_tokens": 16 * ones, "completion_tokens": tokens, "requested_output_tokens": tokens,
        "scheduled_s": scheduled_s, "sent_s": scheduled_s, "first_token_s": first_s, "last_token_s": last_s,
        "first_chunk_tokens": ones, "chunks": 2 * ones, "ttft_s": first_s - scheduled_s,
        "ttft_service_s": first_s - scheduled_s, "tpot_s": (last_s - first_s) / (tokens - 1),
        "e2e_s": last_s - scheduled_s, "send_lag_s": np.zeros(count),
    }  # fmt: skip
    arrays = [
        pa.array(columns[field.name], field.type) if isinstance(columns.get(field.name), np.ndarray)
        else columns.get(field.name, pa.nulls(count, field.type))
        for field in REQUESTS
    ]  # fmt: skip
    chunks = [np.concatenate([index, index]), np.concatenate([first_s, last_s]), np.concatenate([ones, tokens - 1])]
    return pa.Table.from_arrays(arrays, schema=REQUESTS), pa.Table.from_arrays(
        list(map(pa.array, chunks)), schema=CHUNKS
    )


def study_matrix() -> StudyMatrix:
    """The study: one treatment for each of LEVERS, at a rate and in a burst."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for folder in ("config", "envs"):
            shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("studies", "local.yaml"))
        (root / "config" / "studies").mkdir()
        (root / "config" / "studies" / "coverage.yaml").write_text(STUDY, encoding="utf-8")
        return expand(load(root, {"study": "coverage"}), ["coverage"]).studies[0]


def studies(matrix: StudyMatrix, generator: np.random.Generator, effect: float, replicates: int) -> Iterator[list[Any]]:
    """Rows of cells.parquet of BATCH studies, those that the primary comparisons need."""
    treatments = {lever: entry.treatment.name for entry in matrix.cells for lever, _ in entry.treatment.changed}
    baseline = next(entry.treatment.name for entry in matrix.cells if entry.treatment.is_baseline)
    named = [treatments[lever] for lever in LEVERS]
    rate = serve(generator, BATCH * replicates, (1.0, effect), REQUESTS_A_CELL, RATE)
    burst = serve(generator, BATCH * replicates, (1.0, effect), REQUESTS_A_CELL, None)
    places = [
        *zip((baseline, named[0]), rate, [LoadPoint("rate", RATE)] * 2, strict=True),
        *zip((baseline, named[1]), burst, [LoadPoint("burst")] * 2, strict=True),
    ]
    for study in range(BATCH):
        rows = []
        for number, replicate in enumerate(matrix.replicates[:replicates]):
            for treatment, served, point in places:
                requests, chunks = tables(served, study * replicates + number)
                row = {"engine": "truth", "model": "tiny-llama", "gpu": "cpu", "gpu_count": 1, "status": "measured",
                       "treatment": treatment, "load": str(point), "replicate": str(replicate), "checks": "ok",
                       "check_codes": ""}  # fmt: skip
                rows.append(row | numbers(requests, MeasuredCell(requests, chunks, point, {}, None), {}))
        yield rows


def judged(matrix: StudyMatrix, rows: Sequence[dict[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """Effects by metric of a study of which the first `count` replicates were planned and measured."""
    planned = replace(matrix, replicates=matrix.replicates[:count])
    kept = {str(replicate) for replicate in planned.replicates}
    found = effect_rows(planned, [row for row in rows if row["replicate"] in kept])
    wanted = {("prefix_caching", "ttft_s", "p50", "rate"), ("prefix_caching", "ttft_s", "p99", "rate"),
              ("max_num_seqs", "throughput", None, "burst")}  # fmt: skip
    return {
        row["statistic"] or row["metric"]: row
        for row in found
        if (row["lever"], row["metric"], row["statistic"], row["load_kind"]) in wanted
    }


def covered(
    matrix: StudyMatrix, total: int, seed: int, effect: float, counts: Sequence[int], progress: bool = True
) -> tuple[list[Setting], dict[int, int]]:
    """A setting for each count of replicates and metric; and by count, studies with any verdict of a change."""
    truth = true_changes(seed, effect)
    generator = np.random.default_rng([seed, 2, round(effect * 1000)])
    tally = {(count, metric): [0, 0, 0, 0] for count in counts for metric in METRICS}
    any_verdict, done = dict.fromkeys(counts, 0), 0
    while done < total:
        for rows in studies(matrix, generator, effect, max(counts)):
            if done == total:
                break
            done += 1
            for count in counts:
                effects = judged(matrix, rows, count)
                changed = 0
                for metric in METRICS:
                    row, true = effects[metric], math.exp(truth[metric])
                    below, above = row["interval_high"] < true, row["interval_low"] > true
                    decided = row["verdict"] in ("improves", "worsens")
                    for place, happened in enumerate((not below and not above, below, above, decided)):
                        tally[count, metric][place] += happened
                    changed += decided and row["primary"]
                any_verdict[count] += changed > 0
            if progress and done % 50 == 0:
                print(f"factor {effect:g}: {done:,} of {total:,} studies", file=sys.stderr, flush=True)
    settings = [
        Setting(effect, count, metric, math.exp(truth[metric]), total, *tally[count, metric])
        for count, metric in tally
    ]  # fmt: skip
    return settings, any_verdict


def main() -> int:
    """Print the table and write it to results/benchmarks/coverage.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="studies with, and as many without, an effect")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicates", type=int, nargs="+", default=[3, 5, 10], help="from 2 to 10")
    arguments = parser.parse_args()
    if arguments.studies < 1 or not all(2 <= count <= 10 for count in arguments.replicates):
        parser.error("--studies: at least 1; --replicates: each from 2 to 10")
    matrix = study_matrix()
    settings: list[Setting] = []
    false_studies: dict[int, int] = {}
    for effect in (KNOWN_EFFECT, 1.0):
        found, false_studies = covered(matrix, arguments.studies, arguments.seed, effect, arguments.replicates)
        settings += found
    print("| factor on work | replicates | metric | true ratio | interval holds it | too low | too high | verdicts |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for entry in settings:
        shares = [f"{100 * part / entry.studies:.1f} %"
                  for part in (entry.held, entry.missed_below, entry.missed_above, entry.verdicts)]  # fmt: skip
        print(
            f"| {entry.effect:g} | {entry.replicates} | {entry.metric} | {entry.true_ratio:.4f} | {' | '.join(shares)} |"
        )
    for count, wrong in false_studies.items():
        print(f"no effect, {count} replicates: a false verdict in {100 * wrong / arguments.studies:.1f} % of studies")
    written = REPOSITORY / "results" / "benchmarks" / "coverage.json"
    written.parent.mkdir(parents=True, exist_ok=True)
    record = {**vars(arguments), "settings": list(map(asdict, settings)), "studies_with_a_false_verdict": false_studies}
    written.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
