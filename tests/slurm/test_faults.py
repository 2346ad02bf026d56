"""What dies is tried again, keeps what it had finished, and never has company on its server."""

import time

import pytest

from tests.slurm.conftest import STUDY, Cluster, Run, Watch, make_cluster
from tests.slurm.one_box import OneBoxSlurm, output_of, wait_until

pytestmark = pytest.mark.slurm

CELLS = 3


@pytest.fixture(scope="module")
def past_its_time_limit(slurm: OneBoxSlurm, tmp_path_factory: pytest.TempPathFactory):
    """A run whose job needs more than the minute it is given, which is Slurm's shortest; goes on while others run."""
    cluster = make_cluster(slurm, tmp_path_factory.mktemp("limit") / "leverlab")
    cluster.checkout.write_study("long", STUDY.replace("rates: [2, 4, inf]", "rates: [0.8, 0.9, 4]"))
    run = cluster.start("--set-resources", "measure:runtime=1", study="long")
    yield cluster, run
    cluster.cancel_all()


@pytest.fixture(autouse=True)
def started(past_its_time_limit):
    """Time passes for that one from the first test on."""


def interfere(cluster: Cluster, run: Run) -> dict:
    """Wait until the first cell is finished and the second under way; the finished ones."""
    cluster.wait_for_cells(1)
    time.sleep(1)
    finished = cluster.cell_files()
    assert len(finished) < CELLS, "too late to interfere"
    return finished


def assert_complete_and_kept(cluster: Cluster, finished: dict) -> None:
    cells = cluster.cell_files()
    assert len(cells) == CELLS
    assert {path: cells[path] for path in finished} == finished, "a finished cell was written again"
    assert {cell["status"] for cell in cluster.checkout.cells().values()} == {"measured"}
    assert cluster.trials_of_cells() == [1] * len(finished) + [2] * (CELLS - len(finished))
    assert (cluster.checkout.root / "reports" / "cluster.html").is_file()


def test_a_cancelled_job_keeps_its_cells_and_is_tried_again(cluster: Cluster) -> None:
    with Watch() as watch:
        run = cluster.start()
        finished = interfere(cluster, run)
        output_of("scancel", cluster.running()[0].id)
        run.succeed()
    assert_complete_and_kept(cluster, finished)
    assert [job.state for job in cluster.jobs()] == ["CANCELLED", "COMPLETED"]
    assert watch.crowded_servers() == set()


def test_a_node_set_down_is_survived(cluster: Cluster, slurm: OneBoxSlurm) -> None:
    with Watch() as watch:
        run = cluster.start()
        finished = interfere(cluster, run)
        first = cluster.running()[0].node
        with slurm.node_down(first):
            run.succeed()
    assert_complete_and_kept(cluster, finished)
    failed, completed = cluster.jobs()
    assert (failed.state, completed.state) == ("NODE_FAIL", "COMPLETED")
    assert completed.node != first
    assert watch.crowded_servers() == set()


def test_interrupted_and_started_again_runs_what_is_missing(cluster: Cluster) -> None:
    with Watch() as watch:
        run = cluster.start()
        finished = interfere(cluster, run)
        run.interrupt()
        assert run.finish() != 0
        cluster.start().succeed()
    assert_complete_and_kept(cluster, finished)
    assert watch.crowded_servers() == set()


def test_killed_and_started_again_waits_for_the_living_job(cluster: Cluster) -> None:
    with Watch() as watch:
        run = cluster.start()
        interfere(cluster, run)
        run.kill()
        [orphan] = cluster.running()
        refused = cluster.start()
        assert refused.finish() != 0
        assert "--unlock" in refused.text()
        cluster.checkout.snakemake("--unlock", "--cores", "1", study="cluster")
        again = cluster.start()
        again.succeed()
    assert f"{orphan.id} (running)" in again.text()
    assert watch.crowded_servers() == set()
    assert cluster.trials_of_cells() == [1] * CELLS, "what the living job measured was measured again"
    assert (cluster.checkout.root / "reports" / "cluster.html").is_file()


def test_killed_and_started_again_when_its_job_has_ended_measures_nothing(cluster: Cluster) -> None:
    run = cluster.start()
    interfere(cluster, run)
    run.kill()
    wait_until(lambda: not cluster.running(), "the orphaned job to end", timeout_s=60)
    cluster.checkout.snakemake("--unlock", "--cores", "1", study="cluster")
    cluster.start().succeed()
    assert len(cluster.jobs()) == 1
    assert cluster.trials_of_cells() == [1] * CELLS


def test_two_snakemakes_share_a_folder_unharmed(cluster: Cluster) -> None:
    """The same study twice, and another that wants more of the same server, all at once."""
    cluster.checkout.write_study("wider", STUDY.replace("rates: [2, 4, inf]", "rates: [2, 4, 8, inf]"))
    with Watch() as watch:
        runs = [cluster.start(), cluster.start(), cluster.start(study="wider")]
        statuses = [run.finish() for run in runs]
        assert 0 in statuses
        for run, status in zip(runs, statuses, strict=True):
            assert status == 0 or "cannot be locked" in run.text(), run.text()[-6000:]
        for study in ("cluster", "wider"):
            cluster.start(study=study).succeed()
    assert watch.crowded_servers() == set()
    cells = cluster.checkout.cells()
    assert len(cells) == CELLS + 1
    assert {cell["status"] for cell in cells.values()} == {"measured"}
    assert not list((cluster.checkout.root / "results").rglob("*.part")), "no half-written file is left"


def test_a_job_past_its_time_limit_keeps_its_cells_and_is_tried_again(past_its_time_limit) -> None:
    cluster, run = past_its_time_limit
    run.succeed()
    states = [job.state for job in cluster.jobs()]
    assert states == ["TIMEOUT", "COMPLETED"]
    assert cluster.trials_of_cells() == [1, 2, 2]
