"""The table of what twins can be held against, and of what their steps hold: a row a twin."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from leverlab.profile.analysis import DecodeStep
from leverlab.profile.recorders import RAW
from leverlab.report.phrases import joined
from leverlab.report.profiled import PROMPTS, Profiled, Recorded
from leverlab.report.source import StudyData
from leverlab.report.twin_conditions import (
    IN_PART,
    Apart,
    baseline_of,
    between_twins,
    caution,
    from_its_cell,
    in_part,
)
from leverlab.report.view import Cell, Column, Group, Link, Mark, Row, Table
from leverlab.units import format_number, format_seconds, format_share

_UNNAMED_SHARE: Final = 0.05
_UNMARKED_SHARE: Final = 0.01
_UNUSUAL: Final = 0.05
"""Share by which the mean step differs from the median one where both are told."""

_COLUMNS: Final = (
    Column("Treatment"),
    Column("Decode step", "number"),
    Column("TPOT, measured", "number"),
    Column("TPOT of the twin", "number"),
    Column("Slowed by", "number"),
    Column("Steps by kernels", "number"),
    Column("Iterations of the engine", "number"),
    Column("Nothing ran", "number"),
    Column("Computing prompts", "number"),
    Column("Kernels a step", "number"),
    Column("Kernel launches", "number"),
    Column("Graph launches", "number"),
    Column("Communication", "number"),
    Column("Weights alone", "number"),
    Column("Without a class", "number"),
    Column("Files"),
)


def facts_table(data: StudyData, there: Sequence[tuple[str, Profiled, Recorded]], identifier: str) -> Table:
    """A row for each (label, twin, what it recorded)."""
    baseline = baseline_of(data, [twin for _, twin, _ in there])
    answering = Counter(twin.folder for _, twin, _ in there if twin.answers)
    rows = tuple(
        Row(tuple(_cells(data, baseline, label, twin, found, shared=answering[twin.folder] > 1)))
        for label, twin, found in there
    )
    return Table(
        identifier,
        "What the twins show",
        _COLUMNS,
        (Group(rows),),
        "Means over the decode steps of the window. Slowed by: how much longer the median gap between chunks is under the profiler; the twin's TPOT also holds the time in which the profiler writes. A decode step "
        "that is not as long as the gap in the time that was recorded, to within 5 %, is marked, unless a chunk holds the tokens of several steps. Weights alone: the least time in which the memory gives the model's weights, as a "
        "share of the step. Steps by kernels must lie within the engine's own count of iterations, to within the step that runs at each end of the window.",
    )


def _cells(
    data: StudyData, baseline: Profiled | None, label: str, twin: Profiled, found: Recorded, *, shared: bool
) -> Iterator[Cell]:
    """`shared`: its client's times are those of several servers that answer, which no request tells apart."""
    step, record = found.step, twin.record
    assert record is not None
    own_tpot = record.requests.get("tpot_s_p50") if twin.answers else None
    counted = twin.iterations
    of_all = "of all that answer" if shared else ""
    yield _treatment(baseline, label, twin, record.programs.get("nsys", record.tool))
    yield Cell(
        told_seconds(found.step_s),
        Mark("!", "disagrees", "caution") if twin.agrees is False else None,
        note=_usual(found),
    )
    yield _measured(twin, of_all)
    yield Cell(told_seconds(own_tpot), note=of_all if own_tpot is not None else "")
    yield _slowed(twin, of_all)
    yield _steps_cell(found, counted)
    yield Cell("–" if counted is None else f"{counted[0]:g} to {counted[1]:g}")
    yield Cell(format_share(found.idle_share, 1))
    yield _prompts_cell(found)
    yield Cell("–" if step is None else format_number(step.kernels))
    yield _launches(step)
    yield Cell("–" if step is None else format_number(step.graph_launches))
    yield _communication(found)
    floor = record.step_floor_s / found.step_s if record.step_floor_s and found.step_s else None
    yield Cell("–" if floor is None else format_share(floor))
    other = sum(share for _, share in found.other)
    longest = f"{found.other[0][0][:60]}" if other > _UNNAMED_SHARE else ""
    yield Cell(format_share(other, 1), note=longest)
    yield Cell(links=tuple(_links(data, twin)))


