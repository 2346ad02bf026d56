"""What dies is tried again, keeps what it had finished, and never has company on its server."""

import os
import time

from tests.slurm.cluster import STUDY, Cluster, Watch
from tests.slurm.one_box import output_of, wait_until

CELLS = 3
#: Stops before tables and reports, where a story is not about them.
MEASURE_ONLY = ("--until", "measure")


def interfere(cluster: Cluster) -> dict:
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


def past_its_time_limit_a_job_keeps_its_cells_and_is_tried_again(cluster: Cluster) -> None:
    # More than the minute that it is given at first, which is Slurm's shortest, and the half that Slurm may be late.
    # Cells are short beside that: little is left to the second attempt, and Snakemake looks at a job ever more seldom.
    rates = "rates: [1.7, 1.75, 1.8, 1.85, 1.9, 1.95, 2, 2.05]"
    cluster.checkout.write_study("cluster", STUDY.replace("rates: [2, 4, 5]", rates))
    cluster.start("--set-resources", "measure:runtime=attempt", *MEASURE_ONLY).succeed(400)
    assert [job.state for job in cluster.jobs()] == ["TIMEOUT", "COMPLETED"]
    trials = cluster.trials_of_cells()
    assert (trials[0], trials[-1]) == (1, 2)
    assert cluster.outcomes() == ["interrupted", "finished"]


def a_cancelled_job_keeps_its_cells_and_is_tried_again(cluster: Cluster) -> None:
    with Watch(cluster) as watch:
        run = cluster.start(*MEASURE_ONLY)
        finished = interfere(cluster)
        output_of("scancel", cluster.running()[0].id)
        run.succeed()
    assert_complete_and_kept(cluster, finished)
    assert [job.state for job in cluster.jobs()] == ["CANCELLED", "COMPLETED"]
    assert cluster.outcomes() == ["interrupted", "finished"]
    assert watch.crowded_servers() == set()


def a_node_set_down_is_survived(cluster: Cluster) -> None:
    # All of a node, so that no other story's job is on it.
    cluster.checkout.write_study("cluster", STUDY.replace("a100:1", "h100:8"))
    with Watch(cluster) as watch:
        run = cluster.start(*MEASURE_ONLY)
        finished = interfere(cluster)
        first = cluster.running()[0].node
        with cluster.slurm.node_down(first):
            run.succeed()
    assert_complete_and_kept(cluster, finished)
    failed, completed = cluster.jobs()
    assert (failed.state, completed.state) == ("NODE_FAIL", "COMPLETED")
    assert completed.node != first
    assert watch.crowded_servers() == set()


def interrupted_and_started_again_it_runs_what_is_missing(cluster: Cluster) -> None:
    with Watch(cluster) as watch:
        run = cluster.start()
        finished = interfere(cluster)
        run.interrupt()
        assert run.finish() != 0
        report = cluster.checkout.root / "reports" / "cluster.html"
        partial = report.read_text()
        cluster.start().succeed()
    assert_complete_and_kept(cluster, finished)
    assert report.read_text() != partial, "the report of what there was is left as if it were whole"
    assert watch.crowded_servers() == set()


def killed_and_started_again_it_waits_for_the_living_job(cluster: Cluster) -> None:
    cluster.checkout.write_study("cluster", STUDY.replace("rates: [2, 4, 5]", "rates: [2, 1, 1.2]"))
    with Watch(cluster) as watch:
        run = cluster.start(*MEASURE_ONLY)
        interfere(cluster)
        run.kill()
        [orphan] = cluster.running()
        cluster.checkout.snakemake("--unlock", "--cores", "1", study="cluster")
        again = cluster.start(*MEASURE_ONLY)
        again.succeed()
    assert f"{orphan.id} (running)" in again.text()
    assert f"scancel {orphan.id}" in again.text()
    assert watch.crowded_servers() == set()
    assert cluster.trials_of_cells() == [1] * CELLS, "what the living job measured was measured again"
    assert cluster.outcomes() == ["finished"], "the job that was submitted again has started a server"


