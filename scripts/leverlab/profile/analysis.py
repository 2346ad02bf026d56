"""What a trace tells: time by class, busy and idle, launches, steps. Pure functions over the tables of `leverlab.profile.tables`.

Times of a server with several GPUs are means over its GPUs, so that they compare with a step's duration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from leverlab.config.profile import KERNEL_CLASSES
from leverlab.profile.intervals import Floats, covered_s, gaps, times
from leverlab.profile.peer_copies import is_peer
from leverlab.profile.tables import Trace

UNKNOWN: Final = "unknown"

_PRECEDENCE: Final = (
    *(name for name in KERNEL_CLASSES if name not in ("communication", "copy")),
    "communication",
    "copy",
)
"""Where kernels overlap, the time is that of the class that stands first: what a transfer adds is what shows beside it."""

_SEVERAL: Final = 2
_MATCHED: Final = 0.9
"""Share of communication kernels that must be found on every GPU: a window has ends."""

_KERNEL_LAUNCH: Final = r"^cu(?:da)?LaunchKernel"
GRAPH_LAUNCH: Final = r"^cu(?:da)?GraphLaunch"
"""A call that launches a CUDA graph."""
_ANCHORS: Final = ("kv_cache", "attention")
"""Classes of which a layer runs one kernel in every step, whatever the batch."""

IDLE_CAUSES: Final[Mapping[str, str]] = {
    "host": "the CPU had not launched anything",
    "launch": "a launch was under way",
    "queued": "kernels that were launched waited for each other",
    UNKNOWN: "the trace does not tell when the next kernel was launched",
    "outside": "the first kernel had not begun or the last one had ended",
}


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU (or the CPU) in the window, seconds: from its first kernel's start to its last one's end, or as long as was recorded, whichever is
    longer. A server that waits for requests runs nothing at the window's ends."""

    name: str
    window_s: float
    busy_s: float
    idle_by_cause_s: Mapping[str, float]

    @property
    def idle_share(self) -> float:
        """Share of the window in which nothing ran."""
        return 1 - self.busy_s / self.window_s if self.window_s else 0.0


def devices(trace: Trace, recorded_s: float = 0.0) -> list[Device]:
    """Busy and idle time of each device. `recorded_s`: for how long the profiler recorded at the least."""
    return [_device(name, own.sort_values("start_s"), recorded_s) for name, own in trace.devices]


def _device(name: str, kernels: pd.DataFrame, recorded_s: float) -> Device:
    start, end = times(kernels)
    span_s = float(end.max() - start.min())
    idle = _idle(name, kernels, start, end)
    if recorded_s > span_s:
        idle["outside"] = recorded_s - span_s
    return Device(name, max(span_s, recorded_s), covered_s(start, end), idle)


def _idle(name: str, kernels: pd.DataFrame, start: Floats, end: Floats) -> dict[str, float]:
    """What each gap waited for: told by when the kernel that ended it was launched."""
    begin, until = gaps(start, end)
    if name == "cpu":
        return {"host": float((until - begin).sum())}
    launch = kernels["launch_s"].to_numpy(float)[np.searchsorted(start, until, side="left")]
    known = ~np.isnan(launch)
    # What was launched before the gap waited for other kernels; otherwise the CPU was late, up to the launch.
    late = np.clip(launch, begin, until)
    parts = {
        "host": (late - begin)[known].sum(),
        "launch": (until - late)[known & (launch > begin)].sum(),
        "queued": (until - begin)[known & (launch <= begin)].sum(),
        UNKNOWN: (until - begin)[~known].sum(),
    }
    return {cause: float(seconds) for cause, seconds in parts.items() if seconds > 0}


