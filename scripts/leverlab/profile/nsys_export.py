"""Reads what `nsys export --type=parquetdir` writes: one Parquet file for each table of Nsight Systems' export schema.

Times are nanoseconds. Names are ids of the table StringIds, or text where an exporter has resolved them. `globalTid` holds
a process id in bits 24 to 47 and a thread id in the lower 24; `globalPid` the process id at the same place. Source: NVIDIA,
Nsight Systems user guide, SQLite schema reference; the same columns are in its Parquet export.
"""

import re
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow.parquet as pq

from leverlab.profile.annotations import step_rows
from leverlab.profile.classes import KernelClasses
from leverlab.profile.tables import Trace, assigned

PUSH_POP: Final = 59
"""NVTX_EVENTS.eventType of a range that one thread opened and closed."""

_COPIES: Final = {
    0: "unknown", 1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD", 9: "HtoH", 10: "PtoP",
}  # fmt: skip
_CALL_VERSION: Final = re.compile(r"_v\d+$")
_PROCESS_SHIFT: Final = 24
_THREAD_MASK: Final = 0xFFFFFF


class ExportError(ValueError):
    """An export that lacks what is needed. The text names the table or column."""


def read_nsys_export(folder: Path, classes: KernelClasses) -> Trace:
    """The trace in the export `folder`. Raises ExportError where it holds no kernels."""
    if not _file(folder, "CUPTI_ACTIVITY_KIND_KERNEL").is_file():
        raise ExportError(
            f"{folder} holds no CUPTI_ACTIVITY_KIND_KERNEL.parquet: no kernel ran while the profiler recorded, or the export is of "
            "another kind than parquetdir"
        )
    strings = _strings(folder)
    calls = _calls(folder, strings)
    kernels = pd.concat([_kernels(folder, strings), *_transfers(folder)], ignore_index=True)
    launched = calls.drop_duplicates(["process", "correlation"]).set_index(["process", "correlation"])["start_s"]
    keys = pd.MultiIndex.from_frame(kernels[["process", "correlation"]])
    kernels["launch_s"] = launched.reindex(keys).to_numpy()
    return assigned(
        kernels.drop(columns="correlation"),
        calls.drop(columns="correlation"),
        _steps(folder, strings),
        classes.mapping(kernels["kernel"]),
    )


def _file(folder: Path, table: str) -> Path:
    return folder / f"{table}.parquet"


def _table(folder: Path, table: str, needed: Sequence[str], wanted: Sequence[str] = ()) -> pd.DataFrame:
    """Columns of a table; those `wanted` that an export lacks are null. Empty where the table is not there."""
    path = _file(folder, table)
    if not path.is_file():
        return pd.DataFrame(columns=[*needed, *wanted])
    there = set(pq.read_schema(path).names)
    lacking = [name for name in needed if name not in there]
    if lacking:
        raise ExportError(f"{path}: no column {', '.join(lacking)}; there are {', '.join(sorted(there))}")
    frame: pd.DataFrame = pq.read_table(path, columns=[*needed, *(name for name in wanted if name in there)]).to_pandas(
        integer_object_nulls=True
    )
    for name in wanted:
        if name not in frame:
            frame[name] = pd.NA
    return frame


def _strings(folder: Path) -> dict[int, str]:
    frame = _table(folder, "StringIds", ["id", "value"])
    return dict(zip(frame["id"], frame["value"], strict=True))


def _text(column: "pd.Series[Any]", strings: dict[int, str]) -> "pd.Series[Any]":
    """Names, whether the export holds their ids or themselves."""
    return pd.Series(
        [strings.get(int(value)) if isinstance(value, Integral) else value for value in column],
        index=column.index,
        dtype="object",
    )


def _process(identifier: "pd.Series[Any]") -> "pd.Series[Any]":
    return pd.Series((identifier.to_numpy("int64") >> _PROCESS_SHIFT) & _THREAD_MASK, index=identifier.index)