def killed_and_started_again_when_its_job_has_ended_it_measures_nothing(cluster: Cluster) -> None:
    run = cluster.start(*MEASURE_ONLY)
    interfere(cluster)
    run.kill()
    refused = cluster.start(*MEASURE_ONLY)
    assert refused.finish() != 0
    assert "--unlock" in refused.text()
    wait_until(lambda: not cluster.running(), "the orphaned job to end", timeout_s=90)
    cluster.checkout.snakemake("--unlock", "--cores", "1", study="cluster")
    cluster.start().succeed()
    assert len(cluster.jobs()) == 1
    assert cluster.trials_of_cells() == [1] * CELLS
    assert (cluster.checkout.root / "reports" / "cluster.html").is_file()


def two_snakemakes_share_a_folder_unharmed(cluster: Cluster) -> None:
    """One on the cluster and one where it was started, for the same server; Snakemake would refuse the second."""
    on_cpu = STUDY.replace("truth-gpu", "truth").replace("a100:1", "cpu")
    cluster.checkout.write_study("cluster", on_cpu)
    cluster.checkout.write_study("wider", on_cpu.replace("rates: [2, 4, 5]", "rates: [2, 4, 5, 8]"))
    with Watch(cluster) as watch:
        first = cluster.start(*MEASURE_ONLY)
        cluster.wait_for_cells(1)
        refused = cluster.start_here(*MEASURE_ONLY, study="wider")
        second = cluster.start_here("--nolock", *MEASURE_ONLY, study="wider")
        assert refused.finish() != 0
        assert "cannot be locked" in refused.text()
        for run in (first, second):
            run.succeed()
    assert watch.took_turns(), "they never met"
    assert watch.crowded_servers() == set()
    cells = cluster.checkout.cells()
    assert len(cells) == CELLS + 1
    assert {cell["status"] for cell in cells.values()} == {"measured"}
    assert cluster.trials_of_cells() == [1] * CELLS + [2], "the second measured more than it had to"
    assert cluster.outcomes() == ["finished", "finished"]
    assert not list((cluster.checkout.root / "results").rglob("*.part")), "no half-written file is left"


def whoever_edits_the_configuration_does_not_disturb_queued_jobs(cluster: Cluster) -> None:
    """Its study deleted, the rest broken: a job knows what it was told, and what Slurm gave it."""
    config = cluster.checkout.root / "config"
    with Watch(cluster) as watch:
        run = cluster.start("--set-resources", "measure:slurm_extra='--begin=now+20'", *MEASURE_ONLY)
        wait_until(lambda: [job.state for job in cluster.jobs()] == ["PENDING"], "a waiting job", timeout_s=60)
        (config / "studies" / "cluster.yaml").unlink()
        kept = {path: path.read_text() for path in config.glob("*.yaml") if path.name != "config.yaml"}
        for path, text in kept.items():
            path.write_text(text + "  half a: thou")
        run.succeed()
    [sighting] = watch.seen()
    assert len(sighting.gpus) == 1
    assert sighting.cpus == min(8, os.cpu_count() or 1), "Snakemake asks for no more than the machine really has"
    for path, text in kept.items():
        path.write_text(text)
    cluster.checkout.write_study("cluster", STUDY)
    assert cluster.checkout.planned(study="cluster").get("measure", 0) == 0
    assert cluster.outcomes() == ["finished"]
    assert cluster.trials_of_cells() == [1] * CELLS


STORIES = (
    past_its_time_limit_a_job_keeps_its_cells_and_is_tried_again,
    two_snakemakes_share_a_folder_unharmed,
    interrupted_and_started_again_it_runs_what_is_missing,
    killed_and_started_again_it_waits_for_the_living_job,
    killed_and_started_again_when_its_job_has_ended_it_measures_nothing,
    whoever_edits_the_configuration_does_not_disturb_queued_jobs,
    a_node_set_down_is_survived,
    a_cancelled_job_keeps_its_cells_and_is_tried_again,
)