def time_by_class(trace: Trace) -> pd.DataFrame:
    """Columns phase, class, time_s: mean over the devices. Each moment counts once, so that the sum is the busy time."""
    rows: list[dict[str, Any]] = []
    found = trace.devices
    for _, kernels in found:
        phase = kernels["phase"].astype("object").where(kernels["phase"].notna(), UNKNOWN)
        start, end = times(kernels)
        taken = np.zeros(len(kernels), dtype=bool)
        before = 0.0
        for name in _PRECEDENCE:
            for one in sorted(phase.unique()):
                own = ((kernels["class"] == name) & (phase == one)).to_numpy()
                if not own.any():
                    continue
                taken |= own
                covered = covered_s(start[taken], end[taken])
                rows.append({"phase": one, "class": name, "time_s": (covered - before) / len(found)})
                before = covered
    table = pd.DataFrame(rows, columns=["phase", "class", "time_s"])
    return table.groupby(["phase", "class"], sort=False)[["time_s"]].sum().reset_index()


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps that are seen in the kernels of the first device. `count` is of those that began in the window."""

    anchor: str
    """The kernel that every layer runs once a step."""
    count: int
    decode_s: Floats
    """Times from one decode step to the next."""


def steps_from_kernels(trace: Trace, layers: int) -> Steps | None:
    """Steps by the kernel that every one of `layers` layers runs once; None where there is no such kernel.

    Where within the recorded kernels a step begins is told by the longest pause between two of them: there the head of the
    model and the sampling stand. Neither annotations nor counters of the engine are used.
    """
    found = step_beginnings(trace.devices[0][1], layers) if trace.devices else None
    if found is None:
        return None
    begins, partial = found
    phases = begins["phase"].to_numpy(object)
    periods = np.diff(begins["start_s"].to_numpy(float))
    decode = (phases[:-1] == "decode") & (phases[1:] == "decode")
    return Steps(str(begins["kernel"].iloc[0]), len(begins) + int(partial), periods[decode])


def step_beginnings(kernels: pd.DataFrame, layers: int) -> tuple[pd.DataFrame, bool] | None:
    """The first layer's kernel of each step on one device, and whether a step had begun before the first of them."""
    found = layer_anchors(kernels, layers)
    if found is None:
        return None
    own, first = found
    return own.iloc[first::layers], first > 0


def layer_anchors(kernels: pd.DataFrame, layers: int) -> tuple[pd.DataFrame, int] | None:
    """The kernels of one device, in their order, of which every layer runs one in a step; and which of them is the first layer's.

    None where there is no such kernel.
    """
    kernels = kernels.sort_values("start_s")
    anchor = _anchor(kernels, layers)
    if anchor is None:
        return None
    own = kernels[kernels["kernel"] == anchor]
    start = own["start_s"].to_numpy(float)
    first = 0
    if layers > 1 and len(start) > layers:
        pause = np.diff(start, prepend=np.nan)
        position = np.arange(len(start)) % layers
        medians = [np.nanmedian(pause[position == each]) for each in range(layers)]
        first = int(np.argmax(medians))
    return own, first


def _anchor(kernels: pd.DataFrame, layers: int) -> str | None:
    for name in _ANCHORS:
        counts = kernels.loc[kernels["class"] == name, "kernel"].value_counts() if len(kernels) else pd.Series()
        if len(counts) and int(counts.iloc[0]) >= layers:
            return str(counts.index[0])
    return None


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """What a decode step is made of, in the mean over those that the engine marked and over the devices."""

    steps: int
    kernels: float
    """Kernels and copies that ran, but for copies between GPUs: those are of a transfer, which may be of any step."""
    kernel_launches: float
    graph_launches: float
    launch_calls_s: float
    """Time that the CPU spent in these calls."""
    class_s: Mapping[str, float]
    """Class → time, each moment counted once."""
    communication_kernels: float
    communication_s: float
    """Time of the communication's kernels, also where others ran beside them."""
    communication_wait_s: float | None
    """What of it they waited for another GPU; None where there is one GPU, or kernels of several do not match."""
    batch: float | None
    """Requests in the batch; None where the engine did not mark it."""
    tokens: float | None
    """Tokens that are computed for them: more than requests where a draft is verified; None where the engine did not mark them."""


