"""What Nsight Systems exported of vLLM and SGLang on an H100: read into the tables, and what they tell."""

from pathlib import Path

import numpy as np
import pytest

from leverlab.config import load
from leverlab.profile import tables
from leverlab.profile.analysis import UNKNOWN, decode_step, devices, steps_from_kernels, time_by_class, unnamed
from leverlab.profile.classes import kernel_classes
from leverlab.profile.nsys_export import ExportError, read_nsys_export
from leverlab.profile.products import ATTENTION, HEAD, MLP, layer_products
from leverlab.profile.tables import Trace
from leverlab.profile.unmarked import with_steps
from leverlab.theory.configured import server_of
from leverlab.theory.step_kernels import attention_work, products_work
from tests.unit.repository import SOURCE

EXPORT = SOURCE / "tests" / "data" / "profiles" / "vllm-h100-nsys"
LAYERS = 32
IDENTITY = {
    "engine": {"kind": "vllm"}, "model": {"name": "llama-3.1-8b-shape"}, "gpu": {"type": "h100", "count": 1}, "topology": "single",
}  # fmt: skip


@pytest.fixture(scope="module")
def recorded() -> Trace:
    return read_nsys_export(EXPORT, kernel_classes(SOURCE))


def test_the_engines_marks_are_the_steps(recorded: Trace) -> None:
    assert list(recorded.steps["phase"]) == ["mixed"] + ["decode"] * 6
    assert list(recorded.steps["prefill_tokens"])[:2] == [1032, 0]
    assert list(recorded.steps["decode_tokens"]) == [15] + [16] * 6
    seen = steps_from_kernels(recorded, LAYERS)
    assert seen is not None and "reshape_and_cache" in seen.anchor and seen.count == 7
    assert list(seen.decode_s) == pytest.approx([0.00733] * 5, rel=0.01)


def test_every_kernel_has_a_class_a_launch_and_a_step(recorded: Trace) -> None:
    kernels = recorded.kernels
    assert unnamed(recorded) == []
    assert kernels["launch_s"].notna().all() and kernels["step"].notna().all()
    assert (kernels["start_s"] >= kernels["launch_s"]).all()
    in_graphs = kernels[kernels["graph_node"].notna()]
    assert set(in_graphs["phase"]) == {"decode"}, "1047 tokens are more than any graph was captured for"
    assert in_graphs.groupby("step")["launch_s"].nunique().eq(1).all(), "one graph runs a whole decode step"


def test_time_by_class_sums_to_the_busy_time(recorded: Trace) -> None:
    [gpu] = devices(recorded)
    assert time_by_class(recorded)["time_s"].sum() == pytest.approx(gpu.busy_s, rel=1e-9)
    assert gpu.busy_s + sum(gpu.idle_by_cause_s.values()) == pytest.approx(gpu.window_s, rel=1e-9)
    assert UNKNOWN not in gpu.idle_by_cause_s


def test_a_decode_step_is_one_graph(recorded: Trace) -> None:
    step = decode_step(recorded)
    assert step is not None
    assert (step.steps, step.graph_launches, step.batch, step.tokens) == (6, 1.0, 16.0, 16.0)
    assert 430 < step.kernels < 450 and step.kernel_launches < 20
    assert sum(step.class_s.values()) < 0.00733


def test_every_product_finds_its_place_with_the_sums_of_its_parts(recorded: Trace) -> None:
    """cuBLAS splits two of four products a layer of a decode step, and adds their parts up in a kernel of its own."""
    products = recorded.kernels[recorded.kernels["class"] == "gemm"]
    first = products[products["step"] == 1]
    sums = first["kernel"].str.contains("splitKreduce")
    assert (len(first), int(sums.sum())) == (4 * LAYERS + 1 + 64, 64)
    found = layer_products(recorded, LAYERS)
    assert found is not None and found.reason is None and UNKNOWN not in set(found.time_s["part"])
    assert found.time_s["time_s"].sum() == pytest.approx(products["duration_s"].sum())
    # 1032 tokens: arithmetic counts. An MLP of Llama 3.1 8B has 176 million weights, the projections of its attention 42.
    assert found.of(["mixed"], MLP) / found.of(["mixed"], ATTENTION) == pytest.approx(4.2, rel=0.1)
    # A decode step reads each weight once: 1.05 GB of the output's table at less than the 3.35 TB/s of the memory.
    assert 1.05e9 / 3.35e12 < found.of(["decode"], HEAD) / 6 < 1.3 * 1.05e9 / 3.35e12


def test_classes_stay_below_the_memorys_bandwidth(recorded: Trace) -> None:
    server = server_of({**IDENTITY, "flags": {}, "environment": {}}, load(SOURCE, {"study": []}))
    step = decode_step(recorded)
    assert step is not None
    products = products_work(server, 16, 16).bytes_read / step.class_s["gemm"]
    attention = attention_work(server, 16, 16, 1152).bytes_read / step.class_s["attention"]
    assert 0.7 < products / server.bandwidth < 0.9 and 0.5 < attention / server.bandwidth < 0.8


def test_the_tables_come_back_as_they_were_written(recorded: Trace, tmp_path: Path) -> None:
    tables.write(recorded, tmp_path)
    again = tables.read(tmp_path)
    assert len(again.kernels) == len(recorded.kernels)
    kept_calls = recorded.calls[recorded.calls["call"].str.contains(tables.KEPT_CALLS)]
    assert 0 < len(kept_calls) == len(recorded.calls) - again.other_calls["count"].sum() < len(recorded.calls)
    for kept, given in (
        (again.kernels, recorded.kernels),
        (again.calls, kept_calls),
        (again.steps, recorded.steps),
    ):
        for name in (name for name in given if name.endswith("_s")):
            # To the nanosecond, which is as exactly as the profiler tells it.
            assert np.allclose(kept[name].astype(float), given[name].astype(float), rtol=0, atol=1e-12, equal_nan=True)
    step, before = decode_step(again), decode_step(recorded)
    assert step is not None and before is not None and step.class_s == pytest.approx(before.class_s)


@pytest.fixture(scope="module")
def unmarked() -> Trace:
    return with_steps(read_nsys_export(EXPORT.with_name("sglang-h100-nsys"), kernel_classes(SOURCE)), LAYERS)


def test_an_engine_without_marks_tells_its_decode_steps_by_length_and_graphs(unmarked: Trace) -> None:
    """The third step computes prompts and takes only 9.1 ms where decoding takes 7.2; a graph a layer tells it."""
    phases = unmarked.steps["phase"].where(unmarked.steps["phase"].notna(), "")
    assert list(phases) == [""] * 3 + ["decode"] * 7 + [""], "how long the last takes is not known"
    assert unmarked.steps["duration_s"].iloc[2] < 1.3 * unmarked.steps["duration_s"].iloc[3:10].median()
    step = decode_step(unmarked)
    assert step is not None and (step.steps, step.graph_launches, step.batch) == (7, 1.0, None)


def test_its_kernels_have_classes_and_its_products_places(unmarked: Trace) -> None:
    assert unnamed(unmarked) == []
    found = layer_products(unmarked, LAYERS)
    assert found is not None and found.reason is None and UNKNOWN not in set(found.time_s["part"])
    assert 1.05e9 / 3.35e12 < found.of(["decode"], HEAD) / 7 < 1.3 * 1.05e9 / 3.35e12


def test_an_export_without_kernels_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"CUPTI_ACTIVITY_KIND_KERNEL\.parquet"):
        read_nsys_export(tmp_path, kernel_classes(SOURCE))
