"""Plays a fault in whole trials on the truth engine, as everything is measured: server, warm-up, cache, client, checks."""

from pathlib import Path

from leverlab.checks import read_checks
from leverlab.identity import seed_from
from leverlab.trial.cell_files import CHECKS_FILE
from tests.doubt.planted import Cell, Fault
from tests.integration.trial_job import ORDER_SEED, TrialJob

#: Long enough that what a client on a shared core adds is small against it.
TIMES = {"ttft": 0.1, "gap": 0.01}

Marks = dict[str, str]
"""Code → severity of the checks that did not pass."""


def play(fault: Fault, root: Path) -> list[Marks]:
    """What marked each cell of `fault`, in their order. Cells with flags of their own are measured on a server each."""
    if any(cell.flags for cell in fault.cells):
        return [_measured(fault, (cell,), root / str(at))[0] for at, cell in enumerate(fault.cells)]
    return _measured(fault, fault.cells, root)


def _measured(fault: Fault, cells: tuple[Cell, ...], root: Path) -> list[Marks]:
    names = phases_in_order(len(cells))
    job = TrialJob(
        root,
        flags={**TIMES, **fault.flags, **cells[0].flags},
        phases={name: cell.load for name, cell in zip(names, cells, strict=True)},
        request_timeout_s=fault.request_timeout_s,
    ).prepare()
    code, shown = job.measure(timeout_s=120)
    assert code == 0, shown
    return [marks_of(job, name) for name in names]


def phases_in_order(count: int) -> list[str]:
    """Names of phases that a trial measures in the order of the list."""
    names = [f"cell-{at:010d}" for at in range(count)]
    return sorted(names, key=lambda name: seed_from(ORDER_SEED, name))


def marks_of(job: TrialJob, phase: str) -> Marks:
    checks = read_checks(job.cell_folder(phase) / CHECKS_FILE).checks
    return {check.code: check.severity for check in checks if check.severity != "ok"}
