"""Tables of a study of which something is missing: not measured, invalid, infeasible, damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from leverlab.records import CheckResult, Reason
from tests.unit.aggregated_study import LIMITED, OFF, effect, tables, ttft_s
from tests.unit.measured_cells import give_up, measure, measure_study, request_row
from tests.unit.repository import Repository

INVALID = CheckResult(code="tokens_not_as_asked", severity="invalid", saw="3 of 20", expected="all", remedy="look")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.at(tmp_path)
    made.change("replicates: 2", "replicates: 3")
    return made


def cell(repository: Repository, treatment: str, load: str = "rate 8") -> StudyCell:
    (entry,) = [
        entry for entry in repository.study().cells if entry.treatment.name == treatment and str(entry.load) == load
    ]
    return entry


def spoil(repository: Repository, entry: StudyCell, number: int, ttft_s: float) -> None:
    """Measure a cell again, so that a check finds it invalid. What is measured is never overwritten: the old cell goes first."""
    replicate = ReplicateKey(number)
    shutil.rmtree(repository.layout.cell(entry.cell.server.id, str(replicate), entry.cell.phase.id))
    rows = [request_row(index, index * 0.125, ttft_s) for index in range(20)]
    measure(repository.layout, entry, replicate, rows, [INVALID])


def test_one_replicate_is_not_judged(repository: Repository) -> None:
    repository.change("replicates: 3", "replicates: 1")
    measure_study(repository.layout, repository.study(), ttft_s)
    effects = tables(repository)[2]
    assert {row["verdict"] for row in effects} == {"not judgeable"}
    row = effect(effects, OFF)
    assert row["estimate"] == pytest.approx(4 * 1.02) and row["interval_low"] is None and row["pairs"] == 1


def test_nothing_measured_yet(repository: Repository) -> None:
    requests, cells, effects = tables(repository)
    assert requests == [] and len(cells) == 18
    assert {row["status"] for row in cells} == {"missing"}
    assert all(row["checks"] is None and row["ttft_s_p50"] is None for row in cells)
    assert {row["verdict"] for row in effects} == {"not judgeable"}
    assert "not measured yet" in effect(effects, OFF)["reason"]
    specification = json.loads(cells[0]["specification"])
    assert specification["server"]["flags"] and specification["phase"]["load"]


def test_a_partial_matrix(repository: Repository) -> None:
    """Replicate 3 is missing on one side: two pairs remain, and the row says which was left out."""
    study = repository.study()
    for entry in study.cells:
        for replicate in study.replicates:
            if not (replicate.number == 3 and entry.treatment.name == OFF):
                measure(
                    repository.layout,
                    entry,
                    replicate,
                    [request_row(i, i * 0.125, ttft_s(entry, replicate)) for i in range(20)],
                )
    _, cells, effects = tables(repository)
    assert sorted({row["status"] for row in cells}) == ["measured", "missing"]
    row = effect(effects, OFF)
    assert row["pairs"] == 2 and row["interval_low"] is not None
    assert row["verdict"] == "not judgeable" and row["reason"].startswith(
        "two pairs of replicates: a verdict needs three;"
    )
    assert row["adjusted_p"] is None and row["minimum_detectable"] is None, "it has no part in what is corrected"
    (excluded,) = json.loads(row["excluded"])
    assert (excluded["replicate"], excluded["side"], excluded["code"]) == ("r3", "treatment", "missing")
    assert "treatment r3: not measured yet" in row["reason"]
    assert effect(effects, LIMITED)["pairs"] == 3


def test_invalid_cells_are_in_no_effect_and_stay_visible(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    spoil(repository, cell(repository, OFF), 2, 99.0)
    requests, cells, effects = tables(repository)
    (shown,) = [row for row in cells if row["checks"] == "invalid"]
    assert (shown["check_codes"], shown["status"], shown["ttft_s_p50"]) == (
        "tokens_not_as_asked,window_short",  # the second is not in checks.json, and asked when the cell is read
        "measured",
        pytest.approx(99.0),
    )
    assert sum(row["checks"] == "invalid" for row in requests) == 20
    row = effect(effects, OFF)
    assert row["pairs"] == 2 and row["estimate"] < 5
    assert "tokens not as asked" in row["reason"]


def test_a_primary_metric_without_valid_pairs_is_invalid(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    for number in (1, 2, 3):
        spoil(repository, cell(repository, "baseline"), number, 0.1)
    row = effect(tables(repository)[2], OFF)
    assert (row["verdict"], row["pairs"], row["estimate"]) == ("invalid", 0, None)
    assert row["reason"].startswith("baseline r1, r2, r3: invalid")


def test_an_infeasible_treatment_is_not_judgeable_and_says_why(repository: Repository) -> None:
    study = repository.study()
    why = Reason(code="out_of_memory", message="the model does not fit", log=["CUDA out of memory"])
    for entry in study.cells:
        for replicate in study.replicates:
            if entry.treatment.name == OFF:
                give_up(repository.layout, entry, replicate, "infeasible", why)
            else:
                measure(
                    repository.layout,
                    entry,
                    replicate,
                    [request_row(i, i * 0.125, ttft_s(entry, replicate)) for i in range(20)],
                )
    _, cells, effects = tables(repository)
    assert {row["reason_code"] for row in cells if row["treatment"] == OFF} == {"out_of_memory"}
    row = effect(effects, OFF)
    assert (row["verdict"], row["adjusted_p"]) == ("not judgeable", None)
    assert row["reason"] == "treatment r1, r2, r3: infeasible: the model does not fit"
    limited = effect(effects, LIMITED, "throughput", None, "burst")
    assert limited["family"] == 2 and limited["adjusted_p"] == pytest.approx(min(1.0, 2 * limited["p_value"]))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda folder: (folder / "checks.json").unlink(), "checks_missing"),
        (lambda folder: (folder / "checks.json").write_text("{"), "checks_missing"),
        (lambda folder: pq.write_table(pq.read_table(folder / "requests.parquet").slice(0, 5), folder / "requests.parquet"), "files_changed"),
    ],
)  # fmt: skip
def test_a_cell_whose_files_are_not_what_was_written_is_invalid(
    repository: Repository, damage: Callable[[Path], None], code: str
) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    entry = cell(repository, "baseline")
    damage(repository.layout.cell(entry.cell.server.id, "r1", entry.cell.phase.id))
    _, cells, effects = tables(repository)
    (shown,) = [row for row in cells if row["checks"] == "invalid"]
    assert code in shown["check_codes"]
    assert effect(effects, OFF)["pairs"] == 2


@pytest.mark.parametrize(("file", "code"), [("cell.json", "record_unreadable"), ("chunks.parquet", "table_unreadable")])
def test_a_damaged_cell_is_failed_and_stops_nothing(repository: Repository, file: str, code: str) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    entry = cell(repository, "baseline")
    (repository.layout.cell(entry.cell.server.id, "r1", entry.cell.phase.id) / file).write_text("not that")
    _, cells, effects = tables(repository)
    (shown,) = [row for row in cells if row["status"] == "failed"]
    assert shown["reason_code"] == code and file.split(".")[0] in shown["reason"]
    assert effect(effects, OFF)["pairs"] == 2
