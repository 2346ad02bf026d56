"""The noise floor and the contrasts of crossed levers, from cells under results/ to rows of effects.parquet."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.tables import write_study
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from leverlab.stats.noise_floor import noise_floor
from tests.unit.measured_cells import measure_study
from tests.unit.repository import Repository

Row = dict[str, Any]

OFF, LIMITED, AGAIN = "prefix_caching=off", "max_num_seqs=4", "baseline again"
DRAWS = {1: 1.0, 2: 1.3, 3: 0.8}
STARTS = {1: 1.02, 2: 0.99, 3: 0.97}
"""What the copy's server differs by in each replicate."""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.at(tmp_path)
    made.change("replicates: 2", "replicates: 3\nnoise_floor: true")
    return made


def effects(repository: Repository) -> list[Row]:
    write_study(repository.study(), repository.layout)
    return pq.read_table(repository.layout.study("small") / "effects.parquet").to_pylist()


def one(rows: list[Row], kind: str, treatment: str, load: str = "rate 8") -> Row:
    (row,) = [
        row
        for row in rows
        if (row["kind"], row["treatment"], row["load"], row["metric"], row["statistic"])
        == (kind, treatment, load, "ttft_s", "p50")
    ]
    return row


def codes(row: Row) -> set[str]:
    return {caution["code"] for caution in json.loads(row["cautions"])}


def quiet(entry: StudyCell, replicate: ReplicateKey) -> float:
    """Prefix caching off takes four times as long; each start differs by a few per cent."""
    off = dict(entry.treatment.levels)["prefix_caching"] == "off"
    start = STARTS[replicate.number] if replicate.copy else 1.0
    lever = 4 * {1: 1.01, 2: 0.98, 3: 1.0}[replicate.number] if off else 1.0
    return 0.1 * DRAWS[replicate.number] * start * lever


def test_the_copy_is_the_same_server_in_a_lifetime_of_its_own(repository: Repository) -> None:
    matrix = repository.matrix()
    (study,) = matrix.studies
    first, again = ([entry for entry in study.cells if entry.treatment.name == name] for name in ("baseline", AGAIN))
    assert [entry.cell for entry in first] == [entry.cell for entry in again]
    keys = {str(job.replicate) for job in matrix.jobs if job.server.id == first[0].cell.server.id}
    assert keys == {"r1", "r1c1", "r2", "r2c1", "r3", "r3c1"}
    assert len({job.hash for job in matrix.jobs}) == 4 * 3
    specification = {
        str(job.replicate): workload.seed(job.replicate) for job in matrix.jobs for workload in job.workloads
    }
    assert specification["r1"] == specification["r1c1"] != specification["r2c1"]


def test_without_the_key_nothing_changes(tmp_path: Path) -> None:
    plain, asked = Repository.at(tmp_path / "a"), Repository.at(tmp_path / "b")
    asked.change("replicates: 2", "replicates: 2\nnoise_floor: true")
    before, after = ({job.hash for job in made.matrix().jobs} for made in (plain, asked))
    assert before < after, "the jobs that were there stay what they were"


def test_the_baseline_against_itself(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), quiet)
    rows = effects(repository)
    row = one(rows, "noise floor", AGAIN)
    changes = [math.log(value) for value in STARTS.values()]
    assert row["estimate"] == pytest.approx(math.exp(sum(changes) / 3))
    assert (row["verdict"], row["primary"], row["pairs"]) == ("no difference found", False, 3)
    assert row["noise_floor"] == pytest.approx(noise_floor(changes, 3, "ratio"))
    assert row["adjusted_p"] is not None, "in a primary metric and load point it is corrected like the treatments"
    treated = one(rows, "treatment", OFF)
    assert treated["noise_floor"] == row["noise_floor"] and treated["verdict"] == "worsens"
    assert codes(treated) == set()
    cells = pq.read_table(repository.layout.study("small") / "cells.parquet").to_pylist()
    assert {row["replicate"] for row in cells if row["treatment"] == AGAIN} == {"r1c1", "r2c1", "r3c1"}


def test_a_baseline_that_differs_from_itself_marks_every_effect(repository: Repository) -> None:
    def drifting(entry: StudyCell, replicate: ReplicateKey) -> float:
        return quiet(entry, replicate) * (1.5 if replicate.copy else 1.0)

    measure_study(repository.layout, repository.study(), drifting)
    rows = effects(repository)
    assert one(rows, "noise floor", AGAIN)["verdict"] == "worsens"
    assert "baseline_differs_from_itself" in codes(one(rows, "treatment", OFF))
    assert one(rows, "treatment", OFF)["verdict"] == "worsens", "a mark, not another verdict"


def test_a_small_change_is_said_to_lie_within_the_noise_floor(repository: Repository) -> None:
    """The treatment's replicates happen to agree; the copies show that servers differ by more from start to start."""

    def close(entry: StudyCell, replicate: ReplicateKey) -> float:
        shift = {1: 1.030, 2: 1.031, 3: 1.0295}[replicate.number]
        start = {1: 1.06, 2: 0.95, 3: 0.99}[replicate.number]
        if replicate.copy:
            return 0.1 * start
        return 0.1 * (1.0 if entry.treatment.is_baseline else shift)

    measure_study(repository.layout, repository.study(), close)
    row = one(effects(repository), "treatment", OFF)
    assert row["verdict"] == "worsens" and row["noise_floor"] > row["estimate"]
    assert "within_noise_floor" in codes(row)


