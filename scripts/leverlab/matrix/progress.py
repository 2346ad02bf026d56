"""What of a matrix is measured: read from the cells' records, cheaply, for thousands of cells at every start."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from leverlab.layout import CELL_FILE, Layout
from leverlab.matrix.expand import Job
from leverlab.records import Status


class CellSummary(msgspec.Struct, frozen=True):
    """What of a cell's record says how it went and how long it took."""

    status: Status
    duration_s: float
    trial: int


_DECODER: Final = msgspec.json.Decoder(CellSummary)


def read_summary(folder: Path) -> CellSummary | None:
    """The summary of the cell kept in `folder`; None where there is no record, or none that can be read."""
    try:
        return _DECODER.decode((folder / CELL_FILE).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None


def measured(layout: Layout, job: Job) -> dict[str, CellSummary]:
    """Phase → summary, of the job's cells that have a record."""
    folder = layout.replicate(job.server.id, str(job.replicate)) / "cells"
    if not folder.is_dir():
        return {}
    found = ((cell.phase.id, read_summary(folder / cell.phase.id)) for cell in job.cells)
    return {phase: summary for phase, summary in found if summary is not None}


def missing_phases(job: Job, found: Mapping[str, CellSummary], retry_failed: bool) -> list[str]:
    """The phases that the job is still to measure.

    Those without a record, those that were skipped and are wanted now, and, where asked for, those that failed.
    """
    return [
        cell.phase.id
        for cell in job.cells
        if cell.phase.id not in found
        or is_due(found[cell.phase.id].status, retry_failed, cell.phase.stop_after_saturation)
    ]


def is_due(status: Status, retry_failed: bool, stop_after_saturation: bool) -> bool:
    """Whether a cell that has a record is to be measured all the same."""
    return (status == "failed" and retry_failed) or (status == "skipped" and not stop_after_saturation)


def recorded_at_ns(layout: Layout, job: Job, phases: Iterable[str]) -> int:
    """When the last of the job's `phases` was recorded, in nanoseconds since the epoch."""
    replicate = str(job.replicate)
    return max((layout.cell(job.server.id, replicate, phase) / CELL_FILE).stat().st_mtime_ns for phase in phases)


class _Trial(msgspec.Struct):
    outcome: str
    started_at: datetime
    ended_at: datetime | None = None
    phases: list[str] = []


_TRIAL_DECODER: Final = msgspec.json.Decoder(_Trial)


def overheads_s(layout: Layout, job: Job, found: Mapping[str, CellSummary]) -> list[float]:
    """What each finished trial of the job's server and replicate took besides its cells: start, warm-up, stop.

    `found` is what `measured` says of the job; a trial that measured other cells as well is left out.
    """
    durations = []
    for path in (layout.replicate(job.server.id, str(job.replicate)) / "trials").glob("*/trial.json"):
        try:
            trial = _TRIAL_DECODER.decode(path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            continue
        own = [found[phase] for phase in trial.phases if phase in found and str(found[phase].trial) == path.parent.name]
        if trial.outcome == "finished" and trial.ended_at is not None and len(own) == len(trial.phases):
            whole_s = (trial.ended_at - trial.started_at).total_seconds()
            durations.append(whole_s - sum(summary.duration_s for summary in own))
    return durations
