"""Checks that were made after a cell was measured: asked when it is read, with the answer that the trial would have had."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.measured import stored_cell, stored_checks
from leverlab.checks import CHECKS, CellInputs, ChecksRecord, check_cell
from leverlab.records import CellRecord
from tests.unit.checked_cells import (
    DAEMON,
    LMCACHE,
    clean,
    disaggregated,
    of_conversations,
    on_a_gpu,
    searched,
    with_tier,
)
from tests.unit.test_checks import FAULTS
from tests.unit.tier_traffic import came

YOUNGER = {check.code: check for check in CHECKS if check.kept is not None}
CLEAN: list[Callable[[], CellInputs]] = [
    clean,
    disaggregated,
    on_a_gpu,
    lambda: clean(search=searched()),
    lambda: clean(specification=of_conversations(1)),
    lambda: with_tier(LMCACHE, restores=120.0, restored_tokens=6_000.0),
    lambda: came(DAEMON, 0.8),
]


LINK = {"pcie_generation": 5, "pcie_lanes": 16}


def kept(folder: Path, inputs: CellInputs) -> CellRecord:
    """The cell in `folder`, as a trial keeps it that saw `inputs`, but for what makes it outlast a crash."""
    record = CellRecord(
        cell="c",
        server="s",
        phase="p",
        replicate="r1",
        status="measured",
        specification=dict(inputs.specification),
        engine="e",
        trial=1,
        position=0,
        started_at="2026-01-02T03:04:05Z",
        duration_s=1.0,
        cache=dict(inputs.cache),
        instrument=dict(inputs.instrument),
        search=inputs.search,
        server_delta=dict(inputs.server_delta),
        not_sampled=dict(inputs.not_sampled),
        provenance={
            "versions": dict(inputs.installed_versions),
            "gpu": {"0": LINK} if inputs.pcie_bytes_per_s else {},
        },
    )
    folder.mkdir()
    pq.write_table(inputs.requests, folder / "requests.parquet")
    pq.write_table(inputs.chunks, folder / "chunks.parquet")
    if inputs.gpu is not None:
        pq.write_table(inputs.gpu, folder / "gpu.parquet")
    checks = ChecksRecord(cell=record.cell, worst="ok", checks=check_cell(inputs))
    (folder / "cell.json").write_text(record.model_dump_json())
    (folder / "checks.json").write_text(checks.model_dump_json())
    return record


def forget(folder: Path, code: str) -> None:
    """Leave checks.json as it would be had the check not existed."""
    path = folder / "checks.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"checks": [check for check in told["checks"] if check["code"] != code]}))


@pytest.mark.parametrize("make", [*CLEAN, *(make for _, _, make in FAULTS)])
def test_a_cell_that_was_asked_everything_gains_nothing(make: Callable[[], CellInputs], tmp_path: Path) -> None:
    inputs = make()
    assert list(stored_checks(tmp_path / "p", kept(tmp_path / "p", inputs))) == check_cell(inputs)


@pytest.mark.parametrize(("code", "severity", "make"), [fault for fault in FAULTS if fault[0] in YOUNGER])
def test_a_check_that_came_later_finds_what_the_trial_would_have_found(
    code: str, severity: str, make: Callable[[], CellInputs], tmp_path: Path
) -> None:
    inputs, folder = make(), tmp_path / "p"
    kept(folder, inputs)
    forget(folder, code)
    before = (folder / "checks.json").read_bytes()
    found = {result.code: result for result in stored_cell(folder).checks}
    assert found[code].severity == severity
    assert (folder / "checks.json").read_bytes() == before, "what was measured stays as it is"


@pytest.mark.parametrize("make", CLEAN)
@pytest.mark.parametrize("code", YOUNGER)
def test_in_a_clean_cell_it_says_what_the_trial_would_have_said(
    code: str, make: Callable[[], CellInputs], tmp_path: Path
) -> None:
    inputs, folder = make(), tmp_path / "p"
    record = kept(folder, inputs)
    forget(folder, code)
    wanted = {result.code: (result.severity, result.saw) for result in check_cell(inputs)}
    found = {result.code: (result.severity, result.saw) for result in stored_checks(folder, record, hashed=False)}
    assert found == wanted


def test_one_that_needs_more_than_is_kept_is_not_asked(tmp_path: Path) -> None:
    record = kept(tmp_path / "p", clean())
    for code in {check.code for check in CHECKS} - set(YOUNGER):
        forget(tmp_path / "p", code)
    assert {check.code for check in stored_checks(tmp_path / "p", record, hashed=False)} <= set(YOUNGER)


def test_one_whose_table_did_not_travel_is_not_asked(tmp_path: Path) -> None:
    record = kept(tmp_path / "p", clean())
    assert YOUNGER["window_short"].kept == ("requests",)
    forget(tmp_path / "p", "window_short")
    (tmp_path / "p" / "requests.parquet").unlink()
    assert "window_short" not in {check.code for check in stored_checks(tmp_path / "p", record, hashed=False)}


@pytest.mark.parametrize("lost", ["gpu", "requests"])
def test_one_that_can_do_without_a_table_is_asked_without_it(lost: str, tmp_path: Path) -> None:
    """Of a tier that tells of no load the log alone is enough; without the times of the requests the bus says nothing."""
    record = kept(tmp_path / "p", came(LMCACHE, 0.01, restores=120.0, restored_tokens=6_000.0))
    forget(tmp_path / "p", "tier_not_loaded")

    def severity() -> str:
        results = stored_checks(tmp_path / "p", record, hashed=False)
        return next(result.severity for result in results if result.code == "tier_not_loaded")

    assert severity() == "invalid"
    (tmp_path / "p" / f"{lost}.parquet").unlink()
    assert severity() == "ok"


def test_a_cells_tables_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path / "p", came(DAEMON, 0.8))
    for code in YOUNGER:
        forget(tmp_path / "p", code)
    read, whole = [], pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path: (read.append(path.name), whole(path))[1])
    assert {"tier_not_loaded", "window_short"} <= {result.code for result in stored_cell(tmp_path / "p").checks}
    assert sorted(read) == sorted(set(read)) and "requests.parquet" in read and "gpu.parquet" in read


def test_a_cell_whose_checks_are_lost_is_told_of_them_alone(tmp_path: Path) -> None:
    record = kept(tmp_path / "p", with_tier(LMCACHE))
    (tmp_path / "p" / "checks.json").unlink()
    assert [check.code for check in stored_checks(tmp_path / "p", record)] == ["checks_missing"]
