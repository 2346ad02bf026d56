"""Moving the KV cache beside computing, for each engine server of a twin: what a transfer takes, and what it adds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from leverlab.report.peer_copies import peer_sentence
from leverlab.report.profiled import Profiled, Recorded
from leverlab.report.view import Cell, Column, Group, Row, Table
from leverlab.units import format_seconds, format_share

_TRANSFER_FLAGS: Final = (
    "kv-transfer-config",
    "disaggregation-mode",
    "kv-offloading-size",
    "enable-hierarchical-cache",
)
"""Flags with which KV blocks leave a server's own cache."""
_NOT_COMPUTING: Final = ("kv_cache", "communication", "copy")
_LONGEST: Final = 2
_CLOCK_S: Final = 1e-9
"""What profilers resolve; a smaller sum of times is rounding."""

_COLUMNS: Final = (
    Column("Server"),
    Column("Window", "number"),
    Column("Computing", "number"),
    Column("Writing the KV cache", "number"),
    Column("Copies", "number"),
    Column("Beside computing", "number"),
    Column("Copies alone", "number"),
    Column("Communication", "number"),
    Column("Nothing ran", "number"),
)


def transfer_table(there: Sequence[tuple[str, Profiled, Recorded]], identifier: str) -> Table | None:
    """A row for each (label, twin, what it recorded) whose KV blocks leave their server; None where there is none."""
    rows = [Row(tuple(_cells(label, found))) for label, twin, found in there if _moves(twin)]
    if not rows:
        return None
    return Table(
        identifier, "Moving the KV cache beside computing", _COLUMNS, (Group(tuple(rows)),),
        "Of the window, in the mean over the server's GPUs. Copies: all that was copied, KV blocks among it, for as long as each copy took; beside computing "
        "it costs the step nothing, alone it adds to it (of copies at the same time each moment counts once). What goes through the network or a file by the CPU is in no kernel: it shows as time in which nothing ran.",
    )  # fmt: skip


def _moves(twin: Profiled) -> bool:
    flags = {} if twin.identity is None else twin.identity["flags"]
    return bool(twin.server) or any(flags.get(name) for name in _TRANSFER_FLAGS)


@dataclass(frozen=True, slots=True)
class Transfers:
    """Seconds of a window, in the mean over a server's GPUs."""

    window_s: float
    computing_s: float
    writing_s: float
    """Kernels that write keys and values into the cache."""
    copies_s: float
    """All copies, for as long as each took."""
    copying_s: float
    """The time in which anything was copied."""
    alone_s: float
    """What of it shows beside nothing else."""
    communication_s: float
    busy_s: float

    @property
    def beside_s(self) -> float:
        """What of the time in which anything was copied is hidden by something else that runs, and is no copy."""
        hidden = self.copying_s - self.alone_s
        return hidden if hidden > _CLOCK_S else 0.0


def transfers(found: Recorded) -> Transfers:
    """Of what a server recorded."""
    by_class = {str(name): float(value) for name, value in found.classes.groupby("class")["time_s"].sum().items()}
    busy_s = sum(by_class.values())
    return Transfers(
        window_s=sum(device.window_s for device in found.devices) / len(found.devices),
        computing_s=busy_s - sum(by_class.get(name, 0.0) for name in _NOT_COMPUTING),
        writing_s=by_class.get("kv_cache", 0.0),
        copies_s=sum(found.copies_s.values()),
        copying_s=found.copying_s,
        alone_s=by_class.get("copy", 0.0),
        communication_s=by_class.get("communication", 0.0),
        busy_s=busy_s,
    )


def transfer_sentence(label: str, twin: Profiled) -> str:
    """What copies take on a server whose KV blocks leave it; empty where they do not, or nothing was recorded."""
    if twin.recorded is None or not _moves(twin):
        return ""
    found = transfers(twin.recorded)
    return (
        f"{label}: of {format_seconds(found.window_s)} it computes {format_share(found.computing_s / found.window_s)}; copies take "
        f"{format_seconds(found.copies_s)}, {format_seconds(found.alone_s)} of it beside nothing else.{peer_sentence(twin.recorded)}"
    )


def _cells(label: str, recorded: Recorded) -> Iterator[Cell]:
    found, window_s = transfers(recorded), transfers(recorded).window_s
    copies = list(recorded.copies_s.items())[:_LONGEST]
    yield Cell(label)
    yield Cell(format_seconds(window_s))
    yield _of(found.computing_s, window_s)
    yield _of(found.writing_s, window_s)
    yield Cell(
        format_seconds(found.copies_s) if found.copies_s else "0 s",
        note="; ".join(f"{name} {format_seconds(seconds)}" for name, seconds in copies),
    )
    yield _of(found.beside_s, window_s)
    yield _of(found.alone_s, window_s)
    yield _of(found.communication_s, window_s)
    yield _of(window_s - found.busy_s, window_s)


def _of(seconds: float, window_s: float) -> Cell:
    return Cell(format_seconds(seconds) if seconds > 0 else "0 s", note=format_share(seconds / window_s, 1))
