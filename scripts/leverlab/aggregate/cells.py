"""Rows of cells.parquet and requests.parquet, from the cells of a study."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.aggregate.measured import StoredCell, stored_cell
from leverlab.aggregate.schema import lever_column, metric_column
from leverlab.checks import worst
from leverlab.checks.base import offered_load, requests_wait
from leverlab.layout import Layout
from leverlab.load.schema import REQUESTS
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell, StudyMatrix

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A row of cells.parquet, the cell, and its requests where it was measured."""

    row: Row
    entry: StudyCell
    requests: pa.Table | None


def study_rows(matrix: StudyMatrix, layout: Layout) -> Iterator[StudyRow]:
    """Every cell of the study in every replicate, in the matrix' order; one cell in memory at a time."""
    for entry in matrix.cells:
        for replicate in matrix.replicates:
            key = entry.key(replicate)
            stored = stored_cell(layout.cell(entry.cell.server.id, str(key), entry.cell.phase.id))
            row = _factors(entry, key) | _outcome(entry, stored)
            if stored.requests is not None and stored.record is not None:
                delta = stored.record.server_delta
                search = stored.record.search
                load = offered_load(stored.record.specification, search)
                highest_rate = search.highest_rate if search else None
                cell = MeasuredCell(
                    stored.requests,
                    stored.chunks,
                    load,
                    delta,
                    stored.gpu,
                    highest_rate,
                    stored.record.server_facts,
                    stored.server_metrics,
                    gpu_count=stored.record.specification["server"]["gpu"]["count"],
                    processes=stored.record.processes,
                    waiting=requests_wait(stored.record.specification["phase"]),
                )
                row |= numbers(stored.requests, cell, matrix.study.objectives)
            yield StudyRow(row, entry, stored.requests)


def with_factors(found: StudyRow, schema: pa.Schema) -> pa.Table:
    """The cell's requests with the cell's factors beside them, in the columns of `schema`."""
    assert found.requests is not None
    count = found.requests.num_rows
    columns = []
    for field in schema:
        if field.name not in REQUESTS.names:
            columns.append(pa.repeat(pa.scalar(found.row[field.name], field.type), count))
        elif field.name in found.requests.column_names:
            columns.append(found.requests.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(count, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _factors(entry: StudyCell, replicate: ReplicateKey) -> Row:
    server, phase, place = entry.cell.server, entry.cell.phase, entry.place
    levers = {lever_column(lever): level for lever, level in entry.treatment.levels}
    return {
        "cell": entry.cell.id,
        "server": server.id,
        "phase": phase.id,
        "replicate": str(replicate),
        "engine": place.engine,
        "model": place.model,
        "gpu": place.gpu,
        "gpu_count": place.gpu_count,
        "treatment": entry.treatment.name,
        **levers,
        "load": str(phase.load),
        "load_kind": phase.load.kind,
        "load_value": phase.load.value,
    }


def _outcome(entry: StudyCell, stored: StoredCell) -> Row:
    record, reason = stored.record, stored.reason
    server, phase = entry.cell.server, entry.cell.phase
    found = [check for check in stored.checks if check.severity != "ok"]
    found.sort(key=lambda check: check.severity != "invalid")
    specification: Mapping[str, Any] = {"server": server.identity, "phase": phase.identity}
    if record is not None:
        specification = record.specification
    return {
        "cache": phase.cache,
        "workload": phase.workload.id,
        "status": stored.status,
        "reason_code": reason.code if reason else None,
        "reason": reason.message if reason else None,
        "checks": worst(stored.checks) if stored.status == "measured" else None,
        "check_codes": ",".join(check.code for check in found),
        "trial": record.trial if record else None,
        "position": record.position if record else None,
        "started_at": record.started_at if record else None,
        "duration_s": record.duration_s if record else None,
        "request_timeout_s": record.request_timeout_s if record else None,
        "search": _json(record.search.model_dump()) if record and record.search else None,
        "provenance": _json(record.provenance) if record else None,
        "specification": _json(specification),
    }


def numbers(requests: pa.Table, cell: MeasuredCell, objectives: Mapping[str, float]) -> Row:
    """The columns of cells.parquet that are computed from the tables of a measured cell."""
    found: Row = {
        "requests": requests.num_rows,
        "window_s": cell.window.length_s if cell.window else None,
        "offered_rate": cell.offered_rate,
        "beyond_knee": cell.beyond_knee,
    }
    for (metric, statistic), value in cell.metrics(objectives).items():
        found[metric_column(metric, statistic)] = value
    for (metric, statistic), interval in cell.intervals().items():
        found[f"{metric}_{statistic}_low"] = interval.low if interval else None
        found[f"{metric}_{statistic}_high"] = interval.high if interval else None
    return found


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
