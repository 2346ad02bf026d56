"""Reads the traces of torch's profiler: JSON in the form that chrome://tracing and Perfetto open, gzipped or not.

Times are microseconds. On a GPU a row is a kernel or a copy; on a CPU, which launches nothing, it is an operator that no
other operator called: what an operator does within itself is its own time. Source: pytorch/kineto, output_json.cpp.
"""

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd

from leverlab.profile.annotations import step_rows
from leverlab.profile.classes import KernelClasses
from leverlab.profile.tables import Trace, assigned

_ON_GPU: Final = {"kernel", "gpu_memcpy", "gpu_memset"}
_CALLS: Final = {"cuda_runtime", "cuda_driver"}


class TraceError(ValueError):
    """A file that is no trace of torch's profiler, or holds nothing."""


class _Arguments(msgspec.Struct):
    device: int | None = None
    stream: int | str | None = None
    correlation: int | None = None
    graph_node: int | None = msgspec.field(name="graph node id", default=None)
    bytes: int | None = None


class _Event(msgspec.Struct):
    ph: str
    name: str = ""
    cat: str = ""
    pid: int | str = 0
    tid: int | str = 0
    ts: float = 0.0
    dur: float = 0.0
    args: _Arguments | None = None


class _File(msgspec.Struct):
    trace_events: list[msgspec.Raw] = msgspec.field(name="traceEvents")


_FILE: Final = msgspec.json.Decoder(_File)
_EVENT: Final = msgspec.json.Decoder(_Event)
_WANTED: Final = (b'"kernel"', b'"gpu_mem', b'"cuda_', b'"cpu_op"', b'"user_annotation"')


def read_torch_traces(files: Sequence[Path], classes: KernelClasses) -> Trace:
    """The trace in `files`, one a process. Raises TraceError."""
    events = [event for file in files for event in _events(file)]
    gpu = [event for event in events if event.cat in _ON_GPU]
    kernels = _on_gpu(gpu) if gpu else _on_cpu([event for event in events if event.cat == "cpu_op"])
    if kernels.empty:
        raise TraceError(f"{', '.join(map(str, files))}: neither a kernel nor an operator was recorded")
    calls = _calls([event for event in events if event.cat in _CALLS])
    # The device's own rows do not name the process: one trace has one.
    launched = calls.drop_duplicates(["process", "correlation"]).set_index(["process", "correlation"])["start_s"]
    keys = pd.MultiIndex.from_frame(kernels[["process", "correlation"]])
    kernels["launch_s"] = launched.reindex(keys).to_numpy(float) if len(launched) else np.nan
    marks = [event for event in events if event.cat == "user_annotation"]
    steps = step_rows(
        pd.Series([event.name for event in marks], dtype="object"),
        pd.Series([_number(event.pid) for event in marks], dtype="int64"),
        pd.Series([event.ts / 1e6 for event in marks], dtype="float64"),
        pd.Series([event.dur / 1e6 for event in marks], dtype="float64"),
    )
    return assigned(
        kernels.drop(columns="correlation"),
        calls.drop(columns="correlation"),
        steps,
        classes.mapping(kernels["kernel"]),
    )


def _events(file: Path) -> Iterable[_Event]:
    data = file.read_bytes()
    try:
        found = _FILE.decode(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        decoded = [_EVENT.decode(raw) for raw in found.trace_events if any(mark in bytes(raw) for mark in _WANTED)]
    except (msgspec.MsgspecError, OSError, EOFError) as error:
        raise TraceError(f"{file}: no trace of torch's profiler: {error}") from None
    complete = [event for event in decoded if event.ph == "X"]
    process = next((_number(event.pid) for event in complete if event.cat not in _ON_GPU), 0)
    for event in complete:
        if event.cat in _ON_GPU:
            # On the device's rows `pid` is the device.
            event.pid = process
    return complete


def _number(value: int | str) -> int:
    return value if isinstance(value, int) else int(value) if value.isdigit() else 0


def _on_gpu(events: Sequence[_Event]) -> pd.DataFrame:
    arguments = [event.args or _Arguments() for event in events]
    return _rows(
        events,
        stream=[_number(each.stream or 0) for each in arguments],
        gpu=[each.device for each in arguments],
        nodes=[each.graph_node or None for each in arguments],
        correlation=[-1 if each.correlation is None else each.correlation for each in arguments],
    ).assign(bytes=pd.array([each.bytes for each in arguments], dtype="Int64"))


def _on_cpu(events: Sequence[_Event]) -> pd.DataFrame:
    outermost = []
    for _, own in _by_thread(events):
        end = float("-inf")
        for event in own:
            if event.ts >= end:
                outermost.append(event)
                end = event.ts + event.dur
    return _rows(
        outermost,
        stream=[_number(event.tid) for event in outermost],
        gpu=[None] * len(outermost),
        nodes=[None] * len(outermost),
        correlation=[-1] * len(outermost),
    )


def _by_thread(events: Sequence[_Event]) -> Iterable[tuple[object, list[_Event]]]:
    threads: dict[object, list[_Event]] = {}
    for event in sorted(events, key=lambda event: (event.ts, -event.dur)):
        threads.setdefault((event.pid, event.tid), []).append(event)
    return threads.items()


def _rows(
    events: Sequence[_Event],
    *,
    stream: list[int],
    gpu: Sequence[int | None],
    nodes: Sequence[int | None],
    correlation: list[int],
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kernel": pd.Series([event.name for event in events], dtype="object"),
            "stream": pd.Series(stream, dtype="int64"),
            "gpu": pd.array(gpu, dtype="Int64"),
            "process": pd.Series([_number(event.pid) for event in events], dtype="int64"),
            "start_s": pd.Series([event.ts / 1e6 for event in events], dtype="float64"),
            "duration_s": pd.Series([event.dur / 1e6 for event in events], dtype="float64"),
            "graph_node": pd.array(nodes, dtype="Int64"),
            "correlation": pd.Series(correlation, dtype="int64"),
        }
    )


def _calls(events: Sequence[_Event]) -> pd.DataFrame:
    arguments: list[Any] = [event.args or _Arguments() for event in events]
    return pd.DataFrame(
        {
            "call": pd.Series([event.name for event in events], dtype="object"),
            "process": pd.Series([_number(event.pid) for event in events], dtype="int64"),
            "thread": pd.Series([_number(event.tid) for event in events], dtype="int64"),
            "start_s": pd.Series([event.ts / 1e6 for event in events], dtype="float64"),
            "duration_s": pd.Series([event.dur / 1e6 for event in events], dtype="float64"),
            "correlation": pd.Series(
                [-1 if each.correlation is None else each.correlation for each in arguments], dtype="int64"
            ),
        }
    )
