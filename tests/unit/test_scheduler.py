"""What is made of Slurm's answers, with a stand-in for squeue; tests/slurm asks a real one."""

import pytest

from leverlab.layout import Layout
from leverlab.scheduler import (
    QueuedJob,
    SlurmJob,
    SlurmUnreachableError,
    current_job,
    job_is_alive,
    queued_jobs,
    wait_for_previous_jobs,
)

TARGET = ("measure", "vllm-h100-base-1a2b3c_r1")
LABEL = "rule_measure_wildcards_vllm-h100-base-1a2b3c_r1_0f9e8d"


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Put a squeue first in the path that gives the given answers, the last one for ever."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def install(*answers, error="", code=0):
        for number, answer in enumerate(answers or [""]):
            (folder / f"answer{number}").write_text("".join(f"{line}\n" for line in answer))
        (folder / "error").write_text(error)
        (folder / "squeue").write_text(
            f'#!/bin/sh\ncd {folder}\necho "$@" >> asked\nn=$(($(wc -l < asked) - 1))\n'
            f"[ -e answer$n ] || n={max(0, len(answers) - 1)}\ncat answer$n\ncat error >&2\nexit {code}\n"
        )
        (folder / "squeue").chmod(0o755)
        return folder / "asked"

    return install


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without Slurm."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_slurm_there_is_nothing(nowhere, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert current_job() is None
    assert job_is_alive("7") is None
    assert queued_jobs(Layout()) == []
    wait_for_previous_jobs({TARGET}, Layout())


def test_installed_but_of_no_cluster_is_without_slurm(squeue):
    squeue(error="squeue: fatal: Could not establish a configuration source\n", code=1)
    assert job_is_alive("7") is None
    assert queued_jobs(Layout()) == []


def test_the_job_of_this_process(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "42",
        "SLURM_CLUSTER_NAME": "alps",
        "SLURMD_NODENAME": "node7",
        "SLURM_JOB_PARTITION": "gpu",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_STEP_GPUS": "2,3",
    }.items():
        monkeypatch.setenv(name, value)
    assert current_job() == SlurmJob("42", "alps", "node7", "gpu", 16, (2, 3))


def test_a_job_lives_while_it_is_listed(squeue):
    asked = squeue(["COMPLETING"], [])
    assert job_is_alive("42") is True
    assert job_is_alive("42") is False
    assert asked.read_text().splitlines()[0] == "--noheader --jobs 42 --format=%T"


def test_a_forgotten_job_is_dead(squeue):
    squeue(error="slurm_load_jobs error: Invalid job id specified\n", code=1)
    assert job_is_alive("42") is False


def test_nothing_is_known_while_slurm_is_silent(squeue):
    squeue(error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", code=1)
    assert job_is_alive("42") is None
    with pytest.raises(SlurmUnreachableError, match="Unable to contact"):
        queued_jobs(Layout())


def test_only_measurements_into_this_folder_count(squeue, tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        (folder / "results").mkdir(parents=True)
    (tmp_path / "link").symlink_to(here)
    squeue(
        [
            f"1|RUNNING|{here}|{LABEL}",
            f"2|PENDING|{tmp_path / 'link'}|rule_measure_wildcards_a_server_with_dashes-2_r3_77aa",
            f"3|RUNNING|{elsewhere}|{LABEL}",
            f"4|RUNNING|{here}|rule_aggregate_wildcards_first-look",
            f"5|RUNNING|{here}|somebody's | comment",
            f"6|RUNNING|{here}|(null)",
        ]
    )
    assert queued_jobs(Layout(here)) == [
        QueuedJob("1", "RUNNING", ("measure", "vllm-h100-base-1a2b3c_r1")),
        QueuedJob("2", "PENDING", ("measure", "a_server_with_dashes-2_r3")),
    ]


def test_waits_for_twins_and_for_servers_that_are_asked_too(squeue, tmp_path):
    """Each starts a server and keeps one record: another of the same would be started beside it."""
    twin = "rule_profile_wildcards_vllm_h100_max-num-seqs-4-1a2b3c_random_rate-8_cold-77aa_beba94e7b8"
    asked = "rule_accuracy_wildcards_vllm_h100_max-num-seqs-4-1a2b3c_0f9e8d7c6b"
    listed = [f"1|RUNNING|{tmp_path}|{twin}", f"2|PENDING|{tmp_path}|{asked}", f"3|RUNNING|{tmp_path}|{LABEL}"]
    squeue(listed)
    assert [job.target for job in queued_jobs(Layout(tmp_path))] == [
        ("profile", "beba94e7b8"),
        ("accuracy", "0f9e8d7c6b"),
        TARGET,
    ]
    calls = squeue(listed, listed[1:], listed[2:])
    calls.unlink()
    said = []
    targets = {("profile", "beba94e7b8"), ("accuracy", "0f9e8d7c6b")}
    wait_for_previous_jobs(targets, Layout(tmp_path), log=said.append, poll_s=0)
    assert [("1 (running)" in line, "2 (pending)" in line) for line in said] == [(True, True), (False, True)]
    assert not any("3 (running)" in line for line in said)


def test_waits_until_the_server_is_free(squeue, tmp_path):
    other = "rule_measure_wildcards_other_r1_0f9e8d"
    asked = squeue(
        [f"1|RUNNING|{tmp_path}|{LABEL}", f"2|RUNNING|{tmp_path}|{other}"],
        [f"1|RUNNING|{tmp_path}|{LABEL}", f"2|RUNNING|{tmp_path}|{other}"],
        [f"1|COMPLETING|{tmp_path}|{LABEL}"],
        [f"2|RUNNING|{tmp_path}|{other}"],
    )
    said = []
    wait_for_previous_jobs({TARGET}, Layout(tmp_path), log=said.append, poll_s=0)
    assert len(asked.read_text().splitlines()) == 4
    assert [("1 (running)" in line, "1 (completing)" in line) for line in said] == [(True, False), (False, True)]
    assert all("scancel 1" in line for line in said)


def test_asks_again_while_slurm_is_silent(squeue, tmp_path):
    squeue(error="slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    said = []

    def answer_now(line):
        said.append(line)
        squeue([])

    wait_for_previous_jobs({TARGET}, Layout(tmp_path), log=answer_now, poll_s=0)
    assert len(said) == 1
    assert "Unable to contact" in said[0]
