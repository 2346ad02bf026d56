"""How a trial on the truth engine ends: killed, told to end, refused, with a server that dies, a port or a disk that is taken."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from leverlab.checks import read_checks
from leverlab.records import JobRecord, read_json
from leverlab.trial.runner import missing_cells
from tests.integration.trial_job import BURST, TrialJob, wait_for
from tests.integration.truth_trial import BURST_PHASE, SLOW, children_of


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrialJob]:
    made = TrialJob(tmp_path).prepare()
    yield made
    made.end()


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
    assert "trial 1: The trial's process ended without a word" in shown


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
        return [child for child in children_of(process.pid) if module in child.cmdline()]

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
