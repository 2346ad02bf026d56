"""A server that does not live to answer: the cells say why, and none has a number."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doubt.planted import DEAD, Fault
from tests.integration.trial_job import TrialJob

pytestmark = pytest.mark.doubt

PHASE = "burst-0000000003"
MAY_PASS = 75


@pytest.mark.parametrize("fault", DEAD, ids=lambda fault: fault.name)
def test_a_dead_server_leaves_a_reason_and_no_number(fault: Fault, tmp_path: Path, note: Callable[..., None]) -> None:
    job = TrialJob(
        tmp_path, flags=fault.flags, phases={PHASE: {"kind": "burst", "requests": 60}}, start_timeout_s=2.0
    ).prepare()
    code, shown = job.measure()
    cell = job.cell(PHASE)
    reason, status = (job.trial(1).reason, "left") if cell is None else (cell.reason, cell.status)
    note(fault.name, {reason.code: status})
    assert {reason.code: status} == fault.cells[0].marks, shown
    assert code == (MAY_PASS if cell is None else 0)
    assert not list(job.cell_folder(PHASE).glob("*.parquet"))
    assert job.servers() == []