def _kernels(folder: Path, strings: dict[int, str]) -> pd.DataFrame:
    needed = ["start", "end", "deviceId", "streamId", "correlationId", "globalPid", "shortName"]
    frame = _table(folder, "CUPTI_ACTIVITY_KIND_KERNEL", needed, ["demangledName", "graphNodeId"])
    names = _text(frame["demangledName"], strings) if frame["demangledName"].notna().any() else None
    short = _text(frame["shortName"], strings)
    return _rows(frame, short if names is None else names.fillna(short), frame["graphNodeId"])


def _transfers(folder: Path) -> list[pd.DataFrame]:
    needed = ["start", "end", "deviceId", "streamId", "correlationId", "globalPid"]
    copies = _table(folder, "CUPTI_ACTIVITY_KIND_MEMCPY", [*needed, "copyKind"], ["graphNodeId", "bytes"])
    sets = _table(folder, "CUPTI_ACTIVITY_KIND_MEMSET", needed, ["graphNodeId", "bytes"])
    kinds = copies["copyKind"]
    kinds = kinds.map(lambda kind: _COPIES.get(int(kind), "unknown") if isinstance(kind, Integral) else kind)
    named = [
        (copies, "[CUDA memcpy " + kinds.astype("object").astype(str) + "]"),
        (sets, pd.Series("[CUDA memset]", index=sets.index)),
    ]
    return [
        _rows(frame, names, frame["graphNodeId"]).assign(bytes=_sizes(frame)) for frame, names in named if len(frame)
    ]


def _sizes(frame: pd.DataFrame) -> Any:  # noqa: ANN401 - a nullable array of pandas
    return pd.array([None if pd.isna(size) else int(size) for size in frame["bytes"]], dtype="Int64")


def _rows(frame: pd.DataFrame, names: "pd.Series[Any]", nodes: "pd.Series[Any]") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kernel": names.astype("object"),
            "stream": frame["streamId"].astype("int64"),
            "gpu": frame["deviceId"].astype("Int64"),
            "process": _process(frame["globalPid"]),
            "start_s": frame["start"].astype("int64") / 1e9,
            "duration_s": (frame["end"].astype("int64") - frame["start"].astype("int64")) / 1e9,
            "graph_node": pd.array([_node(node) for node in nodes], dtype="Int64"),
            "correlation": frame["correlationId"].astype("int64"),
        }
    )


def _node(value: Any) -> int | None:  # noqa: ANN401 - a number, or one of pandas' ways to say that there is none
    """0 stands for none. The number has 64 bits without a sign; a graph's nodes differ in the lower ones."""
    return None if pd.isna(value) or int(value) == 0 else int(value) & 0x7FFF_FFFF_FFFF_FFFF


def _calls(folder: Path, strings: dict[int, str]) -> pd.DataFrame:
    needed = ["start", "end", "globalTid", "correlationId", "nameId"]
    frame = _table(folder, "CUPTI_ACTIVITY_KIND_RUNTIME", needed)
    names = _text(frame["nameId"], strings) if len(frame) else pd.Series(dtype="object")
    return pd.DataFrame(
        {
            "call": names.map(lambda name: _CALL_VERSION.sub("", str(name))),
            "process": _process(frame["globalTid"]) if len(frame) else pd.Series(dtype="int64"),
            "thread": frame["globalTid"].astype("int64") & _THREAD_MASK,
            "start_s": frame["start"].astype("int64") / 1e9,
            "duration_s": (frame["end"].astype("int64") - frame["start"].astype("int64")) / 1e9,
            "correlation": frame["correlationId"].astype("int64"),
        }
    )


def _steps(folder: Path, strings: dict[int, str]) -> pd.DataFrame:
    frame = _table(folder, "NVTX_EVENTS", ["start", "end", "globalTid"], ["text", "textId", "eventType"])
    text = frame["text"].astype("object")
    if frame["textId"].notna().any():
        text = text.where(text.notna(), _text(frame["textId"], strings))
    if frame["eventType"].map(lambda kind: isinstance(kind, Integral)).any():
        text = text.where(frame["eventType"] == PUSH_POP)
    known = text.notna() & frame["end"].notna()
    frame, text = frame[known], text[known]
    return step_rows(
        text,
        _process(frame["globalTid"]) if len(frame) else pd.Series(dtype="int64"),
        frame["start"].astype("int64") / 1e9,
        (frame["end"].astype("int64") - frame["start"].astype("int64")) / 1e9,
    )
