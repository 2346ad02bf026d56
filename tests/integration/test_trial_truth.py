"""Whole trials on the truth engine, as the measuring rule starts them: measured, killed, refused, dying, hanging."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from leverlab.checks import read_checks
from leverlab.records import JobRecord, read_json
from leverlab.trial.runner import missing_cells
from tests.integration.trial_job import BURST, TrialJob, wait_for, words_of

RATE_PHASE, BURST_PHASE = "rate-0000000001", "burst-0000000002"
SLOW = {"slow-0000000003": {"kind": "rate", "value": 4}}
USER_TOKEN = "hf_QQexampleTokenOfTheUser0123456789"


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
        lambda: [child for child in _children(process.pid) if "leverlab.load" in child.cmdline()], "the client"
    )
    seen += [" ".join(child.cmdline()) for child in replay]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert len(key) >= 24
    assert all(key not in line for line in seen)
    for path in job.root.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def _children(pid: int):
    return psutil.Process(pid).children(recursive=True)


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


def test_killed_without_warning_it_leaves_no_server_and_resumes(job: TrialJob) -> None:
    long = job.changed(phases={BURST_PHASE: BURST, **SLOW})
    first = min(long.phases, key=lambda phase: _position(long, phase))
    order = sorted(long.phases, key=lambda phase: _position(long, phase))
    process = long.start()
    wait_for(lambda: long.phases_begun() == 2, "the second phase", 40)
    process.kill()
    process.communicate()
    wait_for(lambda: not long.servers(), "the server's end")
    assert list(long.statuses()) == [first]
    kept = (long.cell_folder(first) / "cell.json").stat().st_mtime_ns
    assert long.trials() == ["running"], "nobody was left to write how it ended"
    code, shown = long.measure()
    assert code == 0, shown
    assert long.statuses() == dict.fromkeys(order, "measured")
    assert (long.cell_folder(first) / "cell.json").stat().st_mtime_ns == kept
    assert long.cell(order[1]).trial == 2
    assert long.trial(2).phases == order[1:]
    assert long.trials() == ["killed", "finished"], "the next trial wrote how the first one ended"
    assert long.trial(1).reason.code == "killed"
    assert long.trial(1).started_at < long.trial(1).ended_at < long.trial(2).started_at
    assert "trial 1 was killed" in shown


def _position(job: TrialJob, phase: str) -> int:
    missing = missing_cells(job.specification(), job.layout)
    return [wanted.phase for wanted in missing].index(phase)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_end_it_stops_the_server_and_keeps_what_is_finished(job: TrialJob, number: int, status: int) -> None:
    long = job.changed(phases={BURST_PHASE: BURST, **SLOW})
    process = long.start()
    wait_for(lambda: long.phases_begun() == 2, "the second phase", 40)
    finished = long.statuses()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == status
    assert long.servers() == []
    assert long.trials() == ["interrupted"]
    assert long.trial(1).reason.code == "interrupted"
    assert long.statuses() == finished and len(finished) == 1
    assert not long.output.exists()
    assert not list(long.root.rglob("*.part")) and not list(long.root.rglob("lease.json"))


@pytest.mark.parametrize("victim", ["leverlab.truth", "leverlab.load"])
def test_a_signal_that_reaches_a_child_first_is_no_failure_of_the_child(job: TrialJob, victim: str) -> None:
    """A scheduler signals all processes of a job, in any order."""
    long = job.changed(phases=SLOW)
    process = long.start()
    wait_for(lambda: long.phases_begun() == 1, "the phase", 40)

    def running(module: str) -> list[psutil.Process]:
        return [child for child in _children(process.pid) if module in child.cmdline()]

    wait_for(lambda: running("leverlab.load"), "the client")
    for child in running(victim):
        child.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert long.trials() == ["interrupted"]
    assert long.statuses() == {}


def test_a_refused_configuration_is_infeasible_for_every_cell(job: TrialJob) -> None:
    for flags in ({"max-num-seqs": 0}, {"refuse": "no kernel for this device"}):
        refused = job.changed(flags=flags, server=f"truth_{len(str(flags))}-0000000000")
        code, shown = refused.measure()
        assert code == 0, shown
        assert set(refused.statuses().values()) == {"infeasible"}
        assert refused.trials() == ["infeasible"]
        reason = refused.cell(BURST_PHASE).reason
        assert "at least 1" in reason.message or "no kernel" in reason.message
        assert JobRecord.model_validate(read_json(refused.output)).cells == refused.statuses()


def test_a_server_that_dies_twice_of_a_cell_fails_that_cell_alone(job: TrialJob) -> None:
    # The warm-up sends at most 18 requests, the probes 2, the burst 16: it lives through these.
    deadly = {"deadly-0000000004": {"kind": "burst", "requests": 60}}
    dying = job.changed(phases={BURST_PHASE: BURST, **deadly}, flags={"exit-after-requests": 60})
    code, shown = dying.measure()
    assert code == 0, shown
    assert dying.statuses() == {BURST_PHASE: "measured", "deadly-0000000004": "failed"}, shown
    reason = dying.cell("deadly-0000000004").reason
    assert reason.code == "server_died" and any("exit-after-requests" in line for line in reason.log)
    assert dying.trials() == ["server_died"] * 2
    assert dying.trial(2).phases[-1] == "deadly-0000000004", "it comes last, and takes no other cell with it"


def test_a_failed_cell_is_measured_again_only_on_demand(job: TrialJob) -> None:
    dying = job.changed(phases={BURST_PHASE: {**BURST, "requests": 60}}, flags={"exit-after-requests": 60})
    assert dying.measure()[0] == 0
    assert dying.statuses() == {BURST_PHASE: "failed"} and dying.trials() == ["server_died"] * 2
    assert dying.measure()[0] == 0
    assert len(dying.trials()) == 2, "not again by itself"
    mended = dying.changed(flags={}, retry_failed=True)
    assert mended.measure()[0] == 0
    assert mended.statuses() == {BURST_PHASE: "measured"}


def test_a_server_that_dies_in_the_warm_up_twice_fails_what_is_missing(job: TrialJob) -> None:
    dying = job.changed(flags={"exit-after-requests": 2})
    assert dying.measure()[0] == 0
    assert set(dying.statuses().values()) == {"failed"}
    assert dying.trials() == ["server_died"] * 2


def test_a_start_that_hangs_may_pass(job: TrialJob) -> None:
    hanging = job.changed(flags={"startup-s": 3600.0}, start_timeout_s=2.0)
    code, shown = hanging.measure()
    assert code == 75, shown
    assert "try again" in shown
    assert hanging.statuses() == {} and hanging.trials() == ["failed"]
    assert hanging.trial(1).reason.code == "start_timeout"
    assert hanging.servers() == []


def test_a_port_that_is_taken_is_changed(job: TrialJob) -> None:
    # The third of `free_port`'s answers is free: a sitecustomize on the path stands in for another process's luck.
    folder = job.root / "luck"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import socket, sys\n"
        "if any(word.endswith('measure.py') for word in sys.orig_argv):\n"
        "    import leverlab.topology as topology\n"
        "    taken = socket.create_server(('127.0.0.1', 0))\n"
        "    real, asked = topology.free_port, []\n"
        "    def unlucky(host='127.0.0.1'):\n"
        "        asked.append(1)\n"
        "        return taken.getsockname()[1] if len(asked) < 3 else real(host)\n"
        "    topology.free_port = unlucky\n"
    )
    code, shown = job.changed(phases={BURST_PHASE: BURST}).measure(PYTHONPATH=str(folder))
    assert code == 0, shown
    assert job.trials() == ["finished"]
    assert len(list(job.trial_folder(1).glob("server.port-taken-*.log"))) == 2


def test_http_errors_are_measured_and_marked(job: TrialJob) -> None:
    erring = job.changed(phases={BURST_PHASE: BURST}, flags={"http-error-every": 3})
    assert erring.measure()[0] == 0
    checks = read_checks(erring.cell_folder(BURST_PHASE) / "checks.json")
    assert checks.worst == "invalid"
    assert {"http_errors"} <= {check.code for check in checks.checks if check.severity == "invalid"}


def test_a_full_disk_keeps_finished_cells_and_may_pass(job: TrialJob) -> None:
    folder = job.root / "full"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import errno, os, sys\n"
        "if any(word.endswith('measure.py') for word in sys.orig_argv):\n"
        "    import leverlab.trial.cell_files as cell_files\n"
        "    real, written = cell_files.pq.write_table, []\n"
        "    def write(*arguments, **options):\n"
        "        written.append(1)\n"
        "        if len(written) > 7:\n"
        "            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "        return real(*arguments, **options)\n"
        "    cell_files.pq.write_table = write\n"
    )
    code, shown = job.measure(PYTHONPATH=str(folder))
    assert code == 75, shown
    assert "make room and run the same command again" in shown
    assert list(job.statuses().values()) == ["measured"]
    assert not list(job.root.rglob("*.part")) and job.servers() == []
    assert job.measure()[0] == 0
    assert set(job.statuses().values()) == {"measured"}


def test_a_lease_that_somebody_else_holds_is_waited_for(job: TrialJob) -> None:
    slow = job.changed(phases=SLOW)
    first = slow.start()
    wait_for(lambda: slow.layout.lease(slow.server, slow.replicate).is_file(), "the lease")
    second = slow.start()
    wait_for(lambda: "is being measured by" in (slow.root / "job.log").read_text(), "the second to wait")
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert slow.trials() == ["finished"], "the second found everything measured"


def test_a_lease_that_is_lost_ends_the_trial(job: TrialJob) -> None:
    slow = job.changed(phases=SLOW)
    process = slow.start()
    wait_for(slow.phases_begun, "the phase")
    lease = slow.layout.lease(slow.server, slow.replicate)
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "token": "somebody-else"}))
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 75, shown
    assert slow.trial(1).reason.code == "lease_lost" and slow.statuses() == {}


def test_wrong_usage_is_told(tmp_path: Path) -> None:
    job = TrialJob(tmp_path).prepare()
    spec = job.layout.job_specification(job.server, job.replicate, job.job)
    spec.write_text("{}")
    code, shown = job.measure()
    assert code == 1 and str(spec) in shown and "Snakemake" in shown
    assert [path.name for path in job.layout.replicate(job.server, job.replicate).iterdir()] == ["jobs"]
