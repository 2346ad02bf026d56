"""Transfers between GPUs in a table and in words: of how many copies one is made, how long it takes, and how fast that is."""

from collections.abc import Iterator, Sequence
from typing import Final

from leverlab.profile.peer_copies import Transfers
from leverlab.report.phrases import joined
from leverlab.report.profiled import Recorded
from leverlab.report.view import Cell, Column, Group, Row, Table
from leverlab.units import format_number, format_seconds, format_share

_GIGA: Final = 1e9
_BINARY: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SAME: Final = 0.05
"""Share by which the bytes of two transfers differ that are called as large."""

_COLUMNS: Final = (
    Column("Server"),
    Column("Transfers", "number"),
    Column("Copies of one", "number"),
    Column("Bytes of one", "number"),
    Column("It takes", "number"),
    Column("Rate", "number"),
    Column("Copying", "number"),
    Column("Size of a copy", "number"),
    Column("A copy takes", "number"),
)


def peer_table(there: Sequence[tuple[str, Recorded]], identifier: str) -> Table | None:
    """A row for each kind of transfers of each (label, what it recorded) that copies from another GPU; None where none does."""
    rows = [Row(tuple(_cells(label, kind))) for label, found in there for kind in found.peers]
    if not rows:
        return None
    return Table(
        identifier, "Transfers between GPUs", _COLUMNS, (Group(tuple(rows)),),
        "Medians over the transfers of the window; a copy is the mean one of its transfer. Transfers: copies from another GPU to one of the server's that follow each "
        "other within the time of a decode step; two at the same time are told as one, and one that an end of the window cuts as far as it was seen. Those of many copies stand apart from those of few. Copying: the share of a transfer in which any of its copies ran; in the rest "
        "the next one had not been asked for.",
    )  # fmt: skip


def _cells(label: str, kind: Transfers) -> Iterator[Cell]:
    yield Cell(label)
    yield Cell(str(len(kind.transfers)))
    yield Cell(format_number(kind.copies), note=_range(kind))
    yield Cell(_bytes(kind.moved))
    yield Cell(format_seconds(kind.duration_s))
    yield Cell("–" if kind.rate is None else f"{format_number(kind.rate / _GIGA)} GB/s")
    yield Cell(format_share(kind.copying_share))
    yield Cell(_bytes(kind.copy_bytes))
    yield Cell(format_seconds(kind.copy_s))


def _range(kind: Transfers) -> str:
    counts = [each.copies for each in kind.transfers]
    return "" if min(counts) == max(counts) else f"{format_number(min(counts))} to {format_number(max(counts))}"


def _bytes(size: float | None) -> str:
    if size is None:
        return "–"
    unit, factor = next(((unit, factor) for unit, factor in _BINARY if size >= factor), ("bytes", 1))
    return f"{format_number(size / factor)} {unit}"


def peer_sentence(found: Recorded) -> str:
    """How many copies between GPUs a server makes, in how many transfers, and how fast those are; empty where it makes none."""
    if not found.peers:
        return ""
    copies = sum(each.copies for kind in found.peers for each in kind.transfers)
    transfers = sum(len(kind.transfers) for kind in found.peers)
    told = joined([_kind(kind) for kind in found.peers])
    return f" {copies:,} copies from another GPU make {transfers} transfers: {told}.{_compared(found.peers)}"


def _kind(kind: Transfers) -> str:
    count = _range(kind)
    median_of = ", in the median" if count else ""
    size = "" if kind.copy_bytes is None else f" of {_bytes(kind.copy_bytes)}"
    rate = "" if kind.rate is None else f", {format_number(kind.rate / _GIGA)} GB/s"
    return (
        f"{len(kind.transfers)} of {count or format_number(kind.copies)} copies{median_of}{size} that take {format_seconds(kind.duration_s)}{rate}, a copy "
        f"being under way {format_share(kind.copying_share)} of the time"
    )


def _compared(kinds: Sequence[Transfers]) -> str:
    """What the number of copies costs, where as much is moved by many and by few."""
    if len(kinds) == 1 or kinds[0].moved is None or kinds[1].moved is None:
        return ""
    many, few = kinds
    if abs(kinds[0].moved / kinds[1].moved - 1) > _SAME:
        return ""
    times, copies = many.duration_s / few.duration_s, many.copies / few.copies
    return (
        f" The same {_bytes(kinds[0].moved)} in {format_number(copies)} times as many copies take {format_number(times)} times as long, by the medians: "
        "blocks that lie side by side on both GPUs can be copied together, scattered ones each alone."
    )


def peer_changes(before: Recorded, after: Recorded, telling: float) -> Iterator[str]:
    """What of a transfer differs between two servers by more than the share `telling`. Nothing where one makes transfers of two kinds: none is as
    their median."""
    if len(before.peers) != 1 or len(after.peers) != 1:
        return
    old, new = before.peers[0], after.peers[0]
    copies = [old.copies, new.copies]
    took_s = [old.duration_s, new.duration_s]
    if _differ(copies, telling):
        yield f"copies of a transfer between GPUs {' → '.join(map(format_number, copies))}"
    if _differ(took_s, telling):
        yield f"a transfer between GPUs takes {' → '.join(map(format_seconds, took_s))}"


def _differ(sides: Sequence[float], telling: float) -> bool:
    return max(sides) - min(sides) > telling * max(sides)
