"""The plan: what it counts, what it estimates, and that it reads well without a terminal."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leverlab.load_point import LoadPoint
from leverlab.plan import estimate, history_of, progress_of, render_plan
from leverlab.records import write_json
from tests.unit.repository import STUDY, Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.at(tmp_path)


def plan(repository: Repository, **settings: object) -> str:
    return render_plan(repository.matrix(**settings), repository.layout)


def left(repository: Repository, **settings: object):
    matrix = repository.matrix(**settings)
    progress = progress_of(matrix, repository.layout)
    return estimate(matrix, matrix.jobs, progress, history_of(matrix.jobs, progress, repository.layout))


def row(text: str, treatment: str) -> list[str]:
    line = next(line for line in text.splitlines() if f"│{treatment} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_an_unmeasured_study(repository: Repository) -> None:
    text = plan(repository)
    assert (
        "3 servers × 2 load points × 2 replicates = 12 cells: 0 measured, 0 failed, 0 infeasible, 12 to be measured"
        in text
    )
    assert row(text, "baseline")[:3] == ["baseline", "··", "··"]
    assert {"prefix_caching=off", "max_num_seqs=4"} <= set(re.findall(r"│(\S+)", text))
    assert "To do: 6 jobs, 12 cells; about" in text and "a guess: nothing was measured yet" in text
    assert "\x1b" not in text, "no colours where nobody sees them"
    assert "GPU-hours" not in text


def test_what_is_measured_failed_or_infeasible_is_shown_for_each_replicate(repository: Repository) -> None:
    matrix = repository.matrix()
    by_name = {(entry.cell.server.id): entry.treatment.name for entry in matrix.studies[0].cells}
    for job in matrix.jobs:
        rate, burst = (cell.phase.id for cell in job.cells)
        match by_name[job.server.id], job.replicate.number:
            case "baseline", _:
                repository.measure(job)
            case "prefix_caching=off", 2:
                repository.measure(job, [rate], "failed")
                repository.measure(job, [burst], "infeasible")
    text = plan(repository)
    assert row(text, "baseline")[1:3] == ["✓✓", "✓✓"]
    assert row(text, "prefix_caching=off")[1:3] == ["·✗", "·∅"]
    assert "4 measured, 1 failed, 1 infeasible, 6 to be measured" in text
    assert left(repository).jobs == 3 and left(repository).cells == 6
    again = plan(repository, retry_failed=True)
    assert row(again, "prefix_caching=off")[1:3] == ["··", "·∅"]
    assert left(repository, retry_failed=True).cells == 7


def test_a_finished_study_says_so(repository: Repository) -> None:
    for job in repository.matrix().jobs:
        repository.measure(job)
    assert "Nothing is left to measure." in plan(repository)


def test_estimates_come_from_history_where_there_is_any(repository: Repository) -> None:
    repository.change("rates: [8, inf]", "rates: [8]")
    repository.change("throughput at burst", "throughput at rate 8")
    before = left(repository)
    assert before.one_after_another_s == pytest.approx(6 * (1 + 24 / 8)) and not before.from_history
    first = repository.matrix().jobs[0]
    repository.measure(first, duration_s=30)
    trial = {
        "outcome": "finished",
        "started_at": "2026-11-21T10:00:00Z",
        "ended_at": "2026-11-21T10:00:50Z",
        "phases": [cell.phase.id for cell in first.cells],
    }
    write_json(repository.layout.trial(first.server.id, "r1", 1) / "trial.json", trial)
    after = left(repository)
    assert after.from_history and after.jobs == 5
    assert after.one_after_another_s == pytest.approx(5 * (20 + 30))
    assert after.longest_job_s == pytest.approx(50)
    assert "from what was measured so far" in plan(repository)


def test_a_closed_loop_and_a_burst_are_guessed_from_their_outputs(repository: Repository) -> None:
    """32 requests of 32 tokens one after another took 10 s on an H100, and were guessed at 160 s; a burst of 3 s at a minute."""
    matrix = repository.matrix()
    job = matrix.jobs[0]
    _, burst = (cell.phase for cell in job.cells)
    known = burst.workload.identity["workload"]
    assert (known["requests"], known["output_tokens"]) == (24, 16)
    guess = history_of([], progress_of(matrix, repository.layout), repository.layout)
    assert guess.phase_s(job, burst) == pytest.approx(16 * 0.01), "all at once"
    closed = replace(burst, load=LoadPoint("concurrency", 8))
    assert guess.phase_s(job, closed) == pytest.approx(3 * 16 * 0.01), "three rounds of eight"
    assert guess.phase_s(job, replace(burst, load=LoadPoint("search"))) == 600


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({"kind": "variable-output", "prompt_tokens": 8, "outputs": [10, 10, 100]}, 3 * 40 * 0.01),
        (
            {"kind": "interactive-batch", "interactive_share": 0.75, "interactive_prompt_tokens": 8,
             "interactive_output_tokens": 40, "batch_prompt_tokens": 8, "batch_output_tokens": 80},
            3 * 50 * 0.01,
        ),
        (
            {"kind": "multi-turn", "turns": 3, "system_tokens": 8, "message_tokens": 8, "output_tokens": 20, "think_time": 2},
            1 * (3 * 20 * 0.01 + 2 * 2),
        ),
        ({"kind": "sharegpt-shaped"}, 3 * 5),
    ],
)  # fmt: skip
def test_every_kind_of_output_has_a_guess(repository: Repository, asked: dict[str, Any], seconds: float) -> None:
    """24 requests over 8 streams: of mixed lengths by their mean, of conversations with the pauses of each; 5 s a round where the
    lengths are ShareGPT's."""
    matrix = repository.matrix()
    job = matrix.jobs[0]
    phase = job.cells[0].phase
    drawn = replace(phase.workload, identity={**phase.workload.identity, "workload": {"requests": 24, **asked}})
    guess = history_of([], progress_of(matrix, repository.layout), repository.layout)
    closed = replace(phase, workload=drawn, load=LoadPoint("concurrency", 8))
    assert guess.phase_s(job, closed) == pytest.approx(seconds)


def test_gpu_hours_and_cost(repository: Repository) -> None:
    repository.change("gpus: [cpu]", "gpus: ['h100:2']")
    guess = left(repository)
    assert guess.cost is None
    assert guess.gpu_hours == pytest.approx(2 * guess.one_after_another_s / 3600)
    priced = left(repository, gpus={"h100": {"price_per_hour": 3.0}})
    assert priced.cost == pytest.approx(3 * priced.gpu_hours)
    assert "no cost: a `price_per_hour` is missing in config/gpus.yaml" in " ".join(plan(repository).split())
    text = plan(repository, gpus={"h100": {"price_per_hour": 3.0}})
    assert "GPU-hours" in text and "at the prices of config/gpus.yaml" in text
    repository.change("['h100:2']", "['h100:2', a100]")
    assert left(repository, gpus={"h100": {"price_per_hour": 3.0}}).cost is None, "one price of two is no total"
    text = plan(repository)
    assert "2×h100" in text and "a100" in text


def test_what_studies_share_is_counted_once_over_all(repository: Repository) -> None:
    repository.write("other", STUDY)
    text = plan(repository, study="small,other")
    assert text.count("To do: 6 jobs, 12 cells") == 3
    assert "All studies, what they share counted once: To do: 6 jobs, 12 cells" in text
