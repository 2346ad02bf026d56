"""Studies made up for the report's tests: the tables, records and cards that a measured study leaves behind.

The times are drawn around a simple model of a server. Nothing here is a measurement.
"""

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leverlab.aggregate.effects import effect_rows
from leverlab.aggregate.saturation import saturation_rows
from leverlab.aggregate.schema import (
    cells_schema,
    effects_schema,
    lever_column,
    requests_schema,
    saturation_schema,
    table_of,
    write_tables,
)
from leverlab.checks import write_checks
from leverlab.config import Configuration, load
from leverlab.identity import seed_from
from leverlab.layout import Layout
from leverlab.load.schema import CHUNKS
from leverlab.load_point import LoadPoint
from leverlab.matrix.expand import StudyMatrix, expand
from leverlab.matrix.treatments import Treatment
from leverlab.records import CellRecord, CheckResult, Reason, write_bytes, write_json
from leverlab.report.index import render_index
from leverlab.report.page import render_study
from leverlab.report.source import StudyData, read_study
from leverlab.telemetry.server_metrics import SERVER_METRICS
from leverlab.workloads.card import make_card
from tests.unit.report_studies import STUDIES, TROUBLED

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ReportStudy:
    """A study whose results lie under `root`, ready to be reported."""

    root: Path
    name: str

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @cached_property
    def configuration(self) -> Configuration:
        return load(self.root, {"study": self.name})

    def read(self) -> StudyData:
        return read_study(self.name, self.configuration, self.layout)

    def write_report(self) -> Path:
        write_bytes(self.layout.report(self.name), render_study(self.read()).encode())
        return self.layout.report(self.name)

    def write_index(self) -> Path:
        write_bytes(self.layout.reports / "index.html", render_index(self.configuration, self.layout).encode())
        return self.layout.reports / "index.html"


def make_study(
    root: Path,
    name: str,
    *,
    baseline: dict[str, str] | None = None,
    records: bool = True,
    text: str | None = None,
    null: bool = False,
    keyed: bool = False,
) -> ReportStudy:
    """Write the study's configuration and results.

    `baseline` replaces its own; without `records` there are tables alone; `text` is a study that is not in `STUDIES`;
    with `null` no lever does anything; with `keyed` a server measures the same, whichever of them is the baseline.
    """
    if not (root / "config").exists():
        shutil.copytree(REPOSITORY / "config", root / "config", ignore=shutil.ignore_patterns("studies"))
        shutil.copytree(REPOSITORY / "envs", root / "envs")  # the locks: versions are part of a server's identity
    text = text or STUDIES[name]
    for lever, level in (baseline or {}).items():
        before, after = text.split("baseline: {", 1)
        old = dict(item.split(": ") for item in after.split("}", 1)[0].split(", "))[lever]
        text = before + "baseline: {" + after.replace(f"{lever}: {old}", f"{lever}: {level}", 1)
    (root / "config" / "studies").mkdir(exist_ok=True)
    (root / "config" / "studies" / f"{name.removesuffix('-smoke')}.yaml").write_text(text)
    study = ReportStudy(root, name)
    (matrix,) = expand(study.configuration, [name]).studies
    rows, levers, folder = list(_cells(matrix, null, keyed)), list(matrix.study.levers), study.layout.study(name)
    for table, schema, content in (
        ("cells", cells_schema(levers), rows),
        ("effects", effects_schema(), effect_rows(matrix, rows)),
        ("saturation", saturation_schema(), saturation_rows(rows)),
        ("requests", requests_schema(levers), list(_requests(rows))),
    ):
        write_tables(folder / f"{table}.parquet", schema, iter([table_of(content, schema)]))
    if records:
        for row in rows:
            _write_records(study, row)
        _write_cards(study, {row["workload"]: row["model"] for row in rows})
    return study


