"""A twin from its start to its folder, on the truth engine. What a profiler would write is the recorded trace."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import httpx
import pytest

from leverlab.config.kernel_classes import kernel_class_rules
from leverlab.engines.profiling import PROFILING, ProfilerRefusedError, Profiling
from leverlab.profile import tables
from leverlab.profile.again import again
from leverlab.profile.keeping import read_twin
from leverlab.profile.request_facts import request_facts
from leverlab.profile.twin import run_twin
from leverlab.records import TwinRecord, TwinSpecification
from leverlab.trial.offer import Offered
from leverlab.trial.owner import Owner
from leverlab.trial.progress import Progress
from leverlab.trial.served import Served
from tests.integration.trial_job import TrialJob
from tests.unit.repository import SOURCE

RECORDED = SOURCE / "tests" / "data" / "profiles" / "cpu-engine.pt.trace.json.gz"
TOOL = "nsys"
"""Whose program is run where there is one."""
LOAD = {"kind": "concurrency", "value": 2, "requests": 16}

NSYS = """#!/bin/sh
case $1 in
--version) echo "a stand-in for Nsight Systems"; exit ;;
export) exit 0 ;;
stats) exit 1 ;;
esac
shift
for word; do
    case $word in
    --output=*) output=${word#--output=}; shift ;;
    --*) shift ;;
    *) break ;;
    esac
done
"$@" &
while [ ! -e "${output%/*}/told-to-stop" ]; do sleep 0.05; done
echo report > "$output.nsys-rep"
printf 'Generated:\\n\\t%s.nsys-rep\\n' "$output"
"""
"""Runs the server and, once it is told to stop, writes a report and ends without it, as `--kill=none` has the program do."""


class Stub(Profiling):
    """An engine's profiler that writes what was recorded once."""

    def start(self, client: httpx.Client, tool: str, folder: Path) -> None:
        assert client.get("/health").status_code == 200
        Stub.begun[str(client.base_url)] = folder

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        folder = Stub.begun[str(client.base_url)]
        shutil.copy(RECORDED, folder / "rank0.pt.trace.json.gz")
        (folder / "told-to-stop").touch()

    begun: ClassVar[dict[str, Path]] = {}
    """Server → the folder that it was told to write to."""


class Idle(Stub):
    """One whose prefill server had nothing to do while it recorded."""

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        if Stub.begun[str(client.base_url)].name != "prefill":
            super().stop(client, timeout_s)


class Refusing(Stub):
    """One that does not begin."""

    def start(self, client: httpx.Client, tool: str, folder: Path) -> None:
        raise ProfilerRefusedError("/start_profile answered 404: Not Found")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialJob]:
    prepared = TrialJob(tmp_path, phases={"closed-0000000001": LOAD}, flags={"gap": 0.01}).prepare()
    # A folder for locks of its own: jobs of other tests hold the same cores.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield prepared


def run(
    job: TrialJob,
    monkeypatch: pytest.MonkeyPatch,
    profiling: type[Stub],
    program: str | None = None,
    folders: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> TwinRecord:
    Stub.begun.clear()
    monkeypatch.setitem(
        PROFILING,
        "truth",
        profiling(lambda tool, folder: {}, lambda tool, folder: None, lambda flags, tokens: {}, None),
    )  # type: ignore[arg-type]
    specification = TwinSpecification(
        twin="0123456789",
        tool=TOOL if program else "torch",
        window_s=0.1,
        program=program,
        kernel_classes=kernel_class_rules(SOURCE),
        job=job.specification().model_copy(update={"other_model_folders": dict(folders)}),
    )
    return run_twin(specification, progress or Progress())


def folder_of(job: TrialJob, tool: str) -> Path:
    return job.layout.profile(job.server, "closed-0000000001", tool)


def test_a_window_is_recorded_and_kept_beside_nothing_measured(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Offered, tuple[float, float] | None]] = []

    def facts(offered: Offered, recorded: tuple[float, float] | None) -> dict[str, float]:
        told.append((offered, recorded))
        return request_facts(offered, recorded)

    monkeypatch.setattr("leverlab.profile.twin.request_facts", facts)
    record = run(job, monkeypatch, Stub)
    folder = folder_of(job, "torch")
    assert record.outcome == "recorded" and record == read_twin(folder)
    assert record.window["opened_at_s"] > 0 and record.window["problem"] is None
    assert record.window["recorded_s"] >= 0.1 and not record.window["load_ended_first"]
    assert record.requests["ok"] == 16 and record.requests["tpot_s_p50"] > 0
    assert record.requests["chunk_gap_s_p50"] > 0
    # Whether a gap lies in so short a window is this machine's affair; that the window is told by the clock of the chunks is not.
    [(offered, recorded)] = told
    assert recorded is not None and recorded[1] - recorded[0] == pytest.approx(record.window["recorded_s"], abs=1e-5)
    origin_s = (offered.origin_ns or 0) / 1e9
    assert origin_s < recorded[0] < origin_s + max(offered.chunks["arrival_s"].to_pylist())
    assert (record.layers, record.programs) == (1, {})
    assert len(tables.read(folder).kernels) > 1000
    assert {"kernels.parquet", "requests.parquet", "raw/rank0.pt.trace.json.gz", "server.log"} <= set(record.files)
    assert not list(folder.parent.glob(".*")), "nothing half-made is left"
    assert not (job.layout.server(job.server)).joinpath("r1", "cells").exists()


