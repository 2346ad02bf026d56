"""The profilers' own programs round the truth engine: stand-ins that answer as they do. What Nsight Systems would export is what it
exported on an H100; what Nsight Compute would, is written after its guide."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from leverlab.config.profile import NCU_LAUNCH_S, Tool
from leverlab.engines import engine_for
from leverlab.engines.base import Launch
from leverlab.engines.profiling import STOP_TIMEOUT_S, ProfilerRefusedError
from leverlab.load.plan import read_requests
from leverlab.profile import tables
from leverlab.profile.keeping import read_twin
from leverlab.profile.recorders import Recorders
from leverlab.profile.twin import COUNTERS
from leverlab.records import TwinSpecification
from leverlab.trial.outcomes import Interrupted
from tests.integration.test_twin import NSYS, Stub, disaggregated, folder_of, job, run
from tests.integration.trial_job import TrialJob
from tests.unit.repository import SOURCE
from tests.unit.test_profile_ncu import EXPORTED

__all__ = ["disaggregated", "job"]  # fixtures

RECORDED = SOURCE / "tests" / "data" / "profiles" / "vllm-h100-nsys"
EXPORTS = NSYS.replace(
    "export) exit 0 ;;",
    f"""export)
    for word; do case $word in --output=*) target=${{word#--output=}} ;; esac; done
    [ -e "$(dirname "$target")/refused" ] && {{ echo "Importer: broken" >&2; exit 1; }}
    mkdir -p "$target" && cp {RECORDED}/*.parquet "$target"; exit ;;""",
)
"""Nsight Systems whose report can be exported, but in a folder that holds a file `refused`."""

NCU = """#!/bin/sh
case $1 in
--version) echo "a stand-in for Nsight Compute"; exit ;;
--query-metrics) echo "dram__bytes  Counter  byte"; exit ;;
--import=*) cat "${1#--import=}"; exit ;;
esac
for word; do
    case $word in
    --export=*) report=${word#--export=}; shift ;;
    --*) shift ;;
    *) break ;;
    esac
done
trap 'echo "interrupted, and nothing is kept"; exit 130' INT
"$@" &
server=$!
(while kill -0 $server 2>/dev/null; do [ -e "${report%/*}/die" ] && kill -9 $server; sleep 0.05; done) &
while kill -0 $server 2>/dev/null; do wait $server; done
WRITE
"""
"""Runs the server, and does what `WRITE` says once that has ended; by a signal to itself it ends without a report."""


class Counted(Stub):
    """An engine that was told to begin, and to stop."""

    order: list[str] = []  # noqa: RUF012 - what happened, for the test to see

    def start(self, client: httpx.Client, tool: str, folder: Path) -> None:
        super().start(client, tool, folder)
        self.order.append("begin")

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        self.order.append("end")
        super().stop(client, timeout_s)


class Refused(Counted):
    """One whose prefill server's report cannot be read."""

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        folder = Stub.begun[str(client.base_url)]
        if folder.name == "prefill":
            (folder / "refused").touch()
        super().stop(client, timeout_s)


class Slow(Stub):
    """One that writes what it has, and does not answer in time."""

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        super().stop(client, timeout_s)
        raise httpx.ReadTimeout("timed out")


class Mute(Stub):
    """One that hangs when it is told to stop, before it has written anything."""

    hangs = threading.Event()

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        self.hangs.wait()


class Killed(Counted):
    """One whose job is told to end while it records."""

    def start(self, client: httpx.Client, tool: str, folder: Path) -> None:
        super().start(client, tool, folder)
        os.kill(os.getpid(), signal.SIGTERM)


class Deadly(Stub):
    """One under which the server dies while it records."""

    def start(self, client: httpx.Client, tool: str, folder: Path) -> None:
        super().start(client, tool, folder)
        (folder / "die").touch()


class HalfRefusing(Counted):
    """Two of which one does not begin."""

    def start(self, client: httpx.Client, tool: str, folder: Path) -> None:
        if folder.name == "prefill":
            raise ProfilerRefusedError("/start_profile answered 500: no")
        super().start(client, tool, folder)

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        if str(client.base_url) not in Stub.begun:
            raise ProfilerRefusedError("/stop_profile answered 500: nothing runs")
        super().stop(client, timeout_s)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What hangs is given up soon."""
    Counted.order.clear()
    Mute.hangs.clear()
    monkeypatch.setattr("leverlab.profile.recorders.STOP_TIMEOUT_S", -59.5)
    monkeypatch.setattr("leverlab.profile.recorders._REPORT_TIMEOUT_S", 30.0)
    monkeypatch.setattr("leverlab.topology.processes.INTERRUPT_GRACE_S", 0.5)
    monkeypatch.setattr("leverlab.topology.processes.TERMINATE_GRACE_S", 0.5)
    yield
    Mute.hangs.set()


def program(job: TrialJob, name: str, text: str) -> str:
    path = job.root / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_each_server_has_a_report_of_its_own_from_one_window(
    disaggregated: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leverlab.profile.recorders.STOP_TIMEOUT_S", 60.0)
    nsys = program(disaggregated, "nsys", EXPORTS)
    record = run(disaggregated, monkeypatch, Counted, nsys)
    assert record.outcome == "recorded" and record.silent == {} and record.window["problem"] is None
    assert Counted.order == ["begin", "begin", "end", "end"], "both record before either is told to stop"
    folder = folder_of(disaggregated, "nsys")
    for name in ("prefill", "decode"):
        assert record.commands[name][:2] == [nsys, "profile"]
        [output] = [word for word in record.commands[name] if word.startswith("--output=")]
        assert output.endswith(f"/raw/{name}/report") and (folder / "raw" / name / "report.nsys-rep").is_file()
        assert "Generated" in (folder / f"{name}.log").read_text()
    assert "Generated" not in (folder / "proxy.log").read_text(), "the program comes round no proxy"
    servers = tables.read(folder).servers
    assert set(servers) == {"prefill", "decode"}
    for trace in servers.values():
        assert len(trace.kernels) > 1000 and set(trace.kernels["gpu"]) == {0}, "a server's own first GPU"
        assert trace.kernels["launch_s"].notna().mean() > 0.9, "each kernel finds its own server's calls"


def test_a_report_that_cannot_be_read_costs_its_server_alone(
    disaggregated: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leverlab.profile.recorders.STOP_TIMEOUT_S", 60.0)
    record = run(disaggregated, monkeypatch, Refused, program(disaggregated, "nsys", EXPORTS))
    assert record.outcome == "recorded" and set(record.silent) == {"prefill"}
    assert "Importer: broken" in record.silent["prefill"]
    assert set(tables.read(folder_of(disaggregated, "nsys")).servers) == {"decode"}


def test_a_server_that_hangs_when_it_is_told_to_stop_is_ended(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the strongest signal where it has to be; its report was written by then."""
    deaf = EXPORTS.replace('"$@" &', "(trap '' INT TERM; exec sleep 600) &\n\"$@\" &")
    record = run(job, monkeypatch, Slow, program(job, "nsys", deaf))
    assert record.outcome == "recorded" and "ReadTimeout: timed out" in record.window["problem"]
    folder = folder_of(job, "nsys")
    assert (folder / "raw" / "report.nsys-rep").is_file() and len(tables.read(folder).kernels) > 1000
    assert "by SIGKILL" in (folder / "client.log").read_text()


@pytest.mark.parametrize(("profiling", "outcome"), [(Slow, "recorded"), (Mute, "failed")])
def test_so_is_one_under_torchs_profiler(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch, profiling: type[Stub], outcome: str
) -> None:
    record = run(job, monkeypatch, profiling)
    assert record.outcome == outcome and record == read_twin(folder_of(job, "torch"))
    if outcome == "failed":
        assert record.reason is not None
        assert "the profiler did not end within" in record.reason.message
    assert not list(folder_of(job, "torch").parent.glob(".*"))


def test_one_server_that_refuses_to_begin_costs_itself_alone(
    disaggregated: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leverlab.profile.recorders.STOP_TIMEOUT_S", 60.0)
    record = run(disaggregated, monkeypatch, HalfRefusing, program(disaggregated, "nsys", EXPORTS))
    assert record.outcome == "recorded" and record.window["problem"] is None, record.reason
    assert record.silent == {"prefill": "ProfilerRefusedError: /start_profile answered 500: no"}
    assert set(tables.read(folder_of(disaggregated, "nsys")).servers) == {"decode"}


def counting(job: TrialJob, monkeypatch: pytest.MonkeyPatch, write: str, profiling: type[Stub] = Stub) -> Path:
    monkeypatch.setattr("leverlab.profile.recorders.STOP_TIMEOUT_S", 60.0)
    monkeypatch.setattr("tests.integration.test_twin.TOOL", "ncu")
    run(job, monkeypatch, profiling, program(job, "ncu", NCU.replace("WRITE", write)))
    return folder_of(job, "ncu")


@pytest.mark.parametrize("profiling", [Killed, Deadly])
def test_counters_that_were_taken_by_then_are_kept_of_a_run_that_breaks_off(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch, profiling: type[Stub]
) -> None:
    exported = job.root / "exported.csv"
    exported.write_text(EXPORTED)
    with pytest.raises(Interrupted) if profiling is Killed else contextlib.nullcontext():
        counting(job, monkeypatch, f'cp {exported} "$report"', profiling)
    record = read_twin(folder_of(job, "ncu"))
    assert record is not None and record.outcome == "recorded" and record.partial is not None
    assert (folder_of(job, "ncu") / COUNTERS).is_file()


def test_a_report_of_counters_is_written_when_the_server_has_ended(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is ended for it: what the program does when it is told to end itself nobody says."""
    exported = job.root / "exported.csv"
    exported.write_text(EXPORTED)
    folder = counting(job, monkeypatch, f'cp {exported} "$report"; echo "==PROF== Report: $report"')
    record = read_twin(folder)
    assert record is not None and record.outcome == "recorded", record and record.reason
    assert (folder / COUNTERS).is_file() and (folder / "raw" / "report.ncu-rep").is_file()
    assert "interrupted" not in (folder / "server.log").read_text()
    shutil.rmtree(folder)


@pytest.mark.parametrize("tool", ["nsys", "ncu"])
def test_counting_gets_a_small_cache_and_the_time_that_its_launches_take(
    job: TrialJob, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nsight Compute saves all that is allocated before each kernel. Nothing else of the server is another, and of Nsight Systems' nothing."""
    told = job.specification().model_copy(update={"engine_kind": "sglang"})
    specification = TwinSpecification(
        twin="t", tool=tool, window_s=1, program="/opt/p", kernels="k", launches=9, kernel_classes=[], job=told
    )
    recorders = Recorders(specification, engine_for("sglang"), job.root / "raw")
    [name] = recorders.folders
    flags = recorders.around(name, Launch([], job.root, told.identity, "127.0.0.1", 1, "k", (), job.root)).identity[
        "flags"
    ]
    requests = read_requests(Path(told.cells[0].workload_file), "t")
    held = sum(each.prompt_tokens + each.output_tokens for each in requests)
    tokens = flags.pop("max-total-tokens", 0)
    assert flags == told.identity["flags"]
    assert held <= tokens <= held + 5000 if tool == "ncu" else tokens == 0
    monkeypatch.undo()
    assert recorders.stop_timeout_s == STOP_TIMEOUT_S + (9 * NCU_LAUNCH_S if tool == "ncu" else 0)


def test_counters_that_the_driver_denies_are_a_reason_of_their_own(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters"
    record = read_twin(counting(job, monkeypatch, f'echo "{said} on the target device 0."'))
    assert record is not None and record.outcome == "failed" and record.reason is not None
    assert record.reason.code == "counters_denied"
    assert "NVreg_RestrictProfilingToAdminUsers=0" in record.reason.message


def test_a_program_that_counted_nothing_says_so(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    record = read_twin(counting(job, monkeypatch, 'echo "==WARNING== No kernels were profiled."'))
    assert record is not None and record.reason is not None
    assert record.reason.message == "Nsight Compute left no report; the server's log says more"


@pytest.mark.parametrize("tool", ["nsys", "ncu"])
def test_a_program_that_is_not_on_the_node_is_a_reason(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    """It is looked for where jobs are submitted from; a node may lack it all the same. Nothing is started then."""
    monkeypatch.setattr("tests.integration.test_twin.TOOL", tool)
    record = run(job, monkeypatch, Stub, f"/nowhere/{tool}")
    assert record.outcome == "failed" and record.reason is not None and record == read_twin(folder_of(job, tool))
    assert f"/nowhere/{tool}: " in record.reason.message and "No such file or directory" in record.reason.message
    assert not (folder_of(job, tool) / "server.log").exists()
