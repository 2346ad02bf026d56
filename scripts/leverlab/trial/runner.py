"""A job from end to end: trials of one server until each of its cells has a record."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from leverlab.engines import engine_for
from leverlab.identity import seed_from
from leverlab.layout import Layout
from leverlab.load.plan import read_requests
from leverlab.matrix.progress import is_due
from leverlab.records import JobRecord, JobSpecification, PhaseSpecification, Reason, Status
from leverlab.trial.abandoned import close_abandoned_trials
from leverlab.trial.cell_files import DamagedCellError, clear_leftovers, read_cell
from leverlab.trial.history import has_served
from leverlab.trial.job import Job
from leverlab.trial.lease import DevicesUnavailableError, LeaseHeldError, lease_devices, replicate_lease
from leverlab.trial.outcomes import InfeasibleError, Interrupted, MayPassError, ServerDiedError
from leverlab.trial.owner import Owner
from leverlab.trial.progress import Progress
from leverlab.trial.sweep import ascending
from leverlab.trial.trial import Trial

DEATHS: Final = 2
"""Starts in which the server dies during the same phase until that cell is called failed."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_job(specification: JobSpecification, progress: Progress) -> JobRecord:
    """Measure what is missing of the job's cells, one start of the server after another, and return its record.

    Raises MayPassError for what another attempt may not meet, DiskFullError, Interrupted where a signal asks to end, and,
    once all others are measured, DamagedCellError; the cells that are finished by then are kept.
    """
    layout = Layout(Path(specification.results))
    server, replicate = specification.server, specification.replicate
    with signals_interrupt(), devices_may_come(), replicate_lease(layout, server, replicate, progress.say) as owner:
        clear_leftovers(layout.replicate(server, replicate) / "cells")
        for record in close_abandoned_trials(layout, server, replicate):
            progress.say(
                f"trial {record.trial}: {record.reason.message if record.reason else ''} What it had finished is kept"
            )
        missing = missing_cells(specification, layout)
        if missing:

            def check_lease() -> None:
                """Somebody who deleted the lease, or took this process for dead, may be measuring now."""
                path = layout.lease(server, replicate)
                holder = Owner.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
                if holder is None or holder.token != owner.token:
                    message = f"{path} no longer names this process: {holder or 'it was deleted'}"
                    raise MayPassError(Reason(code="lease_lost", message=message))

            _measure(missing, specification, layout, check_lease, progress)
        return job_record(specification, layout)


def missing_cells(specification: JobSpecification, layout: Layout) -> list[PhaseSpecification]:
    """The cells that are due, in the order drawn from the seed; rates of a sweep that stops when saturated ascend in it.

    A record that cannot be read is left alone: what lies beside it may be worth more than another measurement.
    The order of two phases depends on nothing but the seed and the two: all servers of a replicate have the same one.
    """
    missing = []
    for wanted in specification.cells:
        try:
            there = read_cell(layout.cell(specification.server, specification.replicate, wanted.phase))
        except DamagedCellError:
            continue
        if there is None or is_due(there.status, specification.retry_failed, wanted.stop_after_saturation):
            missing.append(wanted)
    return ascending(sorted(missing, key=lambda wanted: seed_from(specification.order_seed, wanted.phase)))


def job_record(specification: JobSpecification, layout: Layout) -> JobRecord:
    """The job's record, from the records of its cells. Raises FileNotFoundError where one has none, and DamagedCellError."""
    statuses: dict[str, Status] = {}
    for wanted in specification.cells:
        folder = layout.cell(specification.server, specification.replicate, wanted.phase)
        there = read_cell(folder)
        if there is None:
            raise FileNotFoundError(f"{folder}: the cell has no record")
        statuses[wanted.phase] = there.status
    return JobRecord(
        server=specification.server,
        replicate=specification.replicate,
        job=specification.job,
        cells=statuses,
    )


def _measure(
    missing: list[PhaseSpecification],
    specification: JobSpecification,
    layout: Layout,
    check_lease: Callable[[], None],
    progress: Progress,
) -> None:
    files = {wanted.workload_file for wanted in missing}
    workloads = {file: read_requests(Path(file)) for file in files}
    engine = engine_for(specification.engine_kind)
    with lease_devices(specification.device, specification.gpu_count, progress.say) as devices:
        job = Job(specification, layout, engine, devices, workloads, check_lease, progress)
        deaths: Counter[str] = Counter()
        unknown = not has_served(specification.server, layout)
        while missing:
            trial = Trial(job, missing, check_configuration=unknown)
            unknown = False
            try:
                trial.run()
            except InfeasibleError as refused:
                for wanted in missing:
                    trial.write_unmeasured(wanted, "infeasible", refused.reason)
                return
            except ServerDiedError as died:
                missing = _after_death(trial, died.reason, deaths, missing)
            else:
                return


def _after_death(
    trial: Trial, reason: Reason, deaths: Counter[str], missing: list[PhaseSpecification]
) -> list[PhaseSpecification]:
    """What is still to be measured after the server died; a cell of which it died again is given up.

    The cell that it died of comes last in the next trial, so that it cannot take the others with it.
    """
    died_of = trial.under_way
    deaths[died_of.phase if died_of else ""] += 1
    rest = [wanted for wanted in missing if wanted.phase not in trial.finished]
    status: Status = "infeasible" if reason.code == "out_of_memory" else "failed"
    if died_of is None:
        if deaths[""] < DEATHS:
            return rest
        for wanted in rest:
            trial.write_unmeasured(wanted, status, reason)
        return []
    others = [wanted for wanted in rest if wanted.phase != died_of.phase]
    if deaths[died_of.phase] < DEATHS:
        return [*others, died_of]
    trial.write_unmeasured(died_of, status, reason)
    return others


@contextmanager
def devices_may_come() -> Iterator[None]:
    """Devices that are held or missing are the machine's trouble, and no property of what is measured."""
    try:
        yield
    except (LeaseHeldError, DevicesUnavailableError) as error:
        raise MayPassError(Reason(code="devices_unavailable", message=str(error))) from error


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Turn the first signal that asks to end into Interrupted; the way out is not interrupted again."""
    told = False

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
