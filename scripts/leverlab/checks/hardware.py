"""Checks of the machine below the server: GPUs, cores, and what they can do at most."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from leverlab.checks.base import CellInputs, Check, Finding, milliseconds
from leverlab.checks.columns import Floats, numeric
from leverlab.units import format_share

THROTTLED_SHARE: Final = 0.05
"""Share of the busy samples with a reason for lower clocks, from which on a cell is marked."""

CLOCK_DROP: Final = 0.1
"""By how much the clock of a busy GPU may fall below the highest that it had in the cell, in one of twenty samples."""

KEPT_BYTES: Final = 2 * 2**30
"""Memory in use on a GPU before the server started, from which on somebody else has it: drivers keep up to 1 GiB."""

FOREIGN_LOAD_SHARE: Final = 0.05
"""Share of the engine's cores that something else took, from which on a cell is marked."""

_FOREIGN_LOAD_S: Final = 5.0
"""Shortest cell that is judged by it: samples come twice a second, and a start or end between two of them shows as load."""

FLOOR_SHARE: Final = 0.9
"""Measured time ÷ floor below which it is impossible: clocks and bandwidths are stated to within a few per cent."""

_SLOWING: Final = {
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
}
"""NVML's reasons that lower clocks under load. Idle clocks, and clocks that somebody set, lower nothing by surprise."""

_WANTED: Final = {
    "power": ("power_w", "energy_j"),
    "use": ("sm_utilisation",),
    "clocks": ("sm_clock_hz",),
    "memory": ("memory_used_bytes",),
}
"""What metrics and checks of a GPU rest on → the columns of which one tells it."""

_REMEDY_OF_NVML: Final = (
    "what the GPU did is not known: no energy, and nothing says whether it was throttled or shared. See that nvidia-smi works where the "
    "job runs, in its container too"
)

_CHUNKS: Final = 20
"""Chunks from which on a request's mean gap is compared with the floor."""


def _gpu_not_sampled(inputs: CellInputs) -> Finding | None:
    # The other checks of GPUs are silent without samples, and silence looks like a pass.
    if inputs.specification["server"]["engine"].get("device") != "cuda" or inputs.gpu is None:
        return None
    expected = f"samples of every GPU, with {', '.join(_WANTED)}"
    broken = inputs.not_sampled.get("gpu")
    if broken or not inputs.gpu.num_rows:
        saw = (
            f"the samples are not whole: {broken}"
            if inputs.gpu.num_rows
            else f"no sample: {broken or 'no reason kept'}"
        )
        return Finding("caution", saw, expected, _REMEDY_OF_NVML)
    denied = [name for name, column in _WANTED.items() if not _told(inputs.gpu, column)]
    if denied:
        return Finding(
            "caution", f"{inputs.gpu.num_rows} samples without {', '.join(denied)}", expected, _REMEDY_OF_NVML
        )
    return Finding("ok", f"{inputs.gpu.num_rows} samples", expected)


def _told(gpu: pa.Table, columns: Sequence[str]) -> bool:
    """Whether one of `columns` has a value in any sample."""
    return any(name in gpu.column_names and gpu.column(name).null_count < gpu.num_rows for name in columns)


def _gpu_throttled(inputs: CellInputs) -> Finding | None:
    busy = _busy(inputs)
    if busy is None or busy.column("throttle_reasons").null_count == busy.num_rows:
        return None
    reasons = [bits or 0 for bits in busy.column("throttle_reasons").to_pylist()]
    shares = {name: sum(bool(bits & bit) for bits in reasons) / len(reasons) for bit, name in _SLOWING.items()}
    name, share = max(shares.items(), key=lambda item: item[1])
    expected = f"clocks lowered for less than {format_share(THROTTLED_SHARE)} of the time"
    saw = f"{name} for {format_share(share)} of the time that the GPU was busy" if share else "clocks never lowered"
    if share < THROTTLED_SHARE:
        return Finding("ok", saw, expected)
    return Finding(
        "caution",
        saw,
        expected,
        "the GPU ran into its power limit or its temperature: both sides of a comparison may be slowed by different amounts",
    )


