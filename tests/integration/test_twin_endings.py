"""Twins that are broken off, and by what: what of them is kept, and that nothing is left running."""

import contextlib
import os
import signal
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import httpx
import psutil
import pytest

from leverlab.profile import tables
from leverlab.profile.keeping import read_twin
from leverlab.trial.outcomes import Interrupted
from tests.integration.test_twin import disaggregated, folder_of, job, run
from tests.integration.test_twin_profilers import EXPORTS, Counted, Killed, impatient, program
from tests.integration.trial_job import TrialJob

__all__ = ["disaggregated", "impatient", "job"]  # fixtures


class Dying(Counted):
    """Two of which the decode server dies, with its profiler, before both are looked at again."""

    def start(self, client: httpx.Client, tool: str, folder: Path) -> None:
        super().start(client, tool, folder)
        if folder.name == "decode":
            (folder / "die").touch()
            with contextlib.suppress(httpx.HTTPError):
                while client.get("/health"):
                    time.sleep(0.01)

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        self.order.append("told")
        client.get("/health")
        super().stop(client, timeout_s)


def left_since(before: set[int]) -> list[list[str]]:
    """Command lines of what was started since and still runs."""
    left = [each for each in psutil.Process().children(recursive=True) if each.pid not in before and each.is_running()]
    return [each.cmdline() for each in left if each.status() != psutil.STATUS_ZOMBIE]


def test_a_twin_that_is_told_to_end_keeps_what_it_recorded_and_leaves_no_server(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is run again by the same command, as its job has made no record; what is whole does not give way to a part."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    nsys, folder = program(job, "nsys", EXPORTS), folder_of(job, "nsys")
    with pytest.raises(Interrupted):
        run(job, monkeypatch, Killed, nsys)
    assert left_since(before) == [] and [each.name for each in folder.parent.iterdir()] == ["nsys"]
    record = read_twin(folder)
    assert record is not None and record.outcome == "recorded" and len(tables.read(folder).kernels) > 1000
    assert record.partial is not None and record.partial.code == "interrupted"
    assert run(job, monkeypatch, Counted, nsys).partial is None
    with pytest.raises(Interrupted):
        run(job, monkeypatch, Killed, nsys)
    kept = read_twin(folder)
    assert kept is not None and kept.outcome == "recorded" and kept.partial is None


def test_a_twin_that_is_told_to_end_before_it_recorded_keeps_nothing(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    monkeypatch.setattr("leverlab.profile.twin.warm_up", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(job, monkeypatch, Counted, program(job, "nsys", EXPORTS))
    assert left_since(before) == [] and not list(folder_of(job, "nsys").parent.iterdir())


def told_once(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """What stands at `where` is told to end when it is first called, and does what it does when it is called again."""
    done = resolve_name(where)

    def told(*arguments: Any) -> Any:
        monkeypatch.setattr(where, done)
        os.kill(os.getpid(), signal.SIGTERM)
        return done(*arguments)

    monkeypatch.setattr(where, told)


@pytest.mark.parametrize("while_it", ["waits for the report", "stops the server", "exports", "reads"])
def test_a_twin_that_is_told_to_end_once_all_is_recorded_is_whole(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch, while_it: str
) -> None:
    monkeypatch.setattr("leverlab.profile.recorders.STOP_TIMEOUT_S", 60.0)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    exports = EXPORTS
    if while_it == "exports":
        told, half = job.root / "told", 'mkdir -p "$target"; echo half > "$target/StringIds.parquet"'
        once = f"[ -e {told} ] || {{ {half}; touch {told}; kill -TERM $PPID; exec sleep 60; }}"
        exports = EXPORTS.replace("    [ -e", f"    {once}\n    [ -e", 1)
    elif while_it == "waits for the report":
        told_once(monkeypatch, "leverlab.profile.nsys.wait_for_report")
    elif while_it == "stops the server":
        told_once(monkeypatch, "leverlab.topology.running.RunningServer.stop")
    else:
        told_once(monkeypatch, "leverlab.profile.recorders.read_nsys_export")
    with pytest.raises(Interrupted):
        run(job, monkeypatch, Counted, program(job, "nsys", exports))
    folder = folder_of(job, "nsys")
    assert left_since(before) == [] and [each.name for each in folder.parent.iterdir()] == ["nsys"]
    record = read_twin(folder)
    assert record is not None and record.outcome == "recorded" and record.partial is None, record and record.reason
    assert record.requests["ok"] == 16 and "requests.parquet" in record.files
    assert len(tables.read(folder).kernels) > 1000


def test_a_server_that_dies_leaves_what_the_other_recorded(
    disaggregated: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is told to end: its profiler would go on, and its report be waited for."""
    monkeypatch.setattr("leverlab.profile.recorders.STOP_TIMEOUT_S", 60.0)
    watched = 'server=$!; script=$$\n(while [ ! -e "${output%/*}/die" ]; do kill -0 $server || exit; sleep 0.05; done; kill -9 $server $script) &'
    dying = EXPORTS.replace('"$@" &', f'"$@" &\n{watched}')
    record = run(disaggregated, monkeypatch, Dying, program(disaggregated, "nsys", dying))
    assert record.outcome == "recorded" and record.partial is not None, record.reason
    assert Counted.order.count("told") == 2 and set(record.silent) == {"decode"}
    assert set(tables.read(folder_of(disaggregated, "nsys")).servers) == {"prefill"}
