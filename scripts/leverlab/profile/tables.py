"""The tables that every profiler's trace is brought into: kernels, calls that launched them, and the engine's steps."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PhaseName = Literal["prefill", "decode", "mixed"]

TABLE_VERSION: Final = 4
"""2: times are whole nanoseconds. 3: calls.parquet has the `KEPT_CALLS` alone, and other_calls.parquet counts the others.
4: kernels.parquet has `bytes`."""

KEPT_CALLS: Final = re.compile("launch|memcpy|memset|prefetch|synchronize|wait|alloc|free", re.IGNORECASE)
"""What is found in the names of calls that are kept one by one: they launch, copy, wait, or hold up the device for memory. The others ask or
note something; a NIXL server that polls for its transfers makes three in four of them."""


def _field(name: str, kind: pa.DataType, unit: str, definition: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "definition": definition})


_NAME: Final = pa.dictionary(pa.int32(), pa.string())

_SERVER: Final = _field(
    "server", _NAME, "", "the engine server (`prefill`, `replica-2`); null where there is one alone"
)

KERNELS: Final[pa.Schema] = pa.schema(
    [
        _field("kernel", _NAME, "", "name of the kernel, copy or, on a CPU, outermost operator"),
        _field("class", _NAME, "", "what config/kernel_classes.yaml calls it"),
        _field("stream", pa.int64(), "", "CUDA stream; on a CPU the thread"),
        _field("gpu", pa.int64(), "", "index of the GPU among those that the server sees; null on a CPU"),
        _field("process", pa.int64(), "", "id of the process that launched it"),
        _field("start_ns", pa.int64(), "ns", "when it began, from the first event of the window"),
        _field("duration_ns", pa.int64(), "ns", "how long it ran"),
        _field("graph_node", pa.int64(), "", "node of the CUDA graph that ran it; null where it was launched alone"),
        _field("launch_ns", pa.int64(), "ns", "when the call began that launched it or its graph; null where unknown"),
        _field("step", pa.int64(), "", "row of steps.parquet by the process's own count; null where unknown"),
        _field("phase", _NAME, "", "prefill, decode or mixed: the batch of its step; null where unknown"),
        _field(
            "bytes",
            pa.int64(),
            "bytes",
            "what a copy or memset moved; null of a kernel, and where the profiler does not tell",
        ),
        _SERVER,
    ]
)

_CALL: Final = _field("call", _NAME, "", "name of the CUDA call, without the version that some profilers append")

CALLS: Final[pa.Schema] = pa.schema(
    [
        _CALL,
        _field("process", pa.int64(), "", "id of the calling process"),
        _field("thread", pa.int64(), "", "id of the calling thread"),
        _field("start_ns", pa.int64(), "ns", "when it began, on the clock of kernels.parquet"),
        _field("duration_ns", pa.int64(), "ns", "how long it took"),
        _field("step", pa.int64(), "", "the step in which it was made; null where unknown"),
        _SERVER,
    ]
)

OTHER_CALLS: Final[pa.Schema] = pa.schema(
    [
        _CALL,
        _field("process", pa.int64(), "", "id of the calling process"),
        _field("count", pa.int64(), "1", "how often it was made in the window"),
        _field("duration_ns", pa.int64(), "ns", "how long all of them took together"),
        _SERVER,
    ]
)

STEPS: Final[pa.Schema] = pa.schema(
    [
        _field("step", pa.int64(), "", "the process's own count of steps in the window, from 0"),
        _field("process", pa.int64(), "", "id of the process"),
        _field("start_ns", pa.int64(), "ns", "when the engine began it on the CPU"),
        _field("duration_ns", pa.int64(), "ns", "how long the CPU was in it"),
        _field("prefill_requests", pa.int64(), "1", "requests whose prompts were computed in it"),
        _field("prefill_tokens", pa.int64(), "tokens", "their tokens in it"),
        _field("decode_requests", pa.int64(), "1", "requests that were given a token in it"),
        _field("decode_tokens", pa.int64(), "tokens", "their tokens in it, drafts included"),
        _field("phase", _NAME, "", "prefill, decode or mixed"),
        _SERVER,
    ]
)


_NS: Final = "_ns"
_START: Final = "start_ns"
_LEVEL: Final = 15
"""Of zstd's compression: what is above it makes these tables no smaller."""


