"""Whole trials on the truth engine, as the measuring rule starts them: measured, killed, refused, dying, hanging."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.checks import read_checks
from leverlab.records import JobRecord, read_json
from tests.integration.trial_job import BURST, TrialJob, wait_for, words_of
from tests.integration.truth_trial import BURST_PHASE, RATE_PHASE, SLOW, USER_TOKEN, children_of


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrialJob]:
    made = TrialJob(tmp_path).prepare()
    yield made
    made.end()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> TrialJob:
    """A job whose two cells are measured, by a user who has a token; tests only look at it."""
    job = TrialJob(tmp_path_factory.mktemp("measured")).prepare()
    code, shown = job.measure(HF_TOKEN=USER_TOKEN, HOME=str(job.root))
    assert code == 0, shown
    return job


def test_every_cell_is_measured_and_the_job_has_its_record(measured: TrialJob) -> None:
    assert measured.statuses() == {RATE_PHASE: "measured", BURST_PHASE: "measured"}
    record = JobRecord.model_validate(read_json(measured.output))
    assert record.cells == measured.statuses()
    assert measured.trials() == ["finished"]
    assert measured.servers() == []


def test_a_cells_folder_holds_all_that_was_promised(measured: TrialJob) -> None:
    for phase in measured.phases:
        folder = measured.cell_folder(phase)
        names = {"requests", "chunks", "server_metrics", "gpu", "host"}
        assert {path.name for path in folder.iterdir()} == {
            "cell.json",
            "checks.json",
            *(f"{name}.parquet" for name in names),
        }
        requests = pq.read_table(folder / "requests.parquet")
        assert requests.column("status").to_pylist() == ["ok"] * 16
        assert requests.column("prompt_tokens").to_pylist() == [112] * 16
        assert requests.column("completion_tokens").to_pylist() == [8] * 16
        assert pq.read_table(folder / "chunks.parquet").num_rows == 16 * 8
        assert pq.read_table(folder / "gpu.parquet").num_rows == 0
        assert "energy_j" in pq.read_schema(folder / "gpu.parquet").names
        host, server = pq.read_table(folder / "host.parquet"), pq.read_table(folder / "server_metrics.parquet")
        assert host.num_rows > 0 and server.num_rows > 0


def test_a_cells_record_says_where_it_comes_from(measured: TrialJob) -> None:
    spec = measured.specification()
    for wanted in spec.cells:
        cell = measured.cell(wanted.phase)
        assert cell is not None
        assert cell.specification == {"server": spec.identity, "phase": wanted.identity}
        assert (cell.cell, cell.engine, cell.trial, cell.replicate) == (wanted.cell, "truth", 1, "r1")
        assert cell.cache["asked"] == "cold" and cell.cache["verified"] is True
        assert cell.server_delta["generation_tokens"] == 16 * 8
        assert cell.server_delta["prefix_hit_tokens"] == (16 - 2) * 96
        assert cell.instrument["ttft_error_s"] > 0
        assert cell.provenance, "what the node was is in every cell"
        assert "gpu" in cell.not_sampled and cell.sampling.keys() == {"host", "server_metrics"}


def test_no_request_of_warm_up_or_probe_is_counted(measured: TrialJob) -> None:
    for phase in measured.phases:
        found = {check.code: check for check in read_checks(measured.cell_folder(phase) / "checks.json").checks}
        for code in (
            "foreign_requests",
            "generated_tokens_disagree",
            "prompt_tokens_disagree",
            "cache_state_wrong",
            "foreign_cache_hits",
            "chunks_disagree",
        ):
            assert found[code].severity == "ok", found[code]


def test_phases_run_in_an_order_drawn_from_the_seed(measured: TrialJob) -> None:
    ran = measured.trial(1).phases
    assert sorted(ran) == sorted(measured.phases)
    assert [measured.cell(phase).position for phase in ran] == [0, 1]


def test_the_trials_record_times_each_step(measured: TrialJob) -> None:
    trial = measured.trial(1)
    assert {"configuration_check", "spawn", "healthy", "warmup"} == set(trial.start)
    assert len(trial.warmup["windows"]) >= 2
    assert set(trial.compile_caches) == {"vllm", "inductor", "triton", "flashinfer"}
    assert trial.effective["settings"]["ttft"] == 0.01
    assert trial.differences == []
    assert trial.stop["signal"] == "SIGINT" and trial.stop["survivors"] == []
    assert trial.ended_at is not None and trial.fingerprint


def test_events_tell_of_every_request(measured: TrialJob) -> None:
    events = measured.events()
    assert words_of(events) == [
        "start",
        "ready",
        "warm",
        "phase_started",
        "phase_ended",
        "phase_started",
        "phase_ended",
        "stop",
        "end",
    ]
    requests = [event for event in events if event["event"] == "request"]
    assert len(requests) == 32 and len({event["request_id"] for event in requests}) == 32
    promised = {
        "request_id",
        "model",
        "prompt_tokens",
        "completion_tokens",
        "ttft_ms",
        "tpot_ms",
        "cached_tokens",
        "cache_hit",
        "finish_reason",
        "cell",
    }
    assert all(promised <= event.keys() for event in requests)
    assert {event["cell"] for event in requests} == {f"cell_{phase}" for phase in measured.phases}
    assert sum(event["cache_hit"] for event in requests) == 2 * 14


def test_no_secret_reaches_an_artifact(measured: TrialJob) -> None:
    assert measured.trial(1).effective, "what is searched through is there"
    files = [path for path in measured.root.rglob("*") if path.is_file() and path.parent != measured.root / "model"]
    assert len(files) > 20
    for path in files:
        assert USER_TOKEN.encode() not in path.read_bytes(), path


def test_the_servers_key_reaches_no_artifact_and_no_command_line(job: TrialJob) -> None:
    slow = job.changed(phases=SLOW)
    process = slow.start()
    server = wait_for(slow.servers, "a server")[0]
    key = server.environ()["LEVERLAB_API_KEY"]
    seen = [" ".join(child.cmdline()) for child in server.parents()]
    wait_for(slow.phases_begun, "the phase")
    replay = wait_for(
        lambda: [child for child in children_of(process.pid) if "leverlab.load" in child.cmdline()], "the client"
    )
    seen += [" ".join(child.cmdline()) for child in replay]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert len(key) >= 24
    assert all(key not in line for line in seen)
    for path in job.root.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def test_a_second_run_starts_no_server(job: TrialJob) -> None:
    assert job.measure()[0] == 0
    before = job.cell_folder(RATE_PHASE).stat().st_mtime_ns
    job.output.unlink()
    code, _ = job.measure()
    assert code == 0 and job.output.is_file()
    assert job.trials() == ["finished"]
    assert job.cell_folder(RATE_PHASE).stat().st_mtime_ns == before


def test_a_damaged_record_is_named_and_left_alone_and_the_others_are_measured(job: TrialJob) -> None:
    for damage in ("", "half a rec", '{"status": "measured", "duration_s": 1.0, "trial": 1}'):
        damaged = job.cell_folder(RATE_PHASE) / "cell.json"
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_text(damage)
        code, shown = job.measure()
        assert code == 1 and "Traceback" not in shown, shown
        assert f"{damaged}: " in shown and "delete its folder to measure the cell again" in shown
        assert damaged.read_text() == damage
        assert (job.cell_folder(BURST_PHASE) / "cell.json").is_file()
        assert job.trials() == ["finished"], "a damaged record alone starts no server"
    damaged.unlink()
    half_written = job.cell_folder(RATE_PHASE) / "requests.parquet"
    half_written.write_bytes(b"PAR1")
    assert job.measure()[0] == 0
    assert job.statuses() == {RATE_PHASE: "measured", BURST_PHASE: "measured"}
    assert pq.read_table(half_written).num_rows == 16


def test_a_warm_cache_is_filled_with_the_workload_itself(job: TrialJob) -> None:
    warm = job.changed(cache="warm", phases={BURST_PHASE: BURST})
    assert warm.measure()[0] == 0
    cell = warm.cell(BURST_PHASE)
    assert cell is not None and cell.cache["verified"] is True
    assert cell.server_delta["prompt_tokens"] == 16 * 112, "the filling is not measured"
    assert cell.server_delta["prefix_hit_tokens"] == 16 * 96, "whole blocks of every prompt, less its last token's"


def test_a_setting_that_did_not_take_is_a_failed_check(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = job.changed(flags={"enable-prefix-caching": True, "gap": "0.002"}, phases={BURST_PHASE: BURST})
    assert odd.measure()[0] == 0
    assert [found["key"] for found in odd.trial(1).differences] == ["gap"]
    found = {check.code: check.severity for check in read_checks(odd.cell_folder(BURST_PHASE) / "checks.json").checks}
    assert found["setting_not_taken"] == "invalid"
