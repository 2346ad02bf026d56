"""Which treatments, cells and jobs a study comes to: designs, what studies share, seeds, nodes."""

from pathlib import Path

import pytest

from leverlab.config import ConfigError
from leverlab.matrix.cells import ReplicateKey, workload_seed
from tests.unit.matrices import phases, servers
from tests.unit.repository import STUDY, Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.at(tmp_path)


def names(repository: Repository) -> list[str]:
    return list(dict.fromkeys(entry.treatment.name for entry in repository.study().cells))


def test_designs(repository: Repository) -> None:
    repository.change("[64, 4]", "[64, 4, 2]")
    one_at_a_time = ["baseline", "prefix_caching=off", "max_num_seqs=4", "max_num_seqs=2"]
    assert names(repository) == one_at_a_time
    repository.change("replicates: 2", "replicates: 2\ndesign: factorial")
    assert set(names(repository)) == {
        *one_at_a_time,
        "prefix_caching=off, max_num_seqs=4",
        "prefix_caching=off, max_num_seqs=2",
    }
    repository.change("design: factorial", "design: {factorial: [max_num_seqs]}")
    assert names(repository) == ["baseline", "max_num_seqs=4", "max_num_seqs=2"]
    repository.change(
        "design: {factorial: [max_num_seqs]}",
        "design: {list: [{prefix_caching: off, max_num_seqs: 2}, {prefix_caching: on}]}",
    )
    assert names(repository) == ["baseline", "prefix_caching=off, max_num_seqs=2"]


def test_swapping_the_baseline_keeps_the_cells_they_share(repository: Repository) -> None:
    before = servers(repository)
    repository.change("baseline: {prefix_caching: on", "baseline: {prefix_caching: off")
    after = servers(repository)
    assert after["baseline"] == before["prefix_caching=off"] and after["prefix_caching=on"] == before["baseline"]
    assert after["max_num_seqs=4"] not in before.values()


def test_studies_that_share_cells_make_one_job_a_server_and_replicate(repository: Repository) -> None:
    repository.write(
        "other",
        STUDY.replace("[8, inf]", "[8, 32]")
        .replace("at burst", "at rate 32")
        .replace("replicates: 2", "replicates: 3\nrequest_timeout: 900 s"),
    )
    matrix = repository.matrix(study="small,other")
    alone = {study: repository.matrix(study=study) for study in ("small", "other")}
    assert len(matrix.jobs) == 3 * 3 and {len(job.cells) for job in matrix.jobs} == {3, 2}
    assert len({job.hash for job in matrix.jobs}) == 9
    assert [len(matrix.jobs_by_study[name]) for name in ("small", "other")] == [6, 9]
    assert set(alone["small"].servers) == set(alone["other"].servers) == set(matrix.servers)
    third = [job for job in matrix.jobs if job.replicate.number == 3]
    assert {job.hash for job in third} == {job.hash for job in alone["other"].jobs if job.replicate.number == 3}
    followed = {str(cell.phase.load): cell.phase.request_timeout_s for cell in matrix.jobs[0].cells}
    assert followed == {"rate 8": 900, "burst": 600, "rate 32": 900}


def test_models_gpus_and_counts_are_crossed(repository: Repository) -> None:
    repository.change("gpus: [cpu]", "gpus: [h100, 'h100:2']")
    repository.change("models: [tiny-llama]", "models: [tiny-llama, llama-3.1-8b]")
    study = repository.study()
    assert len(study.cells) == 2 * 2 * 3 * 2
    assert {(entry.cell.server.gpu, entry.cell.server.gpu_count) for entry in study.cells} == {("h100", 1), ("h100", 2)}
    assert len({entry.cell.phase.workload.id for entry in study.cells}) == 2, "a workload for each tokenizer"


