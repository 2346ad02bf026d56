"""A cell's folder: written whole and by rename, never overwritten by something worse."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from leverlab.checks import write_checks
from leverlab.layout import CELL_FILE
from leverlab.parquet import encoding
from leverlab.records import RECORD_VERSION, CellRecord, CheckResult, Status, read_json, write_json

CHECKS_FILE: Final = "checks.json"
_PART: Final = ".part"
_WORTH: Final[dict[Status, int]] = {"skipped": 0, "failed": 1, "infeasible": 2, "measured": 3}
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class DamagedCellError(ValueError):
    """There is a record of a cell, and it cannot be read. The message names the file and the remedy."""


class DiskFullError(OSError):
    """The disk, or the user's share of it, is full. The message names the folder and the remedy."""


def read_cell(folder: Path) -> CellRecord | None:
    """The record of the cell kept in `folder`; None where there is none. Raises DamagedCellError."""
    path = folder / CELL_FILE
    try:
        return CellRecord.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        said = " ".join(str(error).split())
        raise DamagedCellError(f"{path}: {said[:200]}; delete its folder to measure the cell again") from None


def write_cell(
    folder: Path, record: CellRecord, tables: Mapping[str, pa.Table], checks: Sequence[CheckResult] | None
) -> bool:
    """Keep a cell in `folder`: cell.json, `<name>.parquet` for each of `tables`, and checks.json where it was checked.

    Everything reaches the disk in a folder beside it, which then takes the name. What is there already stays if it is
    worth more (measured before infeasible before failed), and always if it is measured. True where the new cell was kept.
    Raises DiskFullError; what was begun is removed then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}{_PART}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with told_of_full_disk(folder):
            part.mkdir()
            _fill(part, record, tables, checks)
            return _take_place(part, folder, record.status)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def clear_leftovers(cells: Path) -> None:
    """Remove what writers that died left in the folder `cells`. Only for who holds the lease: nobody else is writing."""
    for part in cells.glob(f".*{_PART}"):
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def told_of_full_disk(folder: Path) -> Iterator[None]:
    """Turn the system's error of a full disk into DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(
            error.errno,
            f"{folder}: {error.strerror}: finished cells are kept; make room and run the same command again",
        ) from error


def _fill(part: Path, record: CellRecord, tables: Mapping[str, pa.Table], checks: Sequence[CheckResult] | None) -> None:
    for name, table in tables.items():
        about = {**(table.schema.metadata or {}), "leverlab_table": name, "leverlab_cell": record.cell}
        about["leverlab_record_version"] = str(RECORD_VERSION)
        pq.write_table(table.replace_schema_metadata(about), part / f"{name}.parquet", **encoding(table.schema))
    if checks is not None:
        write_checks(part / CHECKS_FILE, record.cell, list(checks))
    files = {path.name: _settled_hash(path) for path in sorted(part.iterdir())}
    write_json(part / CELL_FILE, record.model_copy(update={"files": files}))
    _sync(part)


def _settled_hash(path: Path) -> str:
    """The SHA-256 of a file that was seen to reach the disk."""
    _sync(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_place(part: Path, folder: Path, status: Status) -> bool:
    there = read_cell(folder)
    if there is not None and (there.status == "measured" or _WORTH[there.status] > _WORTH[status]):
        return False
    if folder.exists():
        # A folder cannot be renamed onto one that is not empty. Dying here loses the record of a failure, and the cell
        # is measured again.
        old = part.with_name(f".{folder.name}.{os.getpid()}.old{_PART}")
        folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        part.rename(folder)
    _sync(folder.parent)
    return True
