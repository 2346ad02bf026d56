"""Which servers are asked what, by which id, and what is left of it to do."""

from pathlib import Path

import pytest

from leverlab.accuracy.plan import (
    LM_EVAL,
    all_jobs,
    incomplete_jobs,
    jobs_by_study,
    read_run,
    run_folder,
    specification,
    walltime_s,
    weights_of,
    write_specifications,
)
from leverlab.config import ConfigError
from leverlab.records import AccuracyRecord, AccuracySpecification, read_json, write_json
from tests.unit.repository import STUDY, Repository

ASKING = STUDY + "accuracy: {limit: 50, data: config/accuracy/sums}\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository.at(tmp_path)
    found.write("small", ASKING)
    return found


def jobs(repository: Repository):
    return list(all_jobs(jobs_by_study(repository.matrix())).values())


def measure(repository: Repository, job, status: str = "measured") -> None:
    record = AccuracyRecord(
        server=job.server.id, replicate=str(job.replicate), task_id=job.task.id, status=status, specification={},
        engine=job.server.engine, started_at="2026-01-31T12:00:00.000+00:00", duration_s=1.0,
    )  # fmt: skip
    write_json(run_folder(job, repository.layout) / "accuracy.json", record)


def test_each_server_is_asked_once_and_the_baselines_copy_on_its_own(repository: Repository) -> None:
    assert len(jobs(repository)) == 3
    repository.write("small", ASKING + "noise_floor: true\n")
    found = jobs(repository)
    assert len(found) == 4
    assert sorted(str(job.replicate) for job in found) == ["r1", "r1", "r1", "r1c1"]


def test_a_study_without_the_key_asks_nothing(repository: Repository) -> None:
    repository.write("small", STUDY)
    assert jobs(repository) == []


def test_what_is_asked_decides_the_id_and_where_the_data_lie_does_not(repository: Repository) -> None:
    before = {job.task.id for job in jobs(repository)}
    (repository.root / "elsewhere").mkdir()
    for file in (repository.root / "config/accuracy/sums").iterdir():
        (repository.root / "elsewhere" / file.name).write_bytes(file.read_bytes())
    repository.change("config/accuracy/sums", "elsewhere")
    repository.change("limit: 50", "limit: 50, timeout: 20 s, task: gsm8k, seed: 1234")
    assert {job.task.id for job in jobs(repository)} == before
    test = repository.root / "elsewhere" / "test.jsonl"
    test.write_text(test.read_text().replace("28", "29"))
    changed = {job.task.id for job in jobs(repository)}
    assert changed != before
    repository.change("seed: 1234", "seed: 1")
    assert {job.task.id for job in jobs(repository)} not in (before, changed)


def test_asking_changes_no_server_cell_or_job_of_the_measurement(repository: Repository) -> None:
    asking = [job.hash for job in repository.matrix().jobs]
    repository.write("small", STUDY)
    assert [job.hash for job in repository.matrix().jobs] == asking


def test_random_weights_are_asked_only_where_the_study_says_so(repository: Repository) -> None:
    repository.change("engines: [truth]", "engines: [vllm-cpu]")
    assert jobs(repository) == []
    repository.change("limit: 50", "limit: 50, random_weights: true")
    found = jobs(repository)
    assert len(found) == 3
    assert {weights_of(job.server, repository.configuration()) for job in found} == {"random"}


def test_only_a_missing_run_is_left_to_do(repository: Repository) -> None:
    one, two, three = jobs(repository)
    assert incomplete_jobs([one, two, three], repository.layout, retry_failed=False) == [one, two, three]
    measure(repository, one)
    measure(repository, two, "failed")
    assert incomplete_jobs([one, two, three], repository.layout, retry_failed=False) == [three]
    record = repository.layout.accuracy_job(one.server.id, one.hash)
    assert read_json(record)["status"] == "measured"
    assert incomplete_jobs([one, two, three], repository.layout, retry_failed=True) == [two, three]
    assert not repository.layout.accuracy_job(two.server.id, two.hash).exists()
    (run_folder(one, repository.layout) / "accuracy.json").write_text("{")
    assert read_run(run_folder(one, repository.layout)) is None


def test_a_job_is_told_all_that_it_needs_and_no_secret(repository: Repository) -> None:
    job = jobs(repository)[0]
    write_specifications([job], repository.configuration(), repository.layout)
    path = repository.layout.accuracy_specification(job.server.id, job.hash)
    told = AccuracySpecification.model_validate(read_json(path))
    assert told.job.cells == []
    assert told.job.identity == job.server.identity
    assert told.task["limit"] == 50
    assert sorted(told.data_files) == ["test", "train"]
    assert told.lm_eval_prefix == [f".envs/{LM_EVAL}/bin/python"]
    named = specification(job, repository.configuration(lm_eval_python="/opt/python"), repository.layout)
    assert named.lm_eval_prefix == ["/opt/python"]
    assert walltime_s(job, repository.configuration()) > 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("accuracy: {limt: 50}", "accuracy.limt: there is no key 'limt'; did you mean 'limit'?"),
        ("accuracy: {limit: 0}", "accuracy.limit"),
        ("accuracy: {data: config}", "accuracy.data: config is no folder with files `<split>.jsonl`"),
        ("accuracy: {prompts: [a, a]}", "prompts: one stands twice"),
        ("collects: {Score: 'accuracy: scores'}", "accuracy: there is no 'scores'; did you mean 'score'?"),
        ("questions: [{ask: Why so, answers: [{kind: accuracy, lever: quantization}]}]", "quantization"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(repository: Repository, change: str, message: str) -> None:
    repository.write("small", STUDY + change + "\n")
    with pytest.raises(ConfigError) as error:
        repository.matrix()
    assert message in str(error.value)
    assert "config/studies/small.yaml" in str(error.value)


def test_a_task_may_stand_alone(repository: Repository) -> None:
    repository.write("small", STUDY + "accuracy: gsm8k\n")
    assert {job.task.identity["task"] for job in jobs(repository)} == {"gsm8k"}
