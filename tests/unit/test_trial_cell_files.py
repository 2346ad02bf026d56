"""A cell's folder is whole or not there, and nothing worse takes the place of something better."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leverlab.checks import read_checks
from leverlab.records import CellRecord, CheckResult, Reason, Status
from leverlab.trial import cell_files
from leverlab.trial.cell_files import DiskFullError, clear_leftovers, read_cell, write_cell

TABLES = {"requests": pa.table({"index": [0, 1]}), "chunks": pa.table({"index": [0, 0, 1]})}
CHECKS = [CheckResult(code="a", severity="caution", saw="x", expected="y")]


def record(status: Status = "measured", trial: int = 1) -> CellRecord:
    return CellRecord(
        cell="c-1", server="s-1", phase="p-1", replicate="r1", status=status, specification={"server": {}, "phase": {}},
        engine="truth", trial=trial, position=0, started_at="2026-01-01T00:00:00+00:00", duration_s=1.5,
        reason=None if status == "measured" else Reason(code="server_died", message="It died."),
    )  # fmt: skip


def test_a_cell_is_kept_with_tables_checks_and_hashes(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "p-1"
    assert write_cell(folder, record(), TABLES, CHECKS)
    assert sorted(path.name for path in folder.iterdir()) == [
        "cell.json",
        "checks.json",
        "chunks.parquet",
        "requests.parquet",
    ]
    kept = read_cell(folder)
    assert kept is not None and kept.duration_s == 1.5
    for name, digest in kept.files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert set(kept.files) == {"checks.json", "chunks.parquet", "requests.parquet"}
    assert read_checks(folder / "checks.json").worst == "caution"
    assert [path.name for path in folder.parent.iterdir()] == ["p-1"], "no half-written folder is left"


def test_tables_are_zstd_and_say_whose_they_are(tmp_path: Path) -> None:
    write_cell(tmp_path / "p-1", record(), TABLES, CHECKS)
    file = pq.ParquetFile(tmp_path / "p-1" / "requests.parquet")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.schema_arrow.metadata[b"leverlab_cell"] == b"c-1"
    assert file.schema_arrow.metadata[b"leverlab_table"] == b"requests"


@pytest.mark.parametrize(
    ("there", "new", "kept"),
    [
        ("measured", "measured", "there"),
        ("measured", "failed", "there"),
        ("measured", "infeasible", "there"),
        ("infeasible", "failed", "there"),
        ("failed", "failed", "new"),
        ("failed", "infeasible", "new"),
        ("failed", "measured", "new"),
        ("infeasible", "measured", "new"),
    ],
)
def test_only_something_better_takes_a_cells_place(tmp_path: Path, there: Status, new: Status, kept: str) -> None:
    folder = tmp_path / "p-1"
    write_cell(folder, record(there, trial=1), TABLES, CHECKS)
    assert write_cell(folder, record(new, trial=2), {}, None) == (kept == "new")
    found = read_cell(folder)
    assert found is not None
    assert (found.status, found.trial) == ((new, 2) if kept == "new" else (there, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["p-1"]


def test_a_full_disk_keeps_what_there_is_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cells" / "p-1"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cell_files.pq, "write_table", full)
    with pytest.raises(DiskFullError, match="make room and run the same command again") as raised:
        write_cell(folder, record(), TABLES, CHECKS)
    assert str(folder) in str(raised.value)
    assert list(folder.parent.iterdir()) == [], "what was begun takes no more room"


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(cell_files.pq, "write_table", denied)
    with pytest.raises(PermissionError):
        write_cell(tmp_path / "p-1", record(), TABLES, CHECKS)


def test_leftovers_of_dead_writers_are_cleared_and_cells_are_not(tmp_path: Path) -> None:
    write_cell(tmp_path / "p-1", record(), TABLES, CHECKS)
    (tmp_path / ".p-2.4711.part").mkdir()
    (tmp_path / ".p-2.4711.part" / "requests.parquet").write_bytes(b"half")
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["p-1"]


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    assert read_cell(tmp_path) is None
    (tmp_path / "cell.json").write_text(json.dumps({"cell": "c-1"}))
    with pytest.raises(ValueError, match=r"(?s)cell\.json.*delete its folder"):
        read_cell(tmp_path)