def decode_step(trace: Trace) -> DecodeStep | None:
    """The mean decode step; None where none is known."""
    marked = trace.steps[trace.steps["phase"] == "decode"]
    processes = marked["process"].nunique()
    count = len(marked) / processes if processes else 0.0
    if not count:
        return None
    devices = max(len(trace.devices), 1)
    own = trace.kernels[trace.kernels["phase"] == "decode"]
    table = time_by_class(trace)
    decode = table[table["phase"] == "decode"].set_index("class")["time_s"] / count
    keys = pd.MultiIndex.from_frame(marked[["process", "step"]])
    calls = trace.calls[pd.MultiIndex.from_frame(trace.calls[["process", "step"]]).isin(keys)]
    names = calls["call"].astype(str)
    launches, graphs = names.str.contains(_KERNEL_LAUNCH), names.str.contains(GRAPH_LAUNCH)
    talk = own[own["class"] == "communication"]
    return DecodeStep(
        steps=round(count),
        kernels=float((~is_peer(own)).sum()) / count / devices,
        kernel_launches=float(launches.sum()) / len(marked),
        graph_launches=float(graphs.sum()) / len(marked),
        launch_calls_s=float(calls.loc[launches | graphs, "duration_s"].sum()) / len(marked),
        class_s={str(name): float(seconds) for name, seconds in decode.items()},
        communication_kernels=len(talk) / count / devices,
        communication_s=float(talk["duration_s"].sum()) / count / devices,
        communication_wait_s=_waiting(talk, len(talk) / count / devices),
        batch=_mean(marked["decode_requests"]),
        tokens=_mean(marked["decode_tokens"]),
    )


def _waiting(talk: pd.DataFrame, kernels: float) -> float | None:
    """Of `kernels` communication kernels that each GPU ran in a step, the time that they waited for one another.

    An exchange begins when its last kernel does, and then takes on every GPU as long as on that one: the shortest of the kernels
    that belong together is the exchange, and what the others take longer they waited. Those belong together that end nearest to each
    other, within half of the usual time from one exchange to the next: however long one waits, all end at once, while the exchange
    still runs. None where they are not of one exchange: kernels of GPUs that do not talk to each other end apart.
    """
    by_gpu = [
        times(own.assign(end_s=own["start_s"] + own["duration_s"]).sort_values("end_s"))
        for _, own in talk.groupby("gpu")
    ]
    if len(by_gpu) < _SEVERAL or min(len(end) for _, end in by_gpu) < _SEVERAL:
        return None
    first, ends = by_gpu[0]
    near_s = float(np.median(np.diff(ends))) / 2
    together = np.ones(len(ends), dtype=bool)
    took_s = [ends - first]
    for start, end in by_gpu[1:]:
        after = np.clip(np.searchsorted(end, ends), 1, len(end) - 1)
        nearest = np.where(ends - end[after - 1] < end[after] - ends, after - 1, after)
        took_s.append((end - start)[nearest])
        together &= np.abs(end[nearest] - ends) < np.minimum(near_s, np.minimum(took_s[0], took_s[-1]))
    if together.mean() < _MATCHED:
        return None
    durations = np.stack(took_s)[:, together]
    return float((durations - durations.min(axis=0)).mean()) * kernels


def _mean(column: "pd.Series[Any]") -> float | None:
    return float(column.mean()) if column.notna().any() else None


def copies_s(trace: Trace) -> dict[str, float]:
    """Copy's name → the time that it took in all, in the mean over the devices; beside a computation it counts too."""
    own = trace.kernels[trace.kernels["class"] == "copy"]
    by_name = own.groupby("kernel")["duration_s"].sum().sort_values(ascending=False) / max(len(trace.devices), 1)
    return {str(name): float(seconds) for name, seconds in by_name.items()}


def copying_s(trace: Trace) -> float:
    """The time in which anything was copied, each moment once, in the mean over the devices."""
    own = [times(kernels[kernels["class"] == "copy"]) for _, kernels in trace.devices]
    return float(np.mean([covered_s(start, end) for start, end in own])) if own else 0.0


def unnamed(trace: Trace) -> list[tuple[str, float]]:
    """(kernel, share of the kernels' time) of what no rule names, the longest first."""
    other = trace.kernels[trace.kernels["class"] == "other"]
    whole = float(trace.kernels["duration_s"].sum())
    by_name = other.groupby("kernel")["duration_s"].sum().sort_values(ascending=False)
    return [(str(name), float(seconds) / whole) for name, seconds in by_name.items()]
