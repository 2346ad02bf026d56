"""A cell that searches for its rate, as the measuring rule runs it on the truth engine."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.measured import stored_cell
from leverlab.checks import read_checks
from leverlab.reproduce.evidence import replicate_of
from leverlab.trial.cell_files import CHECKS_FILE
from tests.integration.trial_job import TrialJob

pytestmark = pytest.mark.minutes(seconds=50)

SEARCH = "search-0000000005"
# Four seats, and answers of 50 + 7 x 8 = 106 ms: what is sustained is some 38 requests a second.
SLOW_SERVER = {"max-num-seqs": 4, "ttft": 0.05, "gap": 0.008}


def searching(root: Path, **search: object) -> TrialJob:
    load = {"kind": "search", "requests": 60}
    settings = {"precision": 0.1, "objectives": {"ttft_p95": 0.4}, **search}
    return TrialJob(root, flags=SLOW_SERVER, phases={SEARCH: load}, search=settings).prepare()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrialJob]:
    made = searching(tmp_path)
    yield made
    made.end()


def test_the_highest_rate_within_the_objectives_is_found_on_one_server(job: TrialJob) -> None:
    code, shown = job.measure(timeout_s=120)
    assert code == 0, shown
    assert job.trials() == ["finished"]
    cell = job.cell(SEARCH)
    assert cell is not None and cell.search is not None
    found = cell.search
    assert found.settled and found.highest_rate is not None and found.missed is not None
    assert found.missed / found.highest_rate == pytest.approx(1.1, abs=0.11)
    # So few requests end before a queue that grows slowly has grown past the objective.
    assert 25 < found.highest_rate < 48
    folder = job.cell_folder(SEARCH)
    runs = pq.read_table(folder / "runs.parquet")
    assert runs.num_rows == found.runs <= 9
    assert runs.column("load")[0].as_py() == "burst"
    # The tables are of the run at that rate: its p95 meets the objective, and the next one's does not.
    stored = replicate_of("r1", stored_cell(folder))
    assert stored is not None and stored.values["highest_rate", None] == found.highest_rate
    p95 = stored.values["ttft_s", "p95"]
    assert p95 is not None and p95 <= 0.4
    assert pq.read_table(folder / "requests.parquet").num_rows == 60
    assert "search_not_settled" in {check.code for check in read_checks(folder / CHECKS_FILE).checks}


@pytest.mark.parametrize(
    ("settings", "saw"),
    [
        ({"objectives": {"ttft_p95": 0.001}, "lowest": 20.0}, "none met the objectives"),
        ({"objectives": {"ttft_p95": 9.0}, "highest": 15.0}, "every rate met them"),
    ],
)
def test_a_search_that_finds_no_answer_says_why(tmp_path: Path, settings: dict[str, object], saw: str) -> None:
    job = searching(tmp_path, **settings)
    code, shown = job.measure(timeout_s=120)
    assert code == 0, shown
    [found] = [
        check
        for check in read_checks(job.cell_folder(SEARCH) / CHECKS_FILE).checks
        if check.code == "search_not_settled"
    ]
    assert found.severity == "caution" and saw in found.saw


def test_a_search_ends_when_its_time_is_used(tmp_path: Path) -> None:
    job = searching(tmp_path, limit_s=0.0)
    code, shown = job.measure(timeout_s=120)
    assert code == 0, shown
    cell = job.cell(SEARCH)
    assert cell is not None and cell.search is not None
    assert cell.search.runs == 2 and not cell.search.settled, "a burst, and the one rate without which nothing is known"
