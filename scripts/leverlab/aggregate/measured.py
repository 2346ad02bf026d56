"""A measured cell as it lies under results/: its record, tables and checks, and whether they are what was written."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from leverlab.aggregate.younger_checks import younger_results
from leverlab.checks import ChecksRecord, read_checks
from leverlab.checks.base import KeptTable
from leverlab.records import CellRecord, CheckResult, Reason
from leverlab.trial.cell_files import CHECKS_FILE, read_cell

_TABLES: Final = ("requests", "chunks")
_SAMPLES: Final = ("gpu", "server_metrics")
"""Tables that a cell may lack: a machine without GPUs, a server that does not tell."""

NO_TABLES: Final[Mapping[str, pa.Table | None]] = MappingProxyType({})

KEEPING_QUESTIONS: Final = {
    "checks_missing": "Was the cell checked, and is it known what was found?",
    "files_changed": "Are the cell's files what was written when it was measured?",
}
"""Code → question, of the checks that are made whenever a cell is read, besides those of `leverlab.checks`."""


@dataclass(frozen=True, slots=True)
class StoredCell:
    """One cell and replicate. `record` is None where no trial has reached it; tables are None unless it was measured."""

    record: CellRecord | None
    reason: Reason | None
    checks: tuple[CheckResult, ...] = ()
    requests: pa.Table | None = None
    chunks: pa.Table | None = None
    gpu: pa.Table | None = None
    server_metrics: pa.Table | None = None

    @property
    def status(self) -> str:
        """measured, failed, infeasible, skipped or missing."""
        if self.record is None:
            return "missing" if self.reason is None else "failed"
        if self.record.status == "measured" and self.requests is None:
            return "failed"
        return self.record.status


def stored_cell(folder: Path) -> StoredCell:
    """The cell kept in `folder`. Never raises for a record or table that is damaged: such a cell is failed, and says why.

    What a file holds is compared with the hash that cell.json names; a cell whose files changed, or that was never checked,
    is invalid.
    """
    try:
        record = read_cell(folder)
    except ValueError as error:
        return StoredCell(None, Reason(code="record_unreadable", message=str(error)))
    if record is None or record.status != "measured":
        return StoredCell(record, record.reason if record else None)
    try:
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in _TABLES}
        samples = {name: _samples(folder / f"{name}.parquet") for name in _SAMPLES}
    except (OSError, pa.ArrowException) as error:
        message = f"{folder}: {error}; delete the folder to measure the cell again"
        return StoredCell(record, Reason(code="table_unreadable", message=message))
    return StoredCell(record, None, stored_checks(folder, record, tables={**tables, **samples}), **tables, **samples)


def _samples(path: Path) -> pa.Table | None:
    return pq.read_table(path) if path.is_file() else None


def stored_checks(
    folder: Path, record: CellRecord, *, hashed: bool = True, tables: Mapping[str, pa.Table | None] = NO_TABLES
) -> tuple[CheckResult, ...]:
    """What the checks found of the cell kept in `folder`, younger ones find of it now, and how it is kept (`KEEPING_QUESTIONS`).

    Without `hashed`, files are not compared with what was written: that reads all of them. `tables` are those of the cell that are
    read already, None for one that is not there; of the others a younger check has read what it needs.
    """
    return (*_own_checks(folder, record, _tables(folder, tables)), *(_integrity(folder, record) if hashed else ()))


def _tables(folder: Path, known: Mapping[str, pa.Table | None]) -> Callable[[KeptTable], pa.Table | None]:
    """A cell's tables by name, each read once and when it is first asked for; None for one that is not there or is damaged."""

    @cache
    def table(name: KeptTable) -> pa.Table | None:
        if name in known:
            return known[name]
        try:
            return pq.read_table(folder / f"{name}.parquet")
        except (OSError, pa.ArrowException):
            return None  # whoever needs the table itself says so

    return table


def _own_checks(folder: Path, record: CellRecord, table: Callable[[KeptTable], pa.Table | None]) -> list[CheckResult]:
    path = folder / CHECKS_FILE
    expected = f"{CHECKS_FILE} of this cell"
    remedy = "delete the cell's folder to measure it again"
    try:
        found: ChecksRecord = read_checks(path)
    except FileNotFoundError:
        return [_invalid("checks_missing", "the cell was never checked", expected, remedy)]
    except (OSError, ValueError) as error:
        return [_invalid("checks_missing", f"{path.name} cannot be read: {error}"[:300], expected, remedy)]
    if found.cell != record.cell:
        return [_invalid("checks_missing", f"{path.name} is of the cell {found.cell}", expected, remedy)]
    return [*found.checks, *younger_results(record, {check.code for check in found.checks}, table)]


def _integrity(folder: Path, record: CellRecord) -> list[CheckResult]:
    changed = [name for name, known in sorted(record.files.items()) if _hash(folder / name) not in (known, None)]
    if not changed:
        return []
    return [
        _invalid(
            "files_changed",
            f"{', '.join(changed)} are not what was written when the cell was measured",
            "the hashes that cell.json names",
            "copy the cell again from where it was measured, or delete its folder to measure it again",
        )
    ]


def _hash(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _invalid(code: str, saw: str, expected: str, remedy: str) -> CheckResult:
    return CheckResult(code=code, severity="invalid", saw=saw, expected=expected, remedy=remedy)
