"""What a trace tells, on a recorded one and on small ones whose answers are known by hand."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from leverlab.profile import tables
from leverlab.profile.analysis import (
    decode_step,
    devices,
    steps_from_kernels,
    time_by_class,
    unnamed,
)
from leverlab.profile.annotations import step_rows
from leverlab.profile.classes import kernel_classes
from leverlab.profile.intervals import covered_s, gaps, merged
from leverlab.profile.reference import PAGE, page
from leverlab.profile.tables import Trace, assigned
from leverlab.profile.torch_trace import TraceError, read_torch_traces
from leverlab.profile.unmarked import with_steps
from tests.unit.repository import SOURCE

RECORDED = SOURCE / "tests" / "data" / "profiles" / "cpu-engine.pt.trace.json.gz"
LAYERS = 8
CLASSES = kernel_classes(SOURCE)


@pytest.fixture(scope="module")
def recorded() -> Trace:
    return read_torch_traces([RECORDED], CLASSES)


def test_the_union_counts_each_moment_once() -> None:
    starts, ends = np.array([5.0, 0.0, 1.0, 9.0]), np.array([6.0, 3.0, 4.0, 9.5])
    assert [list(side) for side in merged(starts, ends)] == [[0.0, 5.0, 9.0], [4.0, 6.0, 9.5]]
    assert covered_s(starts, ends) == 5.5
    assert [list(side) for side in gaps(starts, ends)] == [[4.0, 6.0], [5.0, 9.0]]
    assert covered_s(np.empty(0), np.empty(0)) == 0.0


def test_the_union_is_that_of_a_fine_grid() -> None:
    draw = np.random.default_rng(1)
    starts = draw.integers(0, 400, 60).astype(float)
    ends = starts + draw.integers(1, 15, 60)
    grid = np.arange(0, 420) + 0.5
    inside = ((grid[:, None] > starts) & (grid[:, None] < ends)).any(axis=1)
    assert covered_s(starts, ends) == inside.sum()


def test_the_recorded_steps_are_those_of_the_engine(recorded: Trace) -> None:
    assert list(recorded.steps["phase"]) == ["prefill"] + ["decode"] * 8
    assert list(recorded.steps["prefill_tokens"])[:2] == [256, 0]
    steps = steps_from_kernels(recorded, LAYERS)
    assert steps is not None and steps.count == 9 and len(steps.decode_s) == 7
    assert 0.002 < float(np.median(steps.decode_s)) < 0.1


def test_time_by_class_sums_to_the_busy_time(recorded: Trace) -> None:
    [cpu] = devices(recorded)
    table = time_by_class(recorded)
    assert table["time_s"].sum() == pytest.approx(cpu.busy_s, rel=1e-9)
    assert cpu.busy_s + sum(cpu.idle_by_cause_s.values()) == pytest.approx(cpu.window_s, rel=1e-9)
    by_class = table.groupby("class")["time_s"].sum()
    assert by_class.idxmax() == "gemm" and set(table["phase"]) == {"prefill", "decode"}


def test_less_than_a_twentieth_of_the_recorded_time_has_no_class(recorded: Trace) -> None:
    assert sum(share for _, share in unnamed(recorded)) < 0.05


def test_tables_are_read_as_they_were_written(recorded: Trace, tmp_path: Path) -> None:
    tables.write(recorded, tmp_path)
    again = tables.read(tmp_path)
    step, before = decode_step(again), decode_step(recorded)
    assert step is not None and before is not None and step.class_s == pytest.approx(before.class_s)
    assert len(again.kernels) == len(recorded.kernels)
    assert list(again.kernels.columns) == tables.columns(tables.KERNELS.names)
    tables.write(again, tmp_path)
    assert time_by_class(tables.read(tmp_path)).equals(time_by_class(again))


def test_calls_that_neither_launch_nor_copy_nor_wait_are_counted_when_they_are_written(
    recorded: Trace, tmp_path: Path
) -> None:
    names = [
        "cudaLaunchKernel",
        "cuEventQuery",
        "cuCtxGetId",
        "cudaEventSynchronize",
        "cuMemcpyDtoDAsync",
        "cuEventQuery",
        "cudaFree",
    ]
    calls = pd.DataFrame(
        {
            "call": names,
            "process": 7,
            "thread": 8,
            "start_s": np.arange(len(names)) * 1e-3,
            "duration_s": [1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6, 7e-6],
            "step": pd.array([0] * len(names), dtype="Int64"),
            "server": None,
        }
    )
    two = tables.together({"decode": replace(recorded, calls=calls), "prefill": replace(recorded, calls=calls.head(2))})
    for _ in range(2):  # read and written again they are the same
        tables.write(two, tmp_path)
        two = tables.read(tmp_path)
        decode, prefill = two.servers["decode"], two.servers["prefill"]
        assert list(decode.calls["call"]) == [names[0], *names[3:5], names[6]]
        assert list(prefill.calls["call"]) == names[:1]
        counted = decode.other_calls.set_index("call")
        assert counted["count"].to_dict() == {"cuEventQuery": 2, "cuCtxGetId": 1}
        assert counted["duration_s"].to_dict() == pytest.approx({"cuEventQuery": 8e-6, "cuCtxGetId": 3e-6})
        assert set(counted["process"]) == {7}
        assert prefill.other_calls[["call", "count"]].to_numpy().tolist() == [["cuEventQuery", 1]]


def test_tables_that_have_every_call_are_read_and_lose_none(recorded: Trace, tmp_path: Path) -> None:
    """Version 2, and what it becomes when its kernels are classed again."""
    tables.write(recorded, tmp_path)
    (tmp_path / "other_calls.parquet").unlink()
    calls = pd.DataFrame(
        {
            "call": ["cuEventQuery", "cudaGraphLaunch"],
            "process": 7,
            "thread": 8,
            "start_ns": [0, 9],
            "duration_ns": [5, 6],
            "step": 0,
        }
    )
    calls.to_parquet(tmp_path / "calls.parquet")
    old = tables.read(tmp_path)
    assert list(old.calls["call"]) == ["cuEventQuery", "cudaGraphLaunch"] and old.other_calls.empty
    tables.write(old, tmp_path)
    now = tables.read(tmp_path)
    assert list(now.calls["call"]) == ["cudaGraphLaunch"]
    assert now.other_calls[["call", "count", "duration_s"]].to_numpy().tolist() == [["cuEventQuery", 1, 5e-9]]


def test_the_tables_of_the_page_are_those_of_the_schemas() -> None:
    text = (SOURCE / PAGE).read_text(encoding="utf-8")
    assert page(text) == text, "run `python -m leverlab.profile.reference`"


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.trace.json"
    file.write_text("{}")
    with pytest.raises(TraceError, match=r"x\.trace\.json: no trace"):
        read_torch_traces([file], CLASSES)


def trace(
    kernels: list[dict[str, Any]], calls: list[tuple[str, float, float]] = (), steps: list[tuple[str, float]] = ()
) -> Trace:
    """Rows of one process with what is not given filled in; classes are the kernels' own names up to a dot."""
    usual = {"stream": 7, "gpu": 0, "process": 1, "graph_node": pd.NA, "launch_s": np.nan}
    frame = pd.DataFrame([{**usual, **row} for row in kernels])
    frame["gpu"] = frame["gpu"].astype("Int64")
    frame["graph_node"] = frame["graph_node"].astype("Int64")
    made = pd.DataFrame(
        [(name, 1, 1, at, took) for name, at, took in calls],
        columns=["call", "process", "thread", "start_s", "duration_s"],
    )
    texts = pd.Series([text for text, _ in steps], dtype="object")
    marks = step_rows(
        texts,
        pd.Series([1] * len(steps), dtype="int64"),
        pd.Series([at for _, at in steps], dtype="float64"),
        pd.Series([1.0] * len(steps)),
    )
    return assigned(frame, made, marks, {name: name.partition(".")[0] for name in frame["kernel"]})