def _cells(matrix: StudyMatrix, null: bool, keyed: bool) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(1)
    for entry, number in itertools.product(matrix.cells, matrix.replicates):
        replicate = entry.key(number)
        server, phase, number = entry.cell.server, entry.cell.phase, replicate.number
        levels = dict(entry.treatment.levels)
        node = {
            "node": {"hostname": f"worker-{number}"},
            "versions": {"vllm": "1.2.3"},
            "git": {"commit": "0123abc", "dirty": False},
        }
        row: dict[str, Any] = {
            "cell": entry.cell.id, "server": server.id, "phase": phase.id, "replicate": str(replicate), "engine": server.engine,
            "model": server.model, "gpu": server.gpu, "gpu_count": server.gpu_count, "treatment": entry.treatment.name,
            **{lever_column(lever): level for lever, level in levels.items()},
            "load": str(entry.load), "load_kind": entry.load.kind, "load_value": entry.load.value,
            "cache": phase.cache, "workload": phase.workload.id, "status": "measured", "reason_code": None, "reason": None, "checks": "ok",
            "check_codes": "", "trial": 1, "position": 0, "started_at": f"2026-03-0{number}T10:00:00Z", "duration_s": 50.0,
            "offered_rate": entry.load.value, "beyond_knee": None, "provenance": json.dumps(node),
            "specification": json.dumps({"server": dict(server.identity), "phase": dict(phase.identity)}),
        }  # fmt: skip
        if keyed:
            random = np.random.default_rng(seed_from(server.id, phase.id, str(replicate)))
        acting = {"prefix_caching": "on", "max_num_seqs": "64"} if null else levels
        values = _values(acting, entry.load, 10.0 * server.gpu_count if server.gpu != "cpu" else 1.0, random)
        yield row | _trouble(matrix.name, entry.treatment, entry.load, number, values)


