"""The twins of a study as its report reads them: what each recorded, in the numbers that are told."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from leverlab.aggregate.pairing import CellRow
from leverlab.config.profile import Tool
from leverlab.config.topology import parts_of
from leverlab.layout import Layout
from leverlab.profile import tables
from leverlab.profile.analysis import (
    DecodeStep,
    Device,
    Steps,
    copies_s,
    copying_s,
    decode_step,
    devices,
    steps_from_kernels,
    time_by_class,
    unnamed,
)
from leverlab.profile.keeping import read_twin, worth
from leverlab.profile.peer_copies import Transfers, peer_transfers
from leverlab.profile.products import LayerProducts, layer_products
from leverlab.profile.twin import COUNTERS
from leverlab.profile.window import Window
from leverlab.records import Reason, TwinRecord

IDLE: Final = "idle"
"""What of a step is in no class."""

PROMPTS: Final = ("prefill", "mixed")
"""Phases of steps that compute prompts."""

_AGREES: Final = 0.05
"""Share by which a step may differ from the gap between its tokens."""
_FEW_PROMPTS: Final = 0.1
"""Share of steps that compute prompts, up to which the median gap is a decode step's."""

_TIMELINE_STEPS: Final = 1.5
_TIMELINE_S: Final = 0.02


@dataclass(frozen=True)
class Recorded:
    """What a twin recorded. Times in seconds, means over the devices."""

    devices: tuple[Device, ...]
    classes: pd.DataFrame
    """Columns phase, class, time_s, over the whole window."""
    step: DecodeStep | None
    seen: Steps | None
    timeline: pd.DataFrame
    """Rows of kernels.parquet of the first device: a step in the middle of the window, and a little more."""
    other: tuple[tuple[str, float], ...]
    prompt_steps: float
    """Marked steps of a process that compute prompts."""
    products: LayerProducts | None
    """None where the model's layers are not known, or not seen in the kernels."""
    copies_s: Mapping[str, float]
    """Kind of copy → its whole time, also beside computation; see `leverlab.profile.analysis.copies_s`."""
    copying_s: float
    """The time in which anything was copied; see `leverlab.profile.analysis.copying_s`."""
    peers: tuple[Transfers, ...] = ()
    """Transfers from another GPU; see `leverlab.profile.peer_copies.peer_transfers`."""
    prompt_tokens: float | None = None
    """Prompt tokens of a marked step that computes any, the median."""

    @property
    def idle_share(self) -> float:
        """Share of the window in which a device ran nothing."""
        return float(np.mean([device.idle_share for device in self.devices]))

    @property
    def idle_causes(self) -> dict[str, float]:
        """Cause → its share of the window, the largest first."""
        whole = sum(device.window_s for device in self.devices)
        causes: dict[str, float] = {}
        for device in self.devices:
            for cause, seconds in device.idle_by_cause_s.items():
                causes[cause] = causes.get(cause, 0.0) + seconds / whole
        return dict(sorted(causes.items(), key=lambda item: -item[1]))

    def phase_share(self, *phases: str) -> float:
        """Share of the time in which something runs that goes to steps of `phases`."""
        own = self.classes["phase"].isin(phases)
        return float(self.classes.loc[own, "time_s"].sum() / self.classes["time_s"].sum())

    @property
    def decodes(self) -> bool:
        """Whether any step gave tokens, be it beside prompts."""
        return bool(set(self.classes["phase"].dropna()) - {"prefill"})

    def prompt_step_s(self) -> dict[str, float]:
        """Class → its time in the mean step that computes prompts, alone or beside decoding; empty where there is none."""
        if not self.prompt_steps:
            return {}
        own = self.classes[self.classes["phase"].isin(PROMPTS)]
        by_class = own.groupby("class", sort=False)["time_s"].sum() / self.prompt_steps
        return {str(name): float(seconds) for name, seconds in by_class.items()}

    @property
    def step_s(self) -> float | None:
        """From one decode step to the next, in the mean; None where kernels tell no steps."""
        if self.seen is None or not len(self.seen.decode_s):
            return None
        return float(self.seen.decode_s.mean())

    def parts_s(self) -> dict[str, float]:
        """Class → its time of a decode step, and `idle`, what is left of the step; of the window's classes where there is none."""
        if self.step is None:
            by_class = self.classes.groupby("class", sort=False)["time_s"].sum()
            busy = {str(name): float(seconds) for name, seconds in by_class.items()}
            window = float(np.mean([device.window_s for device in self.devices]))
        else:
            busy = dict(self.step.class_s)
            window = self.step_s or sum(busy.values())
        return busy | {IDLE: max(window - sum(busy.values()), 0.0)}


