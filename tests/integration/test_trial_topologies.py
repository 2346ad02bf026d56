"""Whole trials of several truth engines: measured, and marked by no check; one of them dying; warm caches on each."""

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psutil
import pyarrow.parquet as pq
import pytest

from leverlab.checks import read_checks
from tests.integration.trial_job import BURST, TrialJob, wait_for

pytestmark = pytest.mark.minutes(seconds=45)

RATE_PHASE: Final = "rate-0000000001"
REPLICAS: Final = {"topology": "replicas"}
PREFILL_DECODE: Final = {"topology": "prefill-decode", "topology_settings": {"connector": "nixl"}}
PHASES: Final = {RATE_PHASE: {"kind": "rate", "value": 20}}
FLAGS: Final = {"kv-transfer-per-token": 0.0001, "prefill-per-token": 0.0002, "kv-bytes-per-token": 1000}


def job_of(root: Path, topology: Mapping[str, Any], **changes: Any) -> TrialJob:
    return TrialJob(root, topology=topology, phases=changes.pop("phases", PHASES), flags=FLAGS, **changes).prepare()


@pytest.fixture(scope="module")
def disaggregated(tmp_path_factory: pytest.TempPathFactory) -> TrialJob:
    job = job_of(tmp_path_factory.mktemp("disaggregated"), PREFILL_DECODE)
    code, shown = job.measure()
    assert code == 0, shown
    return job


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[TrialJob]]:
    jobs: list[TrialJob] = []
    yield jobs
    for job in jobs:
        job.end()


def held_against(job: TrialJob, phase: str = RATE_PHASE) -> dict[str, str]:
    """Check → what it saw, of those that found something but what a busy test machine may do to any cell."""
    of_the_machine = {
        "shared_core",
        "client_error",
        "send_late",
        "stalled",
        "drift",
        "not_warmed_up",
        "foreign_load",
        "front_slow",
        "few_samples",
    }
    checks = read_checks(job.cell_folder(phase) / "checks.json").checks
    return {one.code: one.saw for one in checks if one.severity != "ok" and one.code not in of_the_machine}


def test_a_disaggregated_cell_is_measured_and_its_counts_agree(disaggregated: TrialJob) -> None:
    cell = disaggregated.cell(RATE_PHASE)
    assert cell is not None and cell.status == "measured"
    assert {code for code in held_against(disaggregated) if not code.startswith("server_")} == set()
    checks = {one.code: one for one in read_checks(disaggregated.cell_folder(RATE_PHASE) / "checks.json").checks}
    for code in ("generated_tokens_disagree", "prompt_tokens_disagree", "foreign_requests", "prefills_missing"):
        assert checks[code].severity == "ok", checks[code]
    assert checks["kv_not_handed_over"].severity == "ok"
    assert "front_slow" in checks
    delta = cell.server_delta
    assert (delta["prompt_tokens"], delta["generation_tokens"], delta["requests_finished"]) == (16 * 112, 16 * 8, 16)
    assert (delta["prefill:generation_tokens"], delta["decode:generation_tokens"]) == (16, 16 * 8)
    assert delta["prefix_queried_tokens"] == delta["prefill:prefix_queried_tokens"] == 16 * 112, "a prompt counts once"
    assert delta["kv_transfer_bytes_sum"] == 1000 * delta["handed_over_tokens"] > 0
    assert delta["proxy_added_s_count"] == delta["proxy_prefill_s_count"] == 16
    assert cell.cache["verified"] is True


def test_the_trial_says_what_ran_where_and_with_which_settings(disaggregated: TrialJob) -> None:
    trial = disaggregated.trial(1)
    assert list(trial.processes) == ["prefill", "decode", "proxy"]
    assert set(trial.effective["servers"]) == {"prefill", "decode"}
    assert trial.differences == []
    assert trial.stop["survivors"] == []
    assert disaggregated.servers() == []
    logs = {path.name for path in disaggregated.trial_folder(1).glob("*.log")}
    assert logs == {"prefill.log", "decode.log", "proxy.log", "client.log"}


def test_samples_hold_each_servers_counters(disaggregated: TrialJob) -> None:
    table = pq.read_table(disaggregated.cell_folder(RATE_PHASE) / "server_metrics.parquet").to_pandas()
    assert {"running", "prefill:running", "decode:generation_tokens"} <= set(table["name"])


def test_replicas_are_warm_each_and_share_the_requests(tmp_path: Path, made: list[TrialJob]) -> None:
    job = job_of(tmp_path, REPLICAS, cache="warm")
    made.append(job)
    code, shown = job.measure()
    assert code == 0, shown
    cell = job.cell(RATE_PHASE)
    assert cell is not None
    assert held_against(job) == {}
    delta = cell.server_delta
    assert delta["replica-1:requests_finished"] == delta["replica-2:requests_finished"] == 8
    # Whichever server gets a prompt, it has it: all but the last block of each is found.
    assert delta["prefix_hit_tokens"] == 16 * 96
    assert cell.cache["verified"] is True


def test_a_server_that_dies_in_a_phase_is_named(tmp_path: Path, made: list[TrialJob]) -> None:
    job = job_of(
        tmp_path, PREFILL_DECODE, phases={"burst-0000000002": {**BURST, "requests": 400}}, shape={"output_tokens": 64}
    )
    made.append(job)
    process = job.start()
    for number in (1, 2):
        wait_for(lambda number=number: job.phases_begun(number) > 0, f"the phase of trial {number}")
        pid = next(server.pid for server in job.servers() if "/decode/" in " ".join(server.cmdline()))
        psutil.Process(pid).send_signal(signal.SIGKILL)
        wait_for(lambda number=number: job.trial(number).outcome != "running", f"the end of trial {number}")
    process.communicate(timeout=60)
    assert job.statuses() == {"burst-0000000002": "failed"}
    cell = job.cell("burst-0000000002")
    assert cell is not None and cell.reason is not None
    assert cell.reason.code == "server_died"
    assert cell.reason.message.startswith("decode: ")
    assert job.trials() == ["server_died", "server_died"]
    assert job.servers() == []