def at(kernel: str, start_s: float, end_s: float, **other: Any) -> dict[str, Any]:
    return {"kernel": kernel, "start_s": start_s, "duration_s": end_s - start_s, **other}


def test_a_transfer_beside_a_computation_counts_where_it_shows() -> None:
    found = trace([at("gemm", 0, 4), at("communication", 3, 6, stream=8), at("copy", 0, 7, stream=9)])
    assert dict(zip(*(time_by_class(found)[name] for name in ("class", "time_s")), strict=True)) == {
        "gemm": 4.0, "communication": 2.0, "copy": 1.0,
    }  # fmt: skip


def test_a_gap_is_told_by_when_its_end_was_launched() -> None:
    found = trace(
        [
            at("gemm", 0, 1, launch_s=-1.0),
            at("gemm", 3, 4, launch_s=2.0),  # from 1 to 2 the CPU had launched nothing; then the launch took 1
            at("gemm", 5, 6, launch_s=2.5),  # was launched long before
            at("gemm", 8, 9),  # nobody knows
        ]
    )
    [gpu] = devices(found)
    assert gpu.idle_by_cause_s == {"host": 1.0, "launch": 1.0, "queued": 1.0, "unknown": 2.0}
    assert gpu.idle_share == pytest.approx(5 / 9)


