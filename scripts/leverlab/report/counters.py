"""What Nsight Compute counted of chosen kernels: in sentences, as a table, and as marks in the roofline figure."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd

from leverlab.report.kernel_words import KERNEL_WORDS
from leverlab.report.twin_facts import told_seconds
from leverlab.report.view import Cell, Column, Group, Row, Table
from leverlab.units import format_number, format_share

_WRAPPERS: Final = {
    "void",
    "cutlass::device_kernel",
    "cutlass::Kernel",
    "cutlass::Kernel2",
    "flash::enable_sm90_or_later",
}
"""What stands round the name of a kernel, and is that of many."""

_TITLES: Final = (
    "Class",
    "Kernel",
    "Launches",
    "Time",
    "Of the multiprocessors'",
    "Of the memory system's",
    "Of the memory's bandwidth",
    "Rate",
    "Intensity",
)


def counter_sentences(short: str, counters: pd.DataFrame | None) -> Iterator[str]:
    """A sentence for each class of kernels that was looked at; `short` names the treatment.

    A class has kernels of some microseconds beside those that take its time, so that its shares are means over its time.
    """
    if counters is None or not len(counters):
        return
    for name, own in counters.groupby("class"):
        launches = "1 launch" if len(own) == 1 else f"{len(own)} launches, weighted by their time"
        compute, dram = _over_time(own, "compute_share"), _over_time(own, "dram_share")
        yield (
            f"{short}, {KERNEL_WORDS[str(name)]}: the busiest part of the multiprocessors at {format_share(compute)} of its peak, and "
            f"{format_share(dram)} of the memory's bandwidth ({launches})."
        )


def counter_table(twins: Sequence[tuple[str, pd.DataFrame | None]], identifier: str) -> Table | None:
    """A row for each kernel of each (label, counters); None where nothing was counted."""
    groups = [
        Group(tuple(_row(own) for own in _kernels(counters)), label)
        for label, counters in twins
        if counters is not None and len(counters)
    ]
    if not groups:
        return None
    columns = tuple(Column(title, "number" if place > 1 else "") for place, title in enumerate(_TITLES))
    return Table(
        identifier, "Counters of kernels", columns, tuple(groups),
        "Medians over the launches of each kernel that Nsight Compute looked at, each alone on the GPU with caches emptied before; rate and intensity by the "
        "operations and the bytes of memory that it counted. Of the multiprocessors' and of the memory system's peak: that of the part of each that is busiest. A matrix product that runs with several shapes has a row for each. What is nearest to its peak bounds the "
        "kernel. Operations are those that the GPU did: of a tile of 8 rows that holds one request it does all eight, so that at few streams rate and intensity "
        "lie above what the model asks for. It looks at the first kernels that come in the middle of the load: at one stream those of a decode step. The server's "
        "KV cache is made no larger than the load needs, where that is known.",
    )  # fmt: skip


def counted_rates(counters: pd.DataFrame | None) -> Iterator[tuple[str, float, float]]:
    """(class, FLOP/byte, FLOP/s) of each kernel of which operations and bytes were counted."""
    for own in [] if counters is None else _kernels(counters):
        rate = _rate(own)
        if rate is not None:
            yield str(own["class"].iloc[0]), *rate


def _kernels(counters: pd.DataFrame) -> list[pd.DataFrame]:
    """The launches of each kernel, by its whole name, first of the kernel that took longest. Of a matrix product those of one shape: one kernel
    serves several, told apart by their operations."""
    flop = counters["flop"] if "flop" in counters else pd.Series(float("nan"), counters.index)
    shape = flop.astype(float).where(counters["class"] == "gemm").rename("shape")
    own = [launches for _, launches in counters.groupby(["class", "kernel", shape], sort=False, dropna=False)]
    return sorted(own, key=lambda launches: -float(launches["duration_s"].sum()))


def _over_time(own: pd.DataFrame, column: str) -> float:
    known = own[own[column].notna() & own["duration_s"].notna()]
    return (
        float((known[column] * known["duration_s"]).sum() / known["duration_s"].sum()) if len(known) else float("nan")
    )


def _rate(own: pd.DataFrame) -> tuple[float, float] | None:
    """(FLOP/byte, FLOP/s); None where operations, bytes or time of a launch are not known, and of a kernel that has none."""
    if not {"flop", "dram_bytes"} <= set(own.columns) or own[["flop", "dram_bytes", "duration_s"]].isna().any(
        axis=None
    ):
        return None
    flop, moved, seconds = (float(own[name].astype(float).sum()) for name in ("flop", "dram_bytes", "duration_s"))
    return (flop / moved, flop / seconds) if flop and moved and seconds else None


def _row(own: pd.DataFrame) -> Row:
    middle = own.median(numeric_only=True)
    shares = (middle.get(column, float("nan")) for column in ("compute_share", "memory_share", "dram_share"))
    rate = _rate(own)
    rates = (
        ("–", "–")
        if rate is None
        else (f"{format_number(rate[1] / 1e12)} TFLOP/s", f"{format_number(rate[0])} FLOP/byte")
    )
    return Row((
        Cell(KERNEL_WORDS[str(own["class"].iloc[0])]),
        Cell(_bare(str(own["kernel"].iloc[0]))),
        Cell(str(len(own))),
        Cell(told_seconds(float(middle["duration_s"]))),
        *(Cell("–" if share != share else format_share(share)) for share in shares),
        *map(Cell, rates),
    ))  # fmt: skip


def _bare(kernel: str) -> str:
    """The name of a kernel without its parameters, and without what it is wrapped in."""
    return next((name for name in re.findall(r"[\w:]+", kernel) if name not in _WRAPPERS), kernel)