def test_seeds_belong_to_the_replicate_and_the_workload_not_to_the_model(repository: Repository) -> None:
    repository.change("models: [tiny-llama]", "models: [tiny-llama, llama-3.1-8b]")
    first, second = repository.matrix().workloads.values()
    key = ReplicateKey(1)
    assert first.id != second.id and first.seed(key) == second.seed(key) == workload_seed(first.identity, key)
    assert first.seed(ReplicateKey(1, copy=2)) == first.seed(key)
    assert len({first.seed(key), first.seed(ReplicateKey(2)), first.seed(ReplicateKey(1, reproduction=True))}) == 3
    repository.change("requests: 24", "requests: 25")
    assert next(iter(repository.matrix().workloads.values())).seed(key) != first.seed(key)


@pytest.mark.parametrize(
    "key", [ReplicateKey(1), ReplicateKey(12, 3), ReplicateKey(2, reproduction=True), ReplicateKey(2, 1, True)]
)
def test_a_replicate_is_read_as_it_is_written(key: ReplicateKey) -> None:
    assert ReplicateKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["1", "r0", "r", "r1c0", "rr1", "r1 ", "../r1"])
def test_what_is_no_replicate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no replicate"):
        ReplicateKey.parse(text)


def test_the_primary_metric_is_the_levers_own_where_the_study_says_nothing(repository: Repository) -> None:
    repository.change("primary:\n  prefix_caching: ttft_s p50 at rate 8\n  max_num_seqs: throughput at burst\n", "")
    repository.change("[8, inf]", "[8, 32, inf]")
    assert [(lever, str(metric)) for lever, metric in repository.study().primary] == [
        ("prefix_caching", "ttft_s p50 at rate 8"),
        ("max_num_seqs", "throughput at burst"),
    ]
    repository.change("rates: [8, 32, inf]", "concurrencies: [4, 16]")
    assert [(lever, str(metric)) for lever, metric in repository.study().primary] == [
        ("prefix_caching", "ttft_s p50 at concurrency 4"),
        ("max_num_seqs", "throughput at concurrency 16"),
    ]


def test_a_study_pins_its_jobs_to_a_node_and_no_id_changes(repository: Repository) -> None:
    before = [job.hash for job in repository.matrix().jobs]
    assert repository.matrix().nodes == {}
    repository.change("replicates: 2", "replicates: 2\nnode: worker-7")
    matrix = repository.matrix()
    assert [job.hash for job in matrix.jobs] == before
    assert matrix.nodes == dict.fromkeys(before, "worker-7")


def test_two_studies_that_share_a_server_must_name_the_same_node(repository: Repository) -> None:
    repository.change("replicates: 2", "replicates: 2\nnode: worker-7")
    repository.write("other", STUDY.replace("replicates: 2", "replicates: 2\nnode: worker-8"))
    with pytest.raises(ConfigError, match=r"other.yaml: node: worker-8 and config/studies/small.yaml: node: worker-7"):
        assert repository.matrix(study=["small", "other"]).nodes
    repository.write("other", STUDY)
    assert set(repository.matrix(study=["small", "other"]).nodes.values()) == {"worker-7"}, (
        "the shared ones are pinned too"
    )


def test_a_cell_is_left_out_after_saturation_only_where_every_study_that_shares_it_says_so(
    repository: Repository,
) -> None:
    before = phases(repository)
    repository.change("rates: [8, inf]", "rates: [8, 16, inf]")
    all_rates = (repository.root / "config/studies/small.yaml").read_text()
    repository.change("replicates: 2", "replicates: 2\nstop_after_saturation: true")
    assert before.items() <= phases(repository).items(), "it is no part of what is measured"
    repository.write("other", all_rates.replace("[8, 16, inf]", "[8, inf]"))
    [job, *_] = repository.matrix(study=["small", "other"]).jobs
    stops = {str(cell.phase.load): cell.phase.stop_after_saturation for cell in job.cells}
    assert stops == {"rate 8": False, "rate 16": True, "burst": False}
