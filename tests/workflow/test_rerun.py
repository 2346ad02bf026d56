"""What is measured stays measured: what schedules a measurement, and what must not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.workflow.conftest import SMALL_STUDY, USER_TOKEN, Checkout, copy_repository

SERVERS, PHASES, REPLICATES = 3, 2, 2
ONE_REPLICATE = SMALL_STUDY.replace("replicates: 2", "replicates: 1")


def measurements(planned: dict[str, int]) -> int:
    return planned.get("measure", 0)


def test_first_run_measures_every_cell_and_writes_the_report(measured: Checkout) -> None:
    cells = measured.cells()
    assert len(cells) == SERVERS * PHASES * REPLICATES
    assert {cell["status"] for cell in cells.values()} == {"measured"}
    assert measured.started_servers() == SERVERS * REPLICATES
    assert (measured.root / "reports" / "small.html").stat().st_size > 10_000
    assert (measured.root / "reports" / "index.html").is_file()


def test_replicates_are_measured_one_after_the_other(measured: Checkout) -> None:
    """A run that is cut short leaves whole replicates, and a drift of the machine is in both sides of each pair."""
    began = sorted((cell["started_at"], cell["replicate"]) for cell in measured.cells().values())
    assert [replicate for _, replicate in began] == ["r1"] * SERVERS * PHASES + ["r2"] * SERVERS * PHASES


def test_the_users_token_is_in_no_file(measured: Checkout) -> None:
    made = (measured.root / name for name in ("results", "reports", ".snakemake"))
    files = [path for folder in made for path in folder.rglob("*") if path.is_file()]
    assert {"trial.json", "server.log", "cells.parquet", "index.html"} <= {path.name for path in files}
    for path in files:
        assert USER_TOKEN.encode() not in path.read_bytes(), path
        if path.suffix == ".parquet":
            assert USER_TOKEN not in str(pq.read_table(path).to_pydict()), path


def test_second_run_does_nothing(measured: Checkout) -> None:
    done = measured.snakemake("--cores", "2")
    assert "Nothing to be done" in done.stdout + done.stderr
    assert measured.planned() == {}


def test_touching_and_commenting_files_measures_nothing(again: Checkout) -> None:
    for path in again.root.rglob("*"):
        top = path.relative_to(again.root).parts[0]
        if not path.is_file() or path.is_symlink() or top in (".snakemake", "reports"):
            continue
        if top != "results" and path.suffix in (".py", ".smk", ".yaml", ".txt", ".sh", ".toml"):
            path.write_text(path.read_text() + "\n# A remark.\n")
        os.utime(path)
    assert measurements(again.planned()) == 0


def test_another_flag_measures_exactly_the_treatments_that_hold_the_level_and_a_branch_back_nothing(
    again: Checkout,
) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
        subprocess.run(["git", *who, *arguments], cwd=again.root, check=True, capture_output=True)

    git("init", "--initial-branch", "main")
    git("add", "--all")
    git("commit", "--message", "As measured")
    git("checkout", "-b", "slower")
    again.edit(
        "config/levers.yaml",
        "truth: {flags: {enable-prefix-caching: false}}",
        "truth: {flags: {enable-prefix-caching: false, ttft: 0.03}}",
    )
    git("commit", "--all", "--message", "Slower without a cache")
    shown = again.snakemake("--dry-run", "--cores", "2").stdout
    outputs = [line for line in shown.splitlines() if "output:" in line and "/jobs/" in line]
    assert len(outputs) == REPLICATES
    assert all("ttft-0.03" in line and "no-prefix-caching" in line for line in outputs)
    git("checkout", "main")
    assert measurements(again.planned()) == 0


def test_results_copied_into_a_fresh_clone_are_measured_there(measured: Checkout, tmp_path: Path) -> None:
    fresh = copy_repository(tmp_path / "fresh")
    fresh.write_study("small", SMALL_STUDY)
    shutil.copytree(measured.root / "results", fresh.root / "results", dirs_exist_ok=True, copy_function=shutil.copy)
    assert measurements(fresh.planned()) == 0


def test_lost_job_records_are_rebuilt_from_their_cells(again: Checkout) -> None:
    for record in (again.root / "results" / "servers").glob("*/*/jobs/*.json"):
        record.unlink()
    assert measurements(again.planned()) == 0


def test_a_rate_more_measures_only_the_new_cells_whatever_was_made_again(again: Checkout) -> None:
    """With an engine that has an environment to be made, which the pipeline's own has not."""
    again.edit("config/engines.yaml", "{kind: pipeline}", f"{{kind: python, python: {sys.executable}}}")
    assert measurements(again.planned()) == 0, "how the engine is launched is no part of its identity"
    before = again.recorded()
    longer = "rates: [20, 40, inf], minimum_duration: 400 ms"  # the 8 requests of the workload come for so long at 20 a second
    again.write_study("wider", ONE_REPLICATE.replace("rates: [20, inf]", longer))
    planned = again.planned(study="wider")
    assert (planned["environment"], measurements(planned)) == (1, SERVERS)
    again.snakemake("--cores", "2", "--until", "measure", study="wider")
    after = again.recorded()
    assert len(after) == len(before) + SERVERS
    assert {path: after[path] for path in before} == before
    sent = [
        pq.read_metadata(again.root / "results/servers" / path / "requests.parquet").num_rows
        for path in after.keys() - before.keys()
    ]
    assert sent == [16] * SERVERS
    for made in (".envs", "results/workloads", "results/models", "results/flags"):
        shutil.rmtree(again.root / made)
        assert measurements(again.planned(study="wider")) == 0, f"{made} is gone"
    assert measurements(again.planned()) == 0, "the first study still has its cells"


def test_two_studies_that_share_a_baseline_measure_nothing_twice(again: Checkout) -> None:
    before, started = again.recorded(), again.started_servers()
    other = (
        ONE_REPLICATE.replace("rates: [20, inf]", "rates: [20, 30]")
        .replace("[on, off]", "[on]")
        .replace("[64, 2]", "[64, 3]")
        .replace("ttft_s p50 at rate 20, max_num_seqs: throughput at burst", "ttft_s p50 at rate 30")
    )
    again.write_study("other", other)
    again.snakemake("--cores", "2", "--until", "measure", study="other")
    after = again.recorded()
    # The baseline has rate 20 already and needs 30; the other server is new.
    assert len(after) == len(before) + 1 + 2
    assert {path: after[path] for path in before} == before
    assert again.started_servers() == started + 2
    assert measurements(again.planned(study="small,other")) == 0


def test_a_deleted_cell_is_measured_again_alone(again: Checkout) -> None:
    before, started = again.recorded(), again.started_servers()
    victim = min(path for path in before if "/r1/" in path)
    shutil.rmtree(again.root / "results" / "servers" / victim)
    assert measurements(again.planned()) == 1
    again.snakemake("--cores", "2", "--until", "measure")
    after = again.recorded()
    assert {path for path in before if after[path] != before[path]} == {victim}
    assert again.started_servers() == started + 1


def test_snakemakes_own_report_bundles_the_page(again: Checkout) -> None:
    again.snakemake("--report", "bundle.html")
    assert "small.html" in (again.root / "bundle.html").read_text()
