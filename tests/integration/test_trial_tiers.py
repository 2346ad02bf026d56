"""Phases that begin from a tier, or after a restart, on a truth engine whose tier outlives it, or does not."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from leverlab.records import CellRecord
from tests.integration.trial_job import TrialJob

pytestmark = pytest.mark.minutes(seconds=35)

KEPT = {"tier": True, "block-size": 16, "tier-file": "{scratch}/tier/blocks"}
LOST = {"tier": True, "block-size": 16}
SHAPE = {"groups": 16, "prefix_tokens": 96, "suffix_tokens": 16, "output_tokens": 2}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrialJob]:
    made = TrialJob(tmp_path, phases={"burst-0000000002": {"kind": "burst"}}, shape=SHAPE)
    yield made
    made.end()


def measured(job: TrialJob, **changes: object) -> CellRecord:
    own = job.changed(**changes)
    code, shown = own.measure()
    assert code == 0, shown
    cell = own.cell("burst-0000000002")
    assert cell is not None and cell.status == "measured", shown
    shutil.rmtree(own.cell_folder("burst-0000000002"))
    return cell


def found_below(cell: CellRecord) -> float:
    delta = cell.server_delta
    assert delta["prefix_hit_tokens"] == 0
    return delta["external_hit_tokens"] / delta["external_queried_tokens"]


def test_a_phase_begins_from_the_tier_alone(job: TrialJob) -> None:
    cell = measured(job, flags=LOST, cache="tier")
    assert cell.cache["verified"] is True and found_below(cell) > 0.8
    cold = measured(job, flags=LOST, cache="cold")
    assert cold.cache["verified"] is True and found_below(cold) == 0
    told = measured(job, flags={**LOST, "keep-tier-on-reset": True}, cache="cold")
    assert told.cache["verified"] is False and "in the tier below" in told.cache["saw"]


def test_a_restart_tells_what_outlives_the_server(job: TrialJob) -> None:
    kept = measured(job, flags=KEPT, cache="restarted")
    assert kept.cache["verified"] is True and found_below(kept) > 0.8
    trial = job.trial(1)
    assert [restart["phase"] for restart in trial.restarts] == ["burst-0000000002"]
    ends = [trial.restarts[0]["stop"], trial.stop]  # of the server before the restart, and of the one after it
    assert [(end["signal"], end["survivors"]) for end in ends] == [("SIGINT", [])] * 2
    told = [line for line in job.events(1) if line["event"] == "stop"]
    assert [line["duration_s"] for line in told] == [end["duration_s"] for end in ends]
    logs = sorted(path.name for path in job.trial_folder(1).glob("server*.log"))
    assert logs == ["server.before-restart-1.log", "server.log"]
    assert not job.servers()
    lost = measured(job, flags=LOST, cache="restarted")
    assert lost.cache["verified"] is True and found_below(lost) == 0