def columns(names: Iterable[str]) -> list[str]:
    """The columns of a `Trace` for those of its file, which has whole nanoseconds (`start_ns`) where this has seconds (`start_s`)."""
    return [f"{name.removesuffix(_NS)}_s" if name.endswith(_NS) else name for name in names]


_SORT_OF_CALL: Final = ["call", "process", "server"]

ALONE: Final = "server"
"""What an engine server is called that stands alone."""


@dataclass(frozen=True)
class Trace:
    """A window in tables. Columns as in `KERNELS`, `CALLS`, `STEPS`, `OTHER_CALLS`, but times are seconds: see `columns`.

    `calls` are all that were recorded until they are written, and then the `KEPT_CALLS`; `other_calls` those that are not among them.
    """

    kernels: pd.DataFrame
    calls: pd.DataFrame
    steps: pd.DataFrame
    other_calls: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=columns(OTHER_CALLS.names)))

    @property
    def _tables(self) -> tuple[pd.DataFrame, ...]:
        return self.kernels, self.calls, self.steps, self.other_calls

    @property
    def devices(self) -> list[tuple[str, pd.DataFrame]]:
        """(name, its kernels) of every GPU, or of the CPU's threads together."""
        if self.kernels["gpu"].isna().all():
            return [("cpu", self.kernels)] if len(self.kernels) else []
        return [(f"gpu {gpu}", own) for gpu, own in self.kernels.groupby("gpu")]

    @property
    def servers(self) -> dict[str, "Trace"]:
        """Engine server → what it did; one that stands alone is called `ALONE`. Each has a clock and GPUs of its own."""
        names = self.kernels["server"].dropna().unique()
        return {str(name): Trace(*self._of(name)) for name in names} if len(names) else {ALONE: self}

    def _of(self, server: str) -> list[pd.DataFrame]:
        return [table[table["server"] == server] for table in self._tables]

    def summarised(self) -> "Trace":
        """The trace with the `KEPT_CALLS` alone; the others are counted."""
        kept = self.calls["call"].astype(str).str.contains(KEPT_CALLS)
        left_out = self.calls.loc[~kept, [*_SORT_OF_CALL, "duration_s"]].assign(count=1)
        counted = [each for each in (self.other_calls, left_out) if len(each)]
        if not counted:
            return self
        others = pd.concat(counted).groupby(_SORT_OF_CALL, dropna=False, as_index=False).sum()
        return Trace(self.kernels, self.calls[kept], self.steps, others)


def phase_of(prefill_requests: int, decode_requests: int) -> PhaseName | None:
    """What a batch of so many requests is; None for an empty one."""
    if prefill_requests and decode_requests:
        return "mixed"
    return "prefill" if prefill_requests else "decode" if decode_requests else None


def assigned(kernels: pd.DataFrame, calls: pd.DataFrame, steps: pd.DataFrame, classes: Mapping[str, str]) -> Trace:
    """A trace from what a profiler's reader found.

    `kernels`: kernel, stream, gpu, process, start_s, duration_s, graph_node, launch_s; `calls` without `step`; `steps` with
    process, start_s, duration_s and the four counts. `classes` maps names to classes. What was launched after a step of its
    process began, and before the next, belongs to it: sampling follows the forward pass outside of the engine's own mark.
    On a CPU, where nothing is launched, its own start counts.
    """
    steps = steps.sort_values(["process", "start_s"]).reset_index(drop=True)
    phases = [phase_of(*counts) for counts in zip(steps["prefill_requests"], steps["decode_requests"], strict=True)]
    steps = steps.assign(phase=pd.Series(phases, dtype="object"))[
        np.array([phase is not None for phase in phases], dtype=bool)
    ]
    steps = steps.assign(step=steps.groupby("process").cumcount()) if len(steps) else steps.assign(step=[])
    kernels = kernels.sort_values("start_s").reset_index(drop=True)
    kernels["class"] = kernels["kernel"].map(classes)
    if "bytes" not in kernels:  # of a CPU, which copies nothing
        kernels["bytes"] = pd.NA
    when = kernels["launch_s"].where(kernels["launch_s"].notna(), kernels["start_s"])
    kernels["step"] = step_of(kernels["process"], when, steps)
    calls = calls.assign(step=step_of(calls["process"], calls["start_s"], steps))
    known = steps.set_index(["process", "step"])["phase"] if len(steps) else pd.Series(dtype="object")
    kernels["phase"] = [known.get((p, s)) for p, s in zip(kernels["process"], kernels["step"], strict=True)]
    origin = min((float(each["start_s"].min()) for each in (kernels, calls, steps) if len(each)), default=0.0)
    shifted = [each.assign(start_s=each["start_s"].astype(float) - origin) for each in (kernels, calls, steps)]
    shifted[0]["launch_s"] = shifted[0]["launch_s"] - origin
    return Trace(*(each.assign(server=None) for each in shifted))