def test_its_server_and_its_requests_are_those_of_the_measurement(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = "{model:draft} in {scratch}"
    job = job.changed(flags={**job.flags, "stands-for": draft}, request={"top_k": 7})
    asked: list[Served] = []

    def served(**told: Any) -> Served:
        asked.append(Served(**told))
        return asked[-1]

    monkeypatch.setattr("leverlab.profile.twin.Served", served)
    record = run(job, monkeypatch, Stub, folders={"draft": "/models/draft"})
    assert record.outcome == "recorded"
    [word] = [word for word in record.command if "/models/draft in " in word]
    assert "{" not in word
    assert [dict(one.request) for one in asked] == [{"top_k": 7}]


def test_it_waits_for_one_that_is_at_it(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(job, "torch")
    begun = folder.with_name(".torch.1.part")
    begun.mkdir(parents=True)
    lease = folder.with_name("torch.lease.json")
    lease.write_text(replace(Owner.current(), token="somebody-else").to_json())

    class Shown(Progress):
        def say(self, message: str) -> None:
            if "being measured" in message:
                assert begun.exists(), "what another has begun is left alone"
                lease.unlink()

    assert run(job, monkeypatch, Stub, progress=Shown()).outcome == "recorded"
    assert not begun.exists() and not lease.exists()


def test_a_profiler_that_does_not_begin_is_a_record_of_a_failure(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(job, monkeypatch, Refusing)
    assert record.outcome == "failed" and record.reason is not None
    assert "404" in record.reason.message
    again = run(job, monkeypatch, Stub)
    assert again.outcome == "recorded", "a failure gives way"
    assert run(job, monkeypatch, Refusing).outcome == "failed"
    kept = read_twin(folder_of(job, "torch"))
    assert kept is not None and kept.outcome == "recorded", "what was recorded does not give way to a failure"


def test_a_server_that_outlives_its_profiler_is_ended(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    program = job.root / "nsys"
    program.write_text(NSYS)
    program.chmod(0o755)
    record = run(job, monkeypatch, Stub, str(program))
    folder = folder_of(job, "nsys")
    # The stand-in exports nothing, so that there is nothing to read; its report is kept all the same.
    assert record.outcome == "failed" and record.reason is not None and record.reason.code == "nothing_recorded"
    assert "the export holds no tables" in record.reason.message
    assert (folder / "raw" / "report.nsys-rep").read_text() == "report\n"
    assert record.command[:2] == [str(program), "profile"] and record.programs == {
        "nsys": "a stand-in for Nsight Systems"
    }
    assert record.window["opened_at_s"] is not None


@pytest.fixture
def disaggregated(job: TrialJob) -> TrialJob:
    topology = {"topology": "prefill-decode", "topology_settings": {"connector": "nixl"}}
    return job.changed(topology=topology, flags={**job.flags, "kv-transfer-per-token": 0.0001})


def test_each_of_several_engine_servers_is_recorded(disaggregated: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(disaggregated, monkeypatch, Stub)
    folder = folder_of(disaggregated, "torch")
    assert record.outcome == "recorded" and record.window["problem"] is None and record.silent == {}
    assert record.command == [] and set(record.commands) == {"prefill", "decode"}
    assert {"raw/prefill/rank0.pt.trace.json.gz", "raw/decode/rank0.pt.trace.json.gz", "proxy.log"} <= set(record.files)
    servers = tables.read(folder).servers
    assert set(servers) == {"prefill", "decode"}
    assert len(servers["prefill"].kernels) == len(servers["decode"].kernels) > 1000
    assert record.requests["ok"] == 16
    before = tables.read(folder).kernels
    (folder / "kernels.parquet").unlink()
    assert again(folder, SOURCE).startswith("read again from raw/")
    assert tables.read(folder).kernels.equals(before)


def test_a_server_that_had_nothing_to_do_leaves_the_others(
    disaggregated: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(disaggregated, monkeypatch, Idle)
    assert record.outcome == "recorded" and set(record.silent) == {"prefill"}
    assert set(tables.read(folder_of(disaggregated, "torch")).servers) == {"decode"}