@dataclass(frozen=True)
class Profiled:
    """A place of the study's matrix that was to get a twin. `record` is None where there is none, `recorded` where it holds nothing."""

    context: tuple[str, str, str, int]
    load: str
    treatment: str
    server: str
    """Which of several engine servers; empty where one stands alone."""
    answers: bool
    """Whether what it generates reaches the client."""
    folder: Path
    identity: Mapping[str, Any] | None
    """Of the server, with the flags of this engine server; None in tables that do not tell it."""
    record: TwinRecord | None
    recorded: Recorded | None
    counters: pd.DataFrame | None
    """Of a twin by Nsight Compute: `leverlab.profile.ncu.COLUMNS` and the class of each kernel that it looked at."""
    counters_partial: Reason | None
    """Why there are fewer of these than were to be counted."""
    measured_tpot_s: float | None
    """Median TPOT of the measured cell in the twin's replicate; None where it is not there or not valid, and of a server whose tokens
    reach no client."""
    measured_gap_s: float | None
    """The same of the gaps between chunks."""
    cell: CellRow
    """The provenance and the specification of that cell."""

    @property
    def taken(self) -> CellRow:
        """The same of the twin, whose server and load are the cell's."""
        told = self.record.provenance if self.record else None
        provenance = json.dumps(told, sort_keys=True) if told else None  # sorted as in cells.parquet
        return {**self.cell, "provenance": provenance}

    @property
    def partial(self) -> Reason | None:
        """Why less is recorded than was to be."""
        return self.record.partial if self.record and self.recorded else None

    @property
    def gap_s(self) -> float | None:
        """The median gap between chunks under the profiler: while it recorded, where the twin tells it, or over the whole load."""
        requests: Mapping[str, float] = self.record.requests if self.record else {}
        return requests.get("recorded_chunk_gap_s_p50", requests.get("chunk_gap_s_p50"))

    @property
    def slowed_by(self) -> float | None:
        """By what share that is longer than the measured cell's; None of a server whose tokens reach no client."""
        return self.gap_s / self.measured_gap_s - 1 if self.gap_s and self.measured_gap_s else None

    @property
    def agrees(self) -> bool | None:
        """Whether the median decode step, by its kernels, is as long as the gap that the twin's client saw while they were recorded.

        None where the client tells no such gap, where it is that of several servers or of several steps, whose tokens come as one chunk,
        and where so many steps compute prompts that the median gap is none of a mere decode step.
        """
        seen = self.recorded.seen if self.recorded else None
        gap_s = self.record.requests.get("recorded_chunk_gap_s_p50") if self.record and not self.server else None
        if not gap_s or self.recorded is None or seen is None or not len(seen.decode_s):
            return None
        if self.recorded.prompt_steps > _FEW_PROMPTS * seen.count or self._steps_a_chunk > 1:
            return None
        return abs(float(np.median(seen.decode_s)) / gap_s - 1) <= _AGREES

    @property
    def _steps_a_chunk(self) -> int:
        """How many tokens of a stream the server gathers before it sends them; vLLM and SGLang have the same flag."""
        flags: Mapping[str, Any] = (self.identity or {}).get("flags", {})
        return int(flags.get("stream-interval", 1))

    @property
    def iterations(self) -> tuple[float, float] | None:
        """The least and the most iterations of this engine server in the window; None where it does not count them."""
        return self.window.iterations_of(self.server)

    @property
    def window(self) -> Window:
        known = Window.__dataclass_fields__
        written: Mapping[str, Any] = self.record.window if self.record else {}
        return Window(**{name: value for name, value in written.items() if name in known})


def read_profiles(layout: Layout, cells: pd.DataFrame, loads: list[str], treatments: list[str]) -> tuple[Profiled, ...]:
    """The twins of the rows of `cells` (as cells.parquet) at `loads`, of `treatments`; each treatment's once per context and load.

    Of several engine servers each has an entry of its own; one for all where nothing was recorded.
    """
    return tuple(twin for row in _rows(cells, loads, treatments) for twin in _profiled(layout, row))