def together(traces: Mapping[str, Trace]) -> Trace:
    """The traces of engine servers, at least one, in one: each row with its server, times on each server's own clock."""
    named = [
        [table.assign(server=name) for table in (trace.kernels, trace.calls, trace.steps, trace.other_calls)]
        for name, trace in traces.items()
    ]
    return Trace(*(pd.concat(tables, ignore_index=True) for tables in zip(*named, strict=True)))


def step_of(process: "pd.Series[Any]", when: "pd.Series[float]", steps: pd.DataFrame) -> "pd.Series[Any]":
    """The last of the `steps` (ordered by their start) that each process had begun by `when`; null before its first."""
    found = pd.Series(pd.NA, index=process.index, dtype="Int64")
    for own, rows in steps.groupby("process"):
        here = process == own
        position = np.searchsorted(rows["start_s"].to_numpy(float), when[here].to_numpy(float), side="right") - 1
        numbers = rows["step"].to_numpy()[np.maximum(position, 0)]
        found[here] = pd.array(np.where(position < 0, -1, numbers), dtype="Int64")
    return found.mask(found == -1)


FILES: Final = {"kernels": KERNELS, "calls": CALLS, "other_calls": OTHER_CALLS, "steps": STEPS}


def write(trace: Trace, folder: Path) -> None:
    """Write the tables as Parquet into `folder`, of the calls that are not kept their number and time.

    Profilers count nanoseconds. Kept whole, the starts as differences and other numbers with their bytes of equal place together, they take a
    quarter of what seconds take.
    """
    summarised = trace.summarised()
    for name, schema in FILES.items():
        frame: pd.DataFrame = getattr(summarised, name)
        own = [frame[column] if len(frame) else pd.Series(dtype="object") for column in columns(schema.names)]
        arrays = [_array(column, field) for column, field in zip(own, schema, strict=True)]
        about = {"leverlab_table": name, "leverlab_table_version": str(TABLE_VERSION)}
        encoded = {field.name: "BYTE_STREAM_SPLIT" for field in schema if field.type == pa.int64()}
        if _START in encoded:
            encoded[_START] = "DELTA_BINARY_PACKED"
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=schema.with_metadata(about)),
            folder / f"{name}.parquet",
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=[column for column in schema.names if column not in encoded],
            column_encoding=encoded,
            write_statistics=False,  # the tables are read whole
        )


def _array(column: "pd.Series[Any]", field: pa.Field) -> pa.Array:
    if field.name.endswith(_NS):
        column = (column.astype("float64") * 1e9).round().astype("Int64")
    values = pa.array(column.astype("object").where(column.notna(), None), from_pandas=True)
    if pa.types.is_dictionary(field.type):
        return values.cast(pa.string()).dictionary_encode()
    return values.cast(field.type)


def read(folder: Path) -> Trace:
    """The tables kept in `folder`. Raises FileNotFoundError."""
    paths = {name: folder / f"{name}.parquet" for name in FILES}
    if not paths["other_calls"].is_file():  # version 2 had every call among the kept
        del paths["other_calls"]
    found = {name: pq.read_table(path).to_pandas() for name, path in paths.items()}
    for name, frame in found.items():
        if "server" not in frame:  # tables from before there were twins of several
            frame["server"] = None
        if name == "kernels" and "bytes" not in frame:  # tables before version 4
            frame["bytes"] = pd.NA
        for column in frame.columns:
            if isinstance(frame[column].dtype, pd.CategoricalDtype):
                frame[column] = frame[column].astype("object").where(frame[column].notna(), None)
            elif column in ("step", "gpu", "graph_node", "bytes"):
                frame[column] = frame[column].astype("Int64")
            elif column.endswith(_NS):  # version 1 had seconds
                frame[column] = frame[column].astype("float64") / 1e9
        frame.columns = pd.Index(columns(frame.columns))
    return Trace(**found)