def _treatment(baseline: Profiled | None, label: str, twin: Profiled, program: str) -> Cell:
    """Which twin it is, whether a part of one, and than what it was recorded under other conditions: the baseline's twin, the cell
    beside it."""
    elsewhere = Apart() if baseline is None else between_twins(baseline, twin)
    conditions: dict[str, list[str]] = {}
    gpus: dict[str, list[str]] = {}
    for apart, those, whose in (
        (elsewhere, "the baseline's", "the baseline's"),
        (from_its_cell(twin), "those of its measured cell", "its measured cell"),
    ):
        if apart.conditions:
            conditions.setdefault(apart.named, []).append(those)
        elif apart.gpu:
            gpus.setdefault(apart.gpu, []).append(whose)
    told = "; ".join(f"than {joined(others)}: {named}" for named, others in conditions.items())
    note = [program, *in_part(twin.partial), *([f"recorded under other conditions {told}"] if told else [])]
    note += [f"recorded on {gpu} than {joined(others)}" for gpu, others in gpus.items()]
    return Cell(label, caution(elsewhere.word, IN_PART if twin.partial else ""), note="; ".join(note))


def _measured(twin: Profiled, of_all: str) -> Cell:
    """TPOT of the cell, which was measured at another time, and maybe elsewhere."""
    if twin.measured_tpot_s is None:
        return Cell("–")
    return Cell(told_seconds(twin.measured_tpot_s), caution(from_its_cell(twin).word), note=of_all)


def _usual(found: Recorded) -> str:
    """The median step where the mean is another: a few steps waited, for prompts of others, transfers or requests."""
    if found.step_s is None or found.seen is None:
        return ""
    usual_s = float(np.median(found.seen.decode_s))
    return f"median {format_seconds(usual_s)}" if abs(found.step_s / usual_s - 1) > _UNUSUAL else ""


def _slowed(twin: Profiled, of_all: str) -> Cell:
    """What the profiler cost, and in what time: most while it records."""
    if twin.slowed_by is None or twin.record is None:
        return Cell("–")
    recorded = "recorded_chunk_gap_s_p50" in twin.record.requests
    return Cell(
        format_share(twin.slowed_by, signed=True),
        caution(from_its_cell(twin).word),
        note=f"{'while it recorded' if recorded else 'over the whole load'}{of_all and f', {of_all}'}",
    )


def _launches(step: DecodeStep | None) -> Cell:
    """Kernel launches, and what all calls that launch, graphs too, take of the CPU's time."""
    if step is None:
        return Cell("–")
    took = f"with those of graphs {format_seconds(step.launch_calls_s)} of the CPU" if step.launch_calls_s else ""
    return Cell(format_number(step.kernel_launches), note=took)


def _prompts_cell(found: Recorded) -> Cell:
    """Share of the busy time in steps that compute prompts; not told where none is marked while some steps have no mark at all."""
    prompts = found.phase_share(*PROMPTS)
    if not prompts and 1 - found.phase_share("decode") > _UNMARKED_SHARE:
        return Cell("–", note="not marked by the engine")
    tokens = (
        "" if found.prompt_tokens is None else f"; {format_number(found.prompt_tokens)} prompt tokens a step (median)"
    )
    return Cell(format_share(prompts), note=f"of the busy time{tokens if prompts else ''}")


def _steps_cell(found: Recorded, counted: tuple[float, float] | None) -> Cell:
    """Steps by kernels, marked where the engine's own count is another; a step may have begun before either end of the window."""
    if found.seen is None:
        return Cell("–")
    agrees = counted is None or counted[0] - 1 <= found.seen.count <= counted[1] + 1
    return Cell(str(found.seen.count), None if agrees else Mark("!", "disagrees", "caution"))


def _communication(found: Recorded) -> Cell:
    step = found.step
    if step is None or not step.communication_kernels:
        return Cell("–")
    whole = found.step_s or sum(step.class_s.values())
    shown = step.class_s.get("communication", 0.0)
    waited_s = step.communication_wait_s
    waited = (
        "" if waited_s is None else f"; {format_share(waited_s / step.communication_s)} of it waiting for another GPU"
    )
    return Cell(
        f"{format_number(step.communication_kernels)} × {format_seconds(step.communication_s / step.communication_kernels)}",
        note=f"{format_share(shown / whole)} of the step beside nothing else{waited}",
    )


def told_seconds(value: float | None) -> str:
    """A duration for a cell of a table; a dash where there is none."""
    return "–" if value is None else format_seconds(value)


def _links(data: StudyData, twin: Profiled) -> Iterator[Link]:
    assert twin.record is not None
    of_others = tuple(f"{RAW}/{name}/" for name in twin.record.commands if name != twin.server)
    for name in dict.fromkeys(("kernels.parquet", *twin.record.files)):
        if name.startswith(of_others):
            continue
        address = data.address(twin.folder / name)
        if address is not None and name.endswith((".nsys-rep", ".json.gz", "kernels.parquet")):
            yield Link(address, name.rpartition("/")[2])
