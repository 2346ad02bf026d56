"""What Nsight Systems exported of a decode server that fetches KV blocks by NIXL on an H100: its transfers, apart from its steps."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from leverlab.profile import tables
from leverlab.profile.analysis import decode_step, devices, steps_from_kernels, time_by_class, unnamed
from leverlab.profile.classes import kernel_classes
from leverlab.profile.nsys_export import read_nsys_export
from leverlab.profile.peer_copies import is_peer, peer_transfers
from leverlab.profile.tables import Trace
from tests.unit.repository import SOURCE

EXPORT = SOURCE / "tests" / "data" / "profiles" / "vllm-h100-nixl-decode"
LAYERS, BLOCKS, BLOCK_BYTES = 32, 256, 65536
STEP_S = 0.0071


@pytest.fixture(scope="module")
def recorded() -> Trace:
    return read_nsys_export(EXPORT, kernel_classes(SOURCE))


def test_as_many_bytes_are_moved_by_a_copy_a_layer_and_by_one_a_layer_and_block(recorded: Trace) -> None:
    """4096 tokens are 256 blocks of 16. Where they lie side by side on both GPUs 32 copies move them, scattered ones each alone."""
    many, few = peer_transfers(recorded, STEP_S)
    assert [each.copies for each in many.transfers] == [BLOCKS * LAYERS]
    assert [each.copies for each in few.transfers] == [224, LAYERS]
    assert {each.moved for each in (*many.transfers, *few.transfers)} == {BLOCKS * LAYERS * BLOCK_BYTES}
    assert many.copy_bytes == BLOCK_BYTES and few.copy_bytes is not None and few.copy_bytes > 50 * BLOCK_BYTES
    assert many.copy_s == pytest.approx(3.1e-6, rel=0.1) and many.copying_share < 0.6
    assert many.rate is not None and few.rate is not None and 8e9 < many.rate < 10e9 and few.rate > 4 * many.rate
    assert many.duration_s == pytest.approx(0.0615, rel=0.01)


def test_without_the_time_of_a_step_and_without_bytes_they_are_told_all_the_same(recorded: Trace) -> None:
    old = replace(recorded, kernels=recorded.kernels.assign(bytes=pd.NA))
    many, few = peer_transfers(old, None)
    assert many.copies == BLOCKS * LAYERS and (many.moved, many.rate, few.copy_bytes) == (None, None, None)


def test_a_server_without_such_copies_has_no_transfers(recorded: Trace) -> None:
    alone = replace(recorded, kernels=recorded.kernels[~is_peer(recorded.kernels)])
    assert peer_transfers(alone, STEP_S) == ()


def test_its_time_by_class_sums_to_the_busy_time_and_its_steps_are_those_that_the_engine_marked(
    recorded: Trace,
) -> None:
    [gpu] = devices(recorded)
    assert time_by_class(recorded)["time_s"].sum() == pytest.approx(gpu.busy_s, rel=1e-9)
    assert unnamed(recorded) == []
    seen = steps_from_kernels(recorded, LAYERS)
    assert seen is not None and seen.count == len(recorded.steps) == 13
    assert recorded.steps.loc[recorded.steps["phase"] == "mixed", "prefill_tokens"].to_list() == [1, 1]


def test_copies_of_a_transfer_are_no_kernels_of_a_step(recorded: Trace) -> None:
    step = decode_step(recorded)
    assert step is not None and 430 < step.kernels < 450 and step.graph_launches == 1


def test_bytes_come_back_as_they_were_written(recorded: Trace, tmp_path: Path) -> None:
    tables.write(recorded, tmp_path)
    assert tables.read(tmp_path).kernels["bytes"].sum() == recorded.kernels["bytes"].sum()


def test_a_server_that_ran_nothing_at_the_windows_ends_was_idle_there(recorded: Trace) -> None:
    [gpu], [longer] = devices(recorded), devices(recorded, recorded_s=1.0)
    assert longer.window_s == 1.0 and longer.busy_s == gpu.busy_s
    assert longer.idle_by_cause_s["outside"] == pytest.approx(1.0 - gpu.window_s)
    assert longer.busy_s + sum(longer.idle_by_cause_s.values()) == pytest.approx(longer.window_s)
    assert devices(recorded, recorded_s=0.01) == [gpu]
