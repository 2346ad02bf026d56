"""What is measured stays measured: what schedules a measurement, and what must not."""

import os
import shutil
from pathlib import Path

from tests.workflow.conftest import SMALL_STUDY, Checkout, copy_repository

SERVERS, PHASES, REPLICATES = 3, 2, 2


def measurements(planned: dict[str, int]) -> int:
    return planned.get("measure", 0)


def test_first_run_measures_every_cell_and_writes_the_report(measured: Checkout) -> None:
    cells = measured.cells()
    assert len(cells) == SERVERS * PHASES * REPLICATES
    assert {cell["status"] for cell in cells.values()} == {"measured"}
    assert measured.started_servers() == SERVERS * REPLICATES
    assert (measured.root / "reports" / "small.html").stat().st_size > 10_000
    assert (measured.root / "reports" / "index.html").is_file()


def test_second_run_does_nothing(measured: Checkout) -> None:
    done = measured.snakemake("--cores", "2")
    assert "Nothing to be done" in done.stdout + done.stderr
    assert measured.planned() == {}


def test_touching_and_commenting_files_measures_nothing(measured: Checkout) -> None:
    for path in measured.root.rglob("*"):
        relative = path.relative_to(measured.root).parts[0]
        if path.is_file() and relative not in (".snakemake", "results", "reports"):
            os.utime(path)
    for name in ("config/levers.yaml", "config/engines.yaml", "config/models.yaml", "config/studies/small.yaml", "rules/measure.smk", "Snakefile"):
        file = measured.root / name
        file.write_text(file.read_text() + "\n# A remark.\n")
    assert measurements(measured.planned()) == 0


def test_remaking_workloads_and_models_measures_nothing(measured: Checkout) -> None:
    shutil.rmtree(measured.root / "results" / "workloads")
    shutil.rmtree(measured.root / "results" / "models")
    assert measurements(measured.planned()) == 0
    for path in (measured.root / "results" / "flags").glob("*"):
        path.unlink()
    assert measurements(measured.planned()) == 0


def test_results_copied_into_a_fresh_clone_are_measured_there(measured: Checkout, tmp_path: Path) -> None:
    fresh = copy_repository(tmp_path / "fresh")
    fresh.write_study("small", SMALL_STUDY)
    shutil.copytree(measured.root / "results", fresh.root / "results", dirs_exist_ok=True, copy_function=shutil.copy)
    assert measurements(fresh.planned()) == 0


def test_a_lost_job_record_is_rebuilt_from_its_cells(measured: Checkout) -> None:
    for record in (measured.root / "results" / "servers").glob("*/*/jobs/*.json"):
        record.unlink()
    assert measurements(measured.planned()) == 0


def test_a_rate_more_measures_only_the_new_cells(measured: Checkout) -> None:
    before = {path: (measured.root / "results/servers" / path / "cell.json").stat().st_mtime_ns for path in measured.cells()}
    measured.write_study("wider", SMALL_STUDY.replace("rates: [20, inf]", "rates: [20, 40, inf]"))
    assert measurements(measured.planned(study="wider")) == SERVERS * REPLICATES
    measured.snakemake("--cores", "2", study="wider")
    after = measured.cells()
    assert len(after) == SERVERS * (PHASES + 1) * REPLICATES
    assert all((measured.root / "results/servers" / path / "cell.json").stat().st_mtime_ns == time for path, time in before.items())
    assert measurements(measured.planned()) == 0, "the first study still has its cells"


def test_a_study_that_shares_the_baseline_measures_nothing_twice(measured: Checkout) -> None:
    started = measured.started_servers()
    shared = SMALL_STUDY.replace("  max_num_seqs: [64, 2]\n", "").replace(", max_num_seqs: 64}", "}").replace(", max_num_seqs: throughput at burst", "")
    measured.write_study("shared", shared)
    # Its baseline holds no batch limit of its own, so it is another server, unless the engine's own flags say the same.
    planned = measurements(measured.planned(study="shared"))
    measured.snakemake("--cores", "2", study="shared")
    assert measured.started_servers() - started == planned
    assert measurements(measured.planned(study="shared")) == 0
    subset = SMALL_STUDY.replace("rates: [20, inf]", "rates: [20]").replace("throughput at burst", "throughput at rate 20")
    measured.write_study("subset", subset)
    assert measurements(measured.planned(study="subset")) == 0


def test_a_levers_flag_measures_exactly_the_treatments_that_hold_the_level(checkout: Checkout) -> None:
    checkout.snakemake("--cores", "2")
    checkout.edit(
        "config/levers.yaml",
        "truth: {flags: {enable-prefix-caching: false}}",
        "truth: {flags: {enable-prefix-caching: false, ttft: 0.03}}",
    )
    assert measurements(checkout.planned()) == REPLICATES
    started = checkout.started_servers()
    checkout.snakemake("--cores", "2")
    assert checkout.started_servers() == started + REPLICATES


def test_a_deleted_cell_is_measured_again_alone(checkout: Checkout) -> None:
    checkout.snakemake("--cores", "2")
    victim = next(iter((checkout.root / "results" / "servers").glob("*/r1/cells/*")))
    shutil.rmtree(victim)
    assert measurements(checkout.planned()) == 1
    checkout.snakemake("--cores", "2")
    assert (victim / "cell.json").is_file()
    assert checkout.started_servers() == SERVERS * REPLICATES + 1