def test_replicates_that_scatter_more_than_the_noise_floor(repository: Repository) -> None:
    def scattered(spread: float) -> set[str]:
        def value(entry: StudyCell, replicate: ReplicateKey) -> float:
            off = dict(entry.treatment.levels)["prefix_caching"] == "off"
            lever = 2 * math.exp(spread * {1: -1, 2: 0, 3: 1}[replicate.number]) if off else 1.0
            return 0.1 * lever * (STARTS[replicate.number] if replicate.copy else 1.0)

        for path in repository.layout.results.glob("servers/*/*/cells"):
            for folder in path.iterdir():
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
        measure_study(repository.layout, repository.study(), value)
        return codes(one(effects(repository), "treatment", OFF))

    # s0 = 0.0216 over three copies; F(0.99; 2, 3) = 30.8, so that a spread of 0.120 is the limit.
    assert "replicates_disagree" not in scattered(0.115)
    assert "replicates_disagree" in scattered(0.125)


def test_main_effects_and_the_interaction_of_crossed_levers(tmp_path: Path) -> None:
    repository = Repository.at(tmp_path)
    repository.change("replicates: 2", "replicates: 3\ndesign: factorial")

    def crossed(entry: StudyCell, replicate: ReplicateKey) -> float:
        levels = dict(entry.treatment.levels)
        off, limited = levels["prefix_caching"] == "off", levels["max_num_seqs"] == "4"
        wobble = {1: 1.0, 2: 1.01, 3: 0.995}[replicate.number] if off and not limited else 1.0
        return (
            0.1
            * DRAWS[replicate.number]
            * (4 if off else 1)
            * (2 if limited else 1)
            * (1.5 if off and limited else 1)
            * wobble
        )

    measure_study(repository.layout, repository.study(), crossed)
    rows = effects(repository)
    # Off: ×4 at 64 sequences, ×4 · 1.5 at 4. On the log scale their mean is ×4 · √1.5.
    main = one(rows, "main effect", OFF)
    assert main["estimate"] == pytest.approx(4 * math.sqrt(1.5), rel=0.005)
    assert main["adjusted_p"] is not None and not main["primary"]
    assert one(rows, "main effect", LIMITED)["estimate"] == pytest.approx(2 * math.sqrt(1.5), rel=0.005)
    both = one(rows, "interaction", f"{OFF} × {LIMITED}")
    wobble = (1.0 * 1.01 * 0.995) ** (1 / 3)
    assert both["estimate"] == pytest.approx(1.5 / wobble, rel=1e-6)
    assert both["verdict"] == "worsens" and both["family"] == 2
    assert json.loads(both["changed"]) == [["prefix_caching", "off", "on"], ["max_num_seqs", "4", "64"]]
    assert one(rows, "treatment", OFF)["estimate"] == pytest.approx(4, rel=0.01)


def test_a_contrast_leaves_out_a_replicate_of_which_a_cell_is_missing(tmp_path: Path) -> None:
    repository = Repository.at(tmp_path)
    repository.change("replicates: 2", "replicates: 3\ndesign: factorial")
    measure_study(repository.layout, repository.study(), lambda entry, replicate: 0.1 * DRAWS[replicate.number])
    study = repository.study()
    (entry,) = [e for e in study.cells if e.treatment.name == f"{OFF}, {LIMITED}" and str(e.load) == "rate 8"]
    folder = repository.layout.cell(entry.cell.server.id, "r2", entry.cell.phase.id)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    rows = effects(repository)
    assert one(rows, "main effect", OFF)["pairs"] == one(rows, "interaction", f"{OFF} × {LIMITED}")["pairs"] == 2
    assert one(rows, "treatment", OFF)["pairs"] == 3


def test_sides_measured_under_other_conditions_are_named(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), quiet)
    (off,) = [e for e in repository.study().cells if e.treatment.name == OFF and str(e.load) == "rate 8"]
    record = repository.layout.cell(off.cell.server.id, "r2", off.cell.phase.id) / "cell.json"
    told = json.loads(record.read_text())
    others = {"node": {"hostname": "n1"}, "gpu": {"0": {"uuid": "GPU-1", "name": "H100"}}}
    for provenance, named in (
        ({"node": {"hostname": "n1"}, "gpu": {"0": {"uuid": "GPU-2", "name": "H100"}}}, None),
        ({"node": {"hostname": "n1"}, "gpu": {"3": {"uuid": "GPU-4", "name": "H100"}}}, None),
        ({"node": {"hostname": "n1"}, "gpu": {"3": {"uuid": "GPU-4", "name": "A100"}}}, "gpu.0.name (r2)"),
        ({"node": {"hostname": "unknown"}}, None),
        ({"node": "unknown", "gpu": "unknown"}, None),
        ({"node": {"hostname": "n2"}}, "node.hostname (r2)"),
    ):
        record.write_text(json.dumps({**told, "provenance": provenance}))
        for path in repository.layout.results.glob("servers/*/*/cells/*/cell.json"):
            if path != record:
                other = json.loads(path.read_text())
                path.write_text(json.dumps({**other, "provenance": others}))
        row = one(effects(repository), "treatment", OFF)
        assert ("provenance_differs" in codes(row)) == (named is not None)
        if named is not None:
            (message,) = [c["message"] for c in json.loads(row["cautions"]) if c["code"] == "provenance_differs"]
            assert named in message
