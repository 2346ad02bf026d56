"""What was recorded of a cell: its specification, and each replicate's numbers and provenance."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leverlab.aggregate.cell_metrics import Key, MeasuredCell
from leverlab.aggregate.measured import StoredCell, stored_cell
from leverlab.aggregate.schema import metric_column, metric_keys
from leverlab.checks.base import offered_load
from leverlab.layout import Layout
from leverlab.load_point import LoadPoint
from leverlab.matrix.cells import ReplicateKey
from leverlab.reproduce.recorded import cell_folders, no_record, table_rows


@dataclass(frozen=True, slots=True)
class Replicate:
    """One measurement of the cell. `values` in the metrics' own units; `invalid` names the checks that exclude it."""

    name: str
    values: Mapping[Key, float | None]
    provenance: Mapping[str, Any]
    invalid: tuple[str, ...]
    cautions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was recorded of a cell. `replicates` holds those that were measured, without A/A copies."""

    cell: str
    server: str
    phase: str
    engine: str
    specification: Mapping[str, Any]
    replicates: tuple[Replicate, ...]
    source: str
    request_timeout_s: float | None = None
    """How long its requests were followed; None where that was not recorded."""

    @property
    def load(self) -> LoadPoint:
        """The cell's load point."""
        return LoadPoint(**self.specification["phase"]["load"])

    @property
    def valid(self) -> tuple[Replicate, ...]:
        """Replicates whose numbers may be compared with."""
        return tuple(replicate for replicate in self.replicates if not replicate.invalid)


def gather(cell: str, layout: Layout) -> Evidence:
    """What was recorded of `cell`: its records under results/servers/, else its rows in the studies' tables.

    Raises LookupError where nothing is recorded of it, or no number.
    """
    folders = cell_folders(cell, layout)
    evidence = _from_folders(cell, folders) if folders else _from_tables(cell, layout)
    if evidence is None:
        raise no_record(cell, layout)
    if not evidence.replicates:
        raise LookupError(f"the cell {cell} was never measured: there is no number that could hold")
    return evidence


def replicate_of(name: str, stored: StoredCell) -> Replicate | None:
    """A kept cell's numbers; None where it was not measured."""
    record = stored.record
    if stored.status != "measured" or record is None:
        return None
    load = offered_load(record.specification, record.search)
    highest_rate = record.search.highest_rate if record.search else None
    gpus = record.specification["server"]["gpu"]["count"]
    measured = MeasuredCell(
        stored.requests, stored.chunks, load, record.server_delta, stored.gpu, highest_rate, gpu_count=gpus
    )
    invalid, cautions = (
        tuple(check.code for check in stored.checks if check.severity == severity)
        for severity in ("invalid", "caution")
    )
    return Replicate(name, measured.metrics({}), record.provenance, invalid, cautions)


def _counts(name: str) -> bool:
    """Whether a replicate is one of the matrix, with a draw of its own: an A/A copy repeats another's."""
    key = ReplicateKey.parse(name)
    return not key.copy and not key.reproduction


def _from_folders(cell: str, folders: list[Path]) -> Evidence | None:
    kept = [(folder.parents[1].name, stored_cell(folder)) for folder in folders]
    records = [stored.record for _, stored in kept if stored.record is not None]
    if not records:
        return None
    found = (replicate_of(name, stored) for name, stored in kept if _counts(name))
    return Evidence(
        cell=cell,
        server=records[0].server,
        phase=records[0].phase,
        engine=records[0].engine,
        specification=records[0].specification,
        replicates=tuple(replicate for replicate in found if replicate is not None),
        source=str(folders[0].parents[2]),
        request_timeout_s=records[0].request_timeout_s,
    )


def _from_tables(cell: str, layout: Layout) -> Evidence | None:
    rows = table_rows(cell, layout)
    if not rows:
        return None
    replicates = []
    for row in rows:
        if row["status"] != "measured" or not _counts(row["replicate"]):
            continue
        codes = tuple(code for code in (row["check_codes"] or "").split(",") if code)
        invalid = row["checks"] == "invalid"
        replicates.append(
            Replicate(
                name=row["replicate"],
                values={key: row[metric_column(*key)] for key in metric_keys()},
                provenance=json.loads(row["provenance"] or "{}"),
                invalid=codes if invalid else (),
                cautions=() if invalid else codes,
            )
        )
    return Evidence(
        cell=cell,
        server=rows[0]["server"],
        phase=rows[0]["phase"],
        engine=rows[0]["engine"],
        specification=json.loads(rows[0]["specification"]),
        replicates=tuple(replicates),
        source=f"{layout.results}/studies/*/cells.parquet",
        request_timeout_s=rows[0].get("request_timeout_s"),
    )