def _requests(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two requests of every measured cell, as far as a report looks at them."""
    for row in rows:
        if row["status"] == "measured":
            for index, prompt in enumerate((1600, 1648)):
                known = {name: row[name] for name in ("cell", "replicate", "treatment", "load")}
                counts = {"requested_output_tokens": 32, "completion_tokens": 32, "chunks": 32}
                yield {**known, **counts, "index": index, "status": "ok", "error": "", "prompt_tokens": prompt}


def _values(
    levels: dict[str, str], point: LoadPoint, speed: float, random: np.random.Generator
) -> dict[str, float | None]:
    cached, narrow = levels["prefix_caching"] == "on", levels["max_num_seqs"] == "4"
    capacity = (8.0 if cached else 3.0) * speed * (0.5 if narrow else 1.0)
    offered = point.value or 64.0
    busy = min(offered / capacity, 3.0)

    def about(value: float, spread: float = 0.03) -> float:
        return value * math.exp(random.normal(0, spread))

    ttft, tpot = (
        about((0.06 if cached else 0.31) / speed * (1 + 2 * busy**3)),
        about((0.012 + 0.004 * min(busy, 1.5)) / math.sqrt(speed)),
    )
    achieved = about(min(offered, capacity), 0.01)
    middle = {
        "ttft_s": ttft,
        "ttft_service_s": ttft,
        "tpot_s": tpot,
        "chunk_gap_s": tpot,
        "e2e_s": ttft + 31 * tpot,
        "send_lag_s": 5e-5,
    }
    statistics = {"mean": 1.2, "p50": 1.0, "p95": 1.9, "p99": 2.6}
    spread = {
        f"{name}_{key}": about(value * scale, 0.01)
        for name, value in middle.items()
        for key, scale in statistics.items()
    }
    return spread | {
        "beyond_knee": achieved < 0.9 * offered if point.kind == "rate" else None,
        "throughput": 32 * achieved, "total_throughput": 1632 * achieved, "achieved_rate": achieved, "goodput": 0.9 * achieved, "error_ratio": 0.0,
        "queue_time_s": 0.002 * busy, "prefill_time_s": 0.8 * ttft, "decode_time_s": 31 * tpot, "cache_hit_ratio": 0.87 if cached else 0.0,
        "preemptions": 0.0, "energy_per_token_j": None,
    }  # fmt: skip


def _trouble(
    study: str, treatment: Treatment, point: LoadPoint, number: int, values: dict[str, float | None]
) -> dict[str, Any]:
    """One cell of each kind that has no number, or a doubtful one."""
    nothing = dict.fromkeys(values, None)
    if study != TROUBLED or treatment.is_baseline or point.kind != "burst":
        return values
    lever = treatment.changed[0][0]
    kinds = {
        ("prefix_caching", 1): {**values, "checks": "invalid", "check_codes": "cache_state"},
        ("prefix_caching", 2): {
            **nothing,
            "status": "failed",
            "reason_code": "server_died",
            "reason": "The server died.",
            "checks": None,
        },
        ("prefix_caching", 3): {**nothing, "status": "missing", "checks": None, "provenance": None, "started_at": None},
        ("max_num_seqs", 2): {**values, "checks": "caution", "check_codes": "send_lag"},
        ("max_num_seqs", 3): {
            **nothing,
            "status": "infeasible",
            "reason_code": "out_of_memory",
            "reason": "Out of memory.",
            "checks": None,
        },
    }
    return kinds.get((lever, number), values)


def _write_records(study: ReportStudy, row: dict[str, Any]) -> None:
    folder = study.layout.cell(row["server"], row["replicate"], row["phase"])
    if row["status"] == "missing":
        return
    folder.mkdir(parents=True, exist_ok=True)
    reason = None
    if row["status"] != "measured":
        reason = Reason(
            code=row["reason_code"],
            message=row["reason"],
            log=["ERROR worker <0> exited", "RuntimeError: no blocks & no memory"],
        )
    write_json(
        folder / "cell.json",
        CellRecord(
            cell=row["cell"], server=row["server"], phase=row["phase"], replicate=row["replicate"], status=row["status"], reason=reason,
            specification=json.loads(row["specification"]), engine=row["engine"], trial=1, position=0, started_at=row["started_at"], duration_s=row["duration_s"],
        ),
    )  # fmt: skip
    if row["status"] != "measured":
        return
    severities = {code: row["checks"] for code in row["check_codes"].split(",") if code}
    results = [
        CheckResult(
            code=code,
            severity=severities.get(code, "ok"),
            saw="what was seen",
            expected="what was expected",
            remedy="what to do",
        )
        for code in ("all_ended", "send_lag", "cache_state")
    ]
    write_checks(folder / "checks.json", row["cell"], results)
    random = np.random.default_rng(len(row["cell"]))
    starts = np.arange(24) / 2 + row["ttft_s_p50"]
    gaps = row["tpot_s_p50"] * random.lognormal(0, 0.3, (24, 32))
    times = starts[:, None] + np.cumsum(gaps, axis=1)
    chunks = {"index": np.repeat(np.arange(24), 32), "arrival_s": times.ravel(), "tokens": np.ones(24 * 32, np.int64)}
    pq.write_table(pa.table(chunks, schema=CHUNKS), folder / "chunks.parquet")
    samples = [
        {"time_s": second / 2, "name": name, "value": float(value)}
        for second in range(24)
        for name, value in (("running", 24 - second), ("waiting", max(0, 6 - second)))
    ]
    pq.write_table(pa.Table.from_pylist(samples, SERVER_METRICS), folder / "server_metrics.parquet")


def _write_cards(study: ReportStudy, workloads: dict[str, str]) -> None:
    loaded = study.configuration.study(study.name)
    alike = isinstance(loaded.workload, str)
    for (workload, model), number in itertools.product(workloads.items(), range(1, loaded.replicates + 1)):
        random = np.random.default_rng(number)
        lengths = [64] * 48 if alike else random.integers(20, 400, 48).tolist()
        prompts = [
            [group, *random.integers(10, 9999, length - 1).tolist()]
            for group, length in zip(itertools.cycle(range(4)), lengths, strict=False)
        ]
        identity = {"workload": study.configuration.workload(loaded).model_dump(), "tokenizer": {"name": model}}
        arrivals = np.cumsum(random.exponential(1e9, 48)).astype(int).tolist()
        groups = [f"g{index % 4}" if alike else None for index in range(48)]
        card = make_card(identity, number, prompts, [32] * 48, groups, arrivals)
        folder = study.layout.workload(workload, f"r{number}")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "card.json", card)