def _gpu_clock_dropped(inputs: CellInputs) -> Finding | None:
    busy = _busy(inputs)
    if busy is None:
        return None
    drops = []
    for gpu in np.unique(busy.column("gpu").to_numpy()):
        clocks = numeric(busy.filter(pa.compute.equal(busy.column("gpu"), int(gpu))), "sm_clock_hz")
        clocks = clocks[~np.isnan(clocks)]
        if len(clocks):
            drops.append((1 - float(np.quantile(clocks, 0.05)) / float(clocks.max()), float(clocks.max())))
    if not drops:
        return None
    drop, most_hz = max(drops)
    saw = f"the clock fell by up to {format_share(drop)} below {most_hz / 1e6:.0f} MHz while the GPU was busy (1 of 20 samples)"
    expected = f"at most {format_share(CLOCK_DROP)}"
    if drop <= CLOCK_DROP:
        return Finding("ok", saw, expected)
    return Finding("caution", saw, expected, "lock the clocks for the study, or compare the replicates' clocks")


def _gpu_shared(inputs: CellInputs) -> Finding | None:
    if inputs.gpu is None or "foreign_processes" not in inputs.gpu.column_names:
        return None
    foreign = numeric(inputs.gpu, "foreign_processes")
    if not len(foreign):
        return None
    foreign = foreign[~np.isnan(foreign)]
    expected = "no process on the GPUs but the server's"
    if not len(foreign):
        saw = "not known: the driver's process ids cannot be matched with the server's, as in some containers"
        return Finding("ok", saw, expected)
    if not foreign.max():
        return Finding("ok", "none", expected)
    return Finding(
        "invalid",
        f"up to {foreign.max():.0f}, in {format_share((foreign > 0).mean())} of the samples",
        expected,
        "somebody else computes on this GPU: see nvidia-smi, and ask for the GPU alone",
    )


def _gpu_ecc_errors(inputs: CellInputs) -> Finding | None:
    grown = {name: _growth(inputs, f"ecc_{name}") for name in ("corrected", "uncorrected")}
    if all(value is None for value in grown.values()):
        return None
    saw = ", ".join(f"{value:.0f} {name}" for name, value in grown.items() if value is not None)
    expected = "no new memory errors"
    if grown["uncorrected"]:
        return Finding("invalid", saw, expected, "the GPU's memory gave wrong values: take the GPU out of service")
    if grown["corrected"]:
        return Finding("caution", saw, expected, "the GPU's memory needed correction: watch it, and compare other GPUs")
    return Finding("ok", saw, expected)


def _gpu_memory_kept(inputs: CellInputs) -> Finding | None:
    if not inputs.gpu_memory_before:
        return None
    gpu, used = max(inputs.gpu_memory_before.items(), key=lambda item: item[1])
    saw = f"{used / 2**30:.2g} GiB in use on {gpu} before the server started"
    expected = f"less than {KEPT_BYTES / 2**30:.0f} GiB"
    if used < KEPT_BYTES:
        return Finding("ok", saw, expected)
    return Finding(
        "caution",
        saw,
        expected,
        "memory of an earlier process did not come back, or another one has it: the KV cache is smaller by as much",
    )


def _foreign_load(inputs: CellInputs) -> Finding | None:
    # Where the engine has no cores of its own, the client and everything else are on them too.
    if inputs.host is None or not inputs.engine_cores or inputs.host.num_rows < 3:
        return None
    time_s, share, server_s = (numeric(inputs.host, name) for name in ("time_s", "engine_cores_share", "server_cpu_s"))
    if np.isnan(server_s[[0, -1]]).any() or np.isnan(share[1:]).any():
        return None
    if time_s[-1] - time_s[0] < _FOREIGN_LOAD_S:
        return None
    available_s = float(time_s[-1] - time_s[0]) * len(inputs.engine_cores)
    busy_s = float((share[1:] * np.diff(time_s)).sum()) * len(inputs.engine_cores)
    foreign = max(0.0, busy_s - float(server_s[-1] - server_s[0])) / available_s
    saw = f"{format_share(foreign, 1)} of the engine's cores went to something else"
    expected = f"at most {format_share(FOREIGN_LOAD_SHARE)}"
    if foreign <= FOREIGN_LOAD_SHARE:
        return Finding("ok", saw, expected)
    return Finding("caution", saw, expected, "another program computed on the engine's cores: keep the machine quiet")


