"""A sweep of rates that stops when the server is saturated, as the measuring rule runs it on the truth engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trial_job import BURST, TrialJob

# Two seats, and answers of about 110 ms: the server sustains some 18 requests a second.
SLOW_SERVER = {"max-num-seqs": 2, "ttft": 0.05, "gap": 0.008}
SWEEP = {
    "high-0000000001": {"kind": "rate", "value": 120, "requests": 40},
    "low-0000000002": {"kind": "rate", "value": 8, "requests": 40},
    "too-high-0000000003": {"kind": "rate", "value": 60, "requests": 40},
    "burst-0000000004": {**BURST, "requests": 40},
}

pytestmark = pytest.mark.minutes(seconds=50)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrialJob]:
    made = TrialJob(tmp_path, flags=SLOW_SERVER, phases=SWEEP, stop_after_saturation=True).prepare()
    yield made
    made.end()


def test_rates_above_the_first_that_is_too_much_are_left_out(job: TrialJob) -> None:
    code, shown = job.measure()
    assert code == 0, shown
    assert job.statuses() == {
        "low-0000000002": "measured",
        "too-high-0000000003": "measured",
        "high-0000000001": "skipped",
        "burst-0000000004": "measured",
    }
    left_out = job.cell("high-0000000001")
    assert left_out is not None and left_out.reason is not None
    assert left_out.reason.code == "beyond_knee" and "rate 60" in left_out.reason.message
    rates = [phase for phase in job.trial(1).phases if phase in ("low-0000000002", "too-high-0000000003")]
    assert rates == ["low-0000000002", "too-high-0000000003"], "from the lowest up"


def test_what_an_earlier_start_found_stops_the_sweep_of_a_later_one(job: TrialJob) -> None:
    first = job.changed(phases={name: load for name, load in job.phases.items() if not name.startswith("high")})
    assert first.measure()[0] == 0
    assert job.prepare().measure()[0] == 0
    assert job.statuses()["high-0000000001"] == "skipped"


def test_a_study_that_wants_all_rates_measures_what_another_left_out(job: TrialJob) -> None:
    assert job.measure()[0] == 0
    job.output.unlink()
    assert job.changed(stop_after_saturation=False).measure()[0] == 0
    assert job.statuses()["high-0000000001"] == "measured"