def _rows(cells: pd.DataFrame, loads: list[str], treatments: list[str]) -> Iterator[Mapping[str, Any]]:
    wanted = cells[cells["load"].isin(loads) & cells["treatment"].isin(treatments)]
    first = wanted[wanted["replicate"] == "r1"]
    order = {name: number for number, name in enumerate(treatments)}
    rows: list[Mapping[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in first.to_dict("records")
    ]
    return iter(sorted(rows, key=lambda row: (loads.index(row["load"]), order[row["treatment"]])))


def _profiled(layout: Layout, row: Mapping[str, Any]) -> Iterator[Profiled]:
    server, phase = str(row["server"]), str(row["phase"])
    found: list[tuple[Path, TwinRecord]] = []
    for tool in get_args(Tool):
        folder = layout.profile(server, phase, tool)
        record = read_twin(folder)
        if record is not None:
            found.append((folder, record))
    # Counters alone are no recording: a part of one says more of what ran.
    found.sort(key=lambda each: (each[1].outcome != "recorded", each[1].tool == "ncu", -worth(each[1])))
    folder, record = found[0] if found else (layout.profile(server, phase, ""), None)
    valid = row["status"] == "measured" and row["checks"] != "invalid"
    identity = json.loads(row["specification"]).get("server")
    whole = Profiled(
        (str(row["engine"]), str(row["model"]), str(row["gpu"]), int(row["gpu_count"])),
        str(row["load"]),
        str(row["treatment"]),
        "",
        True,
        folder,
        identity,
        record,
        None,
        *_counters(layout.profile(server, phase, "ncu")),
        _known(row.get("tpot_s_p50")) if valid else None,
        _known(row.get("chunk_gap_s_p50")) if valid else None,
        {name: row[name] for name in ("provenance", "specification")},
    )
    recorded = _recorded(folder, record) if record is not None and record.outcome == "recorded" else {}
    if record is None or not record.commands or not recorded:
        yield replace(whole, recorded=next(iter(recorded.values()), None))
        return
    parts = {} if identity is None else {part.name: part for part in parts_of(identity)}
    for name in record.commands:
        part = parts.get(name)
        answers = part is None or part.answers
        own = None if part is None else {**identity, "flags": part.flags, "environment": part.environment}
        yield replace(
            whole,
            server=name,
            answers=answers,
            identity=own,
            recorded=recorded.get(name),
            measured_tpot_s=whole.measured_tpot_s if answers else None,
            measured_gap_s=whole.measured_gap_s if answers else None,
        )


def _counters(folder: Path) -> tuple[pd.DataFrame | None, Reason | None]:
    """What Nsight Compute counted, also where another profiler's twin of the same cell is the one that is told; and why that is a part."""
    if not (folder / COUNTERS).is_file():
        return None, None
    record = read_twin(folder)
    return pd.read_parquet(folder / COUNTERS), record.partial if record else None


def _known(value: Any) -> float | None:  # noqa: ANN401 - a number, or one of pandas' ways to say that there is none
    return None if value is None or value != value else float(value)


def _recorded(folder: Path, record: TwinRecord) -> dict[str, Recorded]:
    """Engine server → what it recorded; empty where the tables are not here, or cannot be read."""
    try:
        trace = tables.read(folder)
    except (FileNotFoundError, pa.ArrowInvalid):
        return {}
    recorded_s = record.window.get("recorded_s") or 0.0
    return {name: _told(own, record.layers, recorded_s) for name, own in trace.servers.items()}


def _told(trace: tables.Trace, layers: int | None, recorded_s: float) -> Recorded:
    seen = steps_from_kernels(trace, layers) if layers else None
    step_s = float(np.median(seen.decode_s)) if seen is not None and len(seen.decode_s) else None
    prompts = trace.steps.loc[trace.steps["phase"].isin(PROMPTS), "prefill_tokens"]
    return Recorded(
        tuple(devices(trace, recorded_s)),
        time_by_class(trace),
        decode_step(trace),
        seen,
        _middle(trace, seen),
        tuple(unnamed(trace)),
        _prompt_steps(trace),
        layer_products(trace, layers) if layers else None,
        copies_s(trace),
        copying_s(trace),
        peer_transfers(trace, step_s),
        float(prompts.median()) if len(prompts) else None,
    )


def _prompt_steps(trace: tables.Trace) -> float:
    processes = trace.steps["process"].nunique()
    return float(trace.steps["phase"].isin(PROMPTS).sum() / processes) if processes else 0.0


def _middle(trace: tables.Trace, seen: Steps | None) -> pd.DataFrame:
    """The kernels of the first device in a step and a half about the middle of the window, from a decode step on where one is marked."""
    kernels = trace.devices[0][1]
    end = float((kernels["start_s"] + kernels["duration_s"]).max())
    long_s = _TIMELINE_S
    if seen is not None and len(seen.decode_s):
        long_s = _TIMELINE_STEPS * float(np.median(seen.decode_s))
    begin = max((end - long_s) / 2, 0.0)
    if seen is not None:
        first = kernels[kernels["kernel"] == seen.anchor]
        decodes = first[first["phase"] == "decode"]
        anchors = (first if decodes.empty else decodes)["start_s"].to_numpy(float)
        later = anchors[anchors >= begin]
        begin = float(later[0]) if len(later) else begin
    inside = (kernels["start_s"] + kernels["duration_s"] > begin) & (kernels["start_s"] < begin + long_s)
    own = kernels[inside]
    return own.assign(start_s=own["start_s"] - begin)
