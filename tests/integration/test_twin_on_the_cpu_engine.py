"""A twin of the real CPU engine, under torch's profiler: recorded, and read as steps and kernels."""

from pathlib import Path

import pytest

from leverlab.layout import Layout
from leverlab.profile import tables
from leverlab.profile.analysis import devices, steps_from_kernels, time_by_class, unnamed
from leverlab.profile.keeping import read_twin
from leverlab.profile.window import Window
from tests.integration.checkout import REPOSITORY, Checkout

# In every run, not drawn by a seed: no other module surely runs a twin of a real engine.
pytestmark = pytest.mark.engine

STUDY = """\
question: Which operators does a step run?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 12, prompt_tokens: 64, output_tokens: 64}
load: {concurrencies: [4]}
levers: {prefix_caching: [on]}
baseline: {prefix_caching: on}
replicates: 1
profile: {at: [concurrency 4], window: 500 ms}
"""


def test_a_twin_tells_where_a_step_goes(tmp_path: Path) -> None:
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    checkout = Checkout.make(tmp_path, "twin", STUDY)
    model = Layout().model("tiny-llama") / "model.json"
    checkout.run("prepare_model.py", "--model", "tiny-llama", "--output", str(model))
    [folder] = checkout.profile("twin", timeout_s=580)
    record = read_twin(folder)
    assert record is not None and record.outcome == "recorded", record
    assert record.layers == 8 and record.requests["ok"] == 12
    trace = tables.read(folder)
    window = Window(**record.window)
    steps = steps_from_kernels(trace, 8)
    assert steps is not None and window.iterations is not None
    least, most = window.iterations
    assert least <= steps.count <= most and len(trace.steps) == steps.count > 5
    [cpu] = devices(trace)
    by_class = time_by_class(trace)
    assert by_class["time_s"].sum() == pytest.approx(cpu.busy_s, rel=0.01)
    assert sum(share for _, share in unnamed(trace)) < 0.05
    assert list((folder / "raw").glob("*.pt.trace.json.gz"))