def decoding(layers: int, steps: int, offset: int = 0) -> list[dict[str, Any]]:
    """Steps of `layers` layers, 1 s a layer, and 3 s for the head; the first `offset` layers were not recorded."""
    rows = []
    for step, layer in itertools.product(range(steps), range(layers)):
        start = step * (layers + 3) + layer
        rows += [at("kv_cache", start, start + 0.2), at("attention", start + 0.3, start + 0.9)]
    return rows[2 * offset :]


@pytest.mark.parametrize(("offset", "count"), [(0, 5), (1, 5), (3, 5)])
def test_steps_are_found_wherever_the_recording_began(offset: int, count: int) -> None:
    marks = [("execute_context_0(0)_generation_4(4)", step * 7.0 - 0.5) for step in range(5)]
    steps = steps_from_kernels(trace(decoding(4, 5, offset), steps=marks), 4)
    assert steps is not None and steps.anchor == "kv_cache" and steps.count == count
    assert list(steps.decode_s) == pytest.approx([7.0] * (len(steps.decode_s)))
    assert len(steps.decode_s) == (4 if offset == 0 else 3)


def test_without_a_kernel_for_each_layer_no_step_is_claimed() -> None:
    assert steps_from_kernels(trace([at("gemm", 0, 1)]), 4) is None


def test_a_decode_step_counts_launches_and_kernels_of_decode_alone() -> None:
    marks = [
        ("execute_context_1(512)_generation_0(0)", 0.0),
        ("execute_context_0(0)_generation_2(2)", 10.0),
        ("execute_context_0(0)_generation_0(0)", 15.0),  # an empty batch is no step
        ("execute_context_0(0)_generation_4(4)", 20.0),
        ("execute_context_1(9)_generation_4(4)", 30.0),
    ]
    kernels = [
        at("gemm", 1, 2, launch_s=0.5),
        at("gemm", 11, 12, launch_s=10.5, graph_node=3),
        at("communication.all_reduce", 12, 13, launch_s=10.5, graph_node=4),
        at("sampling", 14, 15, launch_s=13.0),
        at("gemm", 21, 22, launch_s=20.5, graph_node=3),
        at("communication.all_reduce", 22, 24, launch_s=20.5, graph_node=4),
        at("gemm", 31, 32, launch_s=30.5),
    ]
    calls = [
        ("cudaLaunchKernel", 0.5, 0.1),
        ("cudaGraphLaunch", 10.5, 0.2),
        ("cudaLaunchKernelExC", 13.0, 0.1),
        ("cudaMemcpyAsync", 13.5, 0.1),
        ("cudaGraphLaunch", 20.5, 0.4),
        ("cuLaunchKernelEx", 30.5, 0.1),
    ]
    found = trace(kernels, calls, marks)
    assert list(found.steps["phase"]) == ["prefill", "decode", "decode", "mixed"]
    step = decode_step(found)
    assert step is not None
    assert (step.steps, step.kernels, step.kernel_launches, step.graph_launches) == (2, 2.5, 0.5, 1.0)
    assert step.launch_calls_s == pytest.approx(0.35)
    assert step.class_s == pytest.approx({"gemm": 1.0, "sampling": 0.5, "communication": 1.5})
    assert (step.communication_kernels, step.communication_s, step.batch) == (1.0, 1.5, 3.0)


def test_two_gpus_are_told_as_their_mean() -> None:
    marks = [("execute_context_0(0)_generation_2(2)", 0.0)]
    found = trace([at("gemm", 1, 3), at("gemm", 1, 2, gpu=1)], steps=marks)
    assert [name for name, _ in found.devices] == ["gpu 0", "gpu 1"]
    assert time_by_class(found)["time_s"].sum() == 1.5
    step = decode_step(found)
    assert step is not None and step.kernels == 1.0


def exchanging(late_s: float, count: int = 6) -> list[dict[str, Any]]:
    """On two GPUs exchanges of 2 s, every 10 s; at each of them one GPU in turn begins `late_s` after the other."""
    rows = []
    for number in range(count):
        for gpu in (0, 1):
            begin = 10.0 * number + (late_s if number % 2 == gpu else 0.0)
            rows.append(at("communication", begin, 10.0 * number + late_s + 2, gpu=gpu))
    return rows


