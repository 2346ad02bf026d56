"""What a machine did wrong is marked by what was recorded of it, just above the threshold and not just below."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from leverlab.theory.floors import Floors
from tests.doubt.matrix import title
from tests.doubt.planted import RECORDED, Fault
from tests.unit.checked_cells import CLIENT, clean, found, gpu_samples, host_samples, long_answers, on_a_gpu
from tests.unit.test_checks_recorded_gpu import samples

pytestmark = pytest.mark.doubt


def throttled(share: float) -> pa.Table:
    """The recording of a power-capped H200, of which only the first `share` is throttled."""
    rows = samples("power-capped").to_pylist()
    told = [row if place < share * len(rows) else {**row, "throttle_reasons": 0} for place, row in enumerate(rows)]
    return pa.Table.from_pylist(told, samples("power-capped").schema)


def memory_in(name: str) -> dict[str, int]:
    return {"GPU-1": int(samples(name).column("memory_used_bytes")[0].as_py())}


def sampled(gpu: pa.Table, why_not: str = "") -> dict[str, Any]:
    """What was sampled of an engine that computes on a GPU, and why there is no more of it."""
    broken = {"gpu": why_not} if why_not else {}
    return {"specification": on_a_gpu().specification, "gpu": gpu, "not_sampled": broken}


def without(*columns: str) -> pa.Table:
    """The recording of a decoding H200 in which these are null."""
    denied = dict.fromkeys(columns)
    whole = samples("decode")
    return pa.Table.from_pylist([row | denied for row in whole.to_pylist()], whole.schema)


def falling(share: float) -> pa.Table:
    return gpu_samples(sm_clock_hz=[(1 - share) * 1.98e9] * 10 + [1.98e9] * 90)


def floor_above(share: float) -> dict[str, Any]:
    """Answers whose steps take 20 ms, and a floor of which that is `share`."""
    return {"made": long_answers(), "floors": Floors(step_s=0.02 / share, prefill_s_per_token=None)}


PLANTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a clock that jumps": ({}, {"instrument": {**CLIENT, "clock_jumped": True, "clock_jump_s": 0.5}}),
    "engine and client compete for a core": ({}, {"engine_cores": [1]}),
    "a client starved of CPU": tuple({"instrument": {**CLIENT, "run_queue_wait_share": share}} for share in (0.04, 0.06)),
    "foreign load on the engine's cores": tuple({"host": host_samples(0.5 + share)} for share in (0.04, 0.06)),
    "clocks that throttle": ({"gpu": throttled(0.04)}, {"gpu": throttled(1.0)}),
    "a clock that falls": ({"gpu": falling(0.09)}, {"gpu": falling(0.12)}),
    "a neighbour on the GPU": ({"gpu": samples("decode")}, {"gpu": samples("shared")}),
    "memory errors": ({}, {"gpu": gpu_samples(ecc_uncorrected=[0.0] * 50 + [1.0] * 50)}),
    "a GPU's memory that does not come back": tuple(
        {"gpu_memory_before": memory_in(name)} for name in ("idle-no-context", "shared")
    ),
    "a GPU of which NVML tells nothing": (
        sampled(samples("decode")),
        sampled(samples("decode").slice(0, 0), "NVML: Driver Not Loaded"),
    ),
    "samples that end before the cell does": (
        sampled(samples("decode")),
        sampled(samples("decode").slice(0, samples("decode").num_rows // 2), "NVMLError_GpuIsLost: GPU is lost"),
    ),
    "a GPU whose power NVML denies": (sampled(without("power_w")), sampled(without("power_w", "energy_j"))),
    "faster than the GPU can be": (floor_above(0.91), floor_above(0.89)),
}  # fmt: skip


@pytest.mark.parametrize("fault", RECORDED, ids=[fault.name for fault in RECORDED])
def test_a_fault_of_the_machine_is_marked_with_its_own_code(fault: Fault, note: Callable[..., None]) -> None:
    for cell, planted in zip(fault.cells, PLANTED[fault.name], strict=True):
        marks = found(clean(**planted))
        note(title(fault, cell), marks, frozenset(marks))
        assert {code: marks.get(code) for code in fault.codes} == {code: cell.marks.get(code) for code in fault.codes}
        assert set(marks) <= fault.codes | fault.also