def _faster_than_roofline(inputs: CellInputs) -> Finding | None:
    floors = inputs.floors
    if floors is None:
        return None
    found = []
    chunks, first, last = (inputs.column(name) for name in ("chunks", "first_token_s", "last_token_s"))
    many = inputs.ended_well & (chunks >= _CHUNKS)
    if many.any():
        # Each chunk holds at least one step's tokens, however many a speculating engine accepts in it.
        steps_s = (last[many] - first[many]) / (chunks[many] - 1)
        found.append(("a decode step", float(np.nanmin(steps_s)), floors.step_s))
    if floors.prefill_s_per_token is not None:
        uncached = inputs.column("prompt_tokens") - inputs.column("cached_tokens")
        waited_s = inputs.column("ttft_service_s")
        asked = inputs.ended_well & ~np.isnan(uncached) & (uncached > 0) & ~np.isnan(waited_s)
        if asked.any():
            place = int(np.argmin(waited_s[asked] / uncached[asked]))
            tokens = float(uncached[asked][place])
            least_s = float(waited_s[asked][place])
            found.append((f"a prefill of {tokens:.0f} tokens", least_s, floors.prefill_s_per_token * tokens))
    if not found:
        return None
    what, measured_s, floor_s = min(found, key=lambda item: item[1] / item[2])
    saw = f"{what} took {milliseconds(measured_s)}"
    expected = f"at least {milliseconds(floor_s)}: reading the weights, or computing the prompt, takes as long"
    if measured_s >= FLOOR_SHARE * floor_s:
        return Finding("ok", saw, expected)
    return Finding(
        "invalid",
        saw,
        expected,
        "faster than the GPU can be: the tokens were not computed, the model is another, or config/gpus.yaml is wrong",
    )


def _busy(inputs: CellInputs) -> pa.Table | None:
    """The samples in which a GPU computed; None without any."""
    if inputs.gpu is None or not inputs.gpu.num_rows:
        return None
    busy = inputs.gpu.filter(pa.compute.greater(inputs.gpu.column("sm_utilisation"), 0))
    return busy if busy.num_rows else None


def _growth(inputs: CellInputs, name: str) -> float | None:
    """By how much a counter grew over the cell, on the GPU where it grew most."""
    if inputs.gpu is None or name not in inputs.gpu.column_names:
        return None
    gpus: Floats = numeric(inputs.gpu, "gpu")
    values = numeric(inputs.gpu, name)
    grown = []
    for gpu in np.unique(gpus):
        own = values[gpus == gpu]
        own = own[~np.isnan(own)]
        if len(own):
            grown.append(float(own[-1] - own[0]))
    return max(grown) if grown else None


HARDWARE_CHECKS: Final = (
    Check("gpu_not_sampled", "Is it known what the GPU did?", _gpu_not_sampled, kept=("gpu",)),
    Check("gpu_throttled", "Did the GPU keep its clocks?", _gpu_throttled),
    Check("gpu_clock_dropped", "Was the GPU's clock steady?", _gpu_clock_dropped),
    Check("gpu_shared", "Was the GPU the server's alone?", _gpu_shared),
    Check("gpu_ecc_errors", "Was the GPU's memory sound?", _gpu_ecc_errors),
    Check("gpu_memory_kept", "Was the GPU's memory free before the start?", _gpu_memory_kept),
    Check("foreign_load", "Did the engine have its cores to itself?", _foreign_load),
    Check("faster_than_roofline", "Is what was measured possible on this GPU?", _faster_than_roofline),
)