def test_who_comes_first_to_an_exchange_waits() -> None:
    marks = [("execute_context_0(0)_generation_2(2)", -1.0)]
    step = decode_step(trace(exchanging(1.0), steps=marks))
    assert step is not None and step.communication_s == pytest.approx(6 * 2.5)
    assert step.communication_wait_s == pytest.approx(6 * 0.5), "on either GPU at every second exchange for 1 s"
    together = decode_step(trace(exchanging(0.0), steps=marks))
    assert together is not None and together.communication_wait_s == 0.0


def test_one_may_wait_for_longer_than_from_one_exchange_to_the_next() -> None:
    marks = [("execute_context_0(0)_generation_2(2)", -1.0)]
    step = decode_step(trace(exchanging(7.0), steps=marks))
    assert step is not None and step.communication_wait_s == pytest.approx(6 * 3.5)


def test_a_window_that_begins_earlier_on_one_gpu_costs_no_match() -> None:
    marks = [("execute_context_0(0)_generation_2(2)", -1.0)]
    rows = exchanging(1.0, count=40)
    found = decode_step(trace([row for row in rows if row["gpu"] == 0 or row["start_s"] > 5], steps=marks))
    assert found is not None and found.communication_wait_s == pytest.approx(39.5 * 0.5, rel=0.02)


@pytest.mark.parametrize("kept", [lambda row: row["gpu"] == 0, lambda row: row["gpu"] == 0 or row["start_s"] < 20])
def test_kernels_of_one_gpu_tell_no_waiting(kept: Callable[[dict[str, Any]], bool]) -> None:
    marks = [("execute_context_0(0)_generation_2(2)", -1.0)]
    step = decode_step(trace([row for row in exchanging(1.0) if kept(row)], steps=marks))
    assert step is not None and step.communication_wait_s is None


def test_gpus_that_do_not_talk_to_each_other_wait_for_nobody() -> None:
    """Each has an exchange with a third: as often, but not at the same time."""
    marks = [("execute_context_0(0)_generation_2(2)", -1.0)]
    rows = [at("communication", 200.0 * number, 200.0 * number + 10) for number in range(40)]
    rows += [at("communication", 200.0 * number + 70, 200.0 * number + 100, gpu=1) for number in range(40)]
    step = decode_step(trace(rows, steps=marks))
    assert step is not None and step.communication_kernels == 40
    assert step.communication_wait_s is None


def test_tables_of_version_1_are_read_too(recorded: Trace, tmp_path: Path) -> None:
    tables.write(recorded, tmp_path)
    now = time_by_class(tables.read(tmp_path))
    for name in tables.FILES:
        table = pd.read_parquet(tmp_path / f"{name}.parquet")
        for column in [column for column in table if column.endswith("_ns")]:
            table[column] = table[column] / 1e9
        table.columns = pd.Index(tables.columns(table.columns))
        table.to_parquet(tmp_path / f"{name}.parquet")
    assert "start_s" in pd.read_parquet(tmp_path / "kernels.parquet")
    assert time_by_class(tables.read(tmp_path)).equals(now)


def test_on_two_h100_most_of_an_all_reduce_is_no_waiting() -> None:
    """The twin of TP 2 that the repository keeps."""
    [folder] = (SOURCE / "reports" / "reference" / "h100" / "where-time-goes-tp2").glob("profiles/*_2xh100_*/*/nsys")
    step = decode_step(tables.read(folder))
    assert step is not None and step.communication_kernels == pytest.approx(66, abs=0.5)
    assert step.communication_wait_s is not None
    assert 0.01 < step.communication_wait_s / step.communication_s < 0.3


def test_an_engine_without_marks_is_told_by_its_kernels() -> None:
    found = with_steps(trace(decoding(4, 6), calls=[("cudaGraphLaunch", 7.0 * step, 0.1) for step in range(6)]), 4)
    assert len(found.steps) == 6 and list(found.steps["phase"])[:5] == ["decode"] * 5
    step = decode_step(found)
    assert step is not None and (step.steps, step.kernels, step.graph_launches, step.batch) == (5, 8.0, 1.0, None)
    seen = steps_from_kernels(found, 4)
    assert seen is not None and list(seen.decode_s) == pytest.approx([7.0] * 4)


def test_of_a_long_step_nothing_is_claimed() -> None:
    late = [{**row, "start_s": row["start_s"] + (50 if row["start_s"] > 20 else 0)} for row in decoding(4, 6)]
    found = with_steps(trace(late), 4)
    assert list(found.steps["phase"].where(found.steps["phase"].notna(), "")).count("decode") == 4


def test_marks_are_left_as_they_are(recorded: Trace) -> None:
    assert with_steps(recorded, LAYERS) is recorded
