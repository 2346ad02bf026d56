"""Each job gets the GPUs it asked for and no other, and a cell is reproduced on GPUs like its own."""

import json

from tests.slurm.cluster import STUDY, Cluster, Watch


def each_job_has_its_gpus_and_no_other(cluster: Cluster) -> None:
    asked = {"a100": 2, "h100": 3}
    study = (
        STUDY.replace('["a100:1"]', str([f"{name}:{count}" for name, count in asked.items()]))
        .replace("prefix_caching: [on]", "prefix_caching: [on, off]")
        .replace("rates: [2, 4, 5]", "rates: [2]")
        .replace("replicates: 1", "replicates: 2")
    )
    cluster.checkout.write_study("placement", study)
    with Watch(cluster) as watch:
        cluster.start(study="placement").succeed()

    seen = watch.seen()
    assert len(seen) == 8, "two types of GPU, two treatments, two replicates"
    assert {sighting.node.partition("-")[0] for sighting in seen} == set(asked)
    for sighting in seen:
        gpu = sighting.node.partition("-")[0]
        assert gpu in sighting.server, f"{sighting} is on a node of another type"
        assert len(sighting.gpus) == asked[gpu]
    assert watch.shared_gpus() == set()
    assert max(len(look) for look in watch.looks) > 2, "jobs ran side by side"


def a_study_stays_on_the_node_that_it_names(cluster: Cluster) -> None:
    study = STUDY.replace("rates: [2, 4, 5]", "rates: [5]").replace("at rate 2", "at rate 5")
    study = study.replace("prefix_caching: [on]", "prefix_caching: [on, off]").replace("replicates: 1", "replicates: 2")
    cluster.checkout.write_study("pinned", study + "node: a100-2\n")
    with Watch(cluster) as watch:
        cluster.start("--until", "measure", study="pinned").succeed()
    assert len(watch.seen()) == 4
    assert {sighting.node for sighting in watch.seen()} == {"a100-2"}


def a_server_without_gpu_gets_none(cluster: Cluster) -> None:
    study = (
        STUDY.replace("truth-gpu", "truth")
        .replace('["a100:1"]', "[cpu]")
        .replace("rates: [2, 4, 5]", "rates: [inf]")
        .replace("ttft_s p50 at rate 2", "throughput at burst")
    )
    cluster.checkout.write_study("cpu", study)
    with Watch(cluster) as watch:
        cluster.start(study="cpu").succeed()
    assert [sighting.gpus for sighting in watch.seen()] == [()]


def a_cell_is_reproduced_in_a_job_of_its_own(cluster: Cluster) -> None:
    cluster.checkout.write_study(
        "cluster", STUDY.replace("rates: [2, 4, 5]", "rates: [5]").replace("at rate 2", "at rate 5")
    )
    cluster.start("--until", "measure").succeed()
    [recorded] = cluster.checkout.cells().values()
    folder = cluster.checkout.root / "results" / "reproductions" / str(recorded["cell"]) / "1"
    cluster.start(str(folder.relative_to(cluster.checkout.root) / "verdict.html")).succeed()
    assert json.loads((folder / "verdict.json").read_text())["cell"] == recorded["cell"]
    assert [job.state for job in cluster.jobs("reproduce")] == ["COMPLETED"]


STORIES = (
    each_job_has_its_gpus_and_no_other,
    a_server_without_gpu_gets_none,
    a_study_stays_on_the_node_that_it_names,
    a_cell_is_reproduced_in_a_job_of_its_own,
)
