"""`minimum_duration` of a load: which load points send more requests for it, and that everything that counts them follows."""

from pathlib import Path

import pytest

from leverlab.checks import write_checks
from leverlab.config import ConfigError
from leverlab.layout import Layout
from leverlab.matrix.jobs import job_specification, request_count, walltime_s
from leverlab.plan import render_plan
from leverlab.records import CheckResult
from leverlab.report.study_card import study_facts
from leverlab.report.workload_card import workload_cards
from leverlab.trial.sweep import SATURATED, ascending, too_much
from tests.unit.report_studies import FLOORED, STUDIES
from tests.unit.report_study import make_study
from tests.unit.repository import Repository
from tests.unit.test_plan import left

RATES = "rates: [8, inf]"
PREFIXES = "{kind: shared-prefix, requests: 24, groups: 3, prefix_tokens: 256, suffix_tokens: 16, output_tokens: 16}"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.at(tmp_path)


def sent(repository: Repository) -> dict[str, set[int]]:
    """Load point → requests of its cells."""
    found: dict[str, set[int]] = {}
    for entry in repository.study().cells:
        found.setdefault(str(entry.load), set()).add(request_count(entry.cell.phase))
    return found


def test_rates_at_which_requests_would_come_too_soon_get_more_and_no_other_load_point(repository: Repository) -> None:
    load = "rates: [2, 8, 32, inf], concurrencies: [4]"
    repository.change(RATES, load)
    before = {(entry.cell.server.id, entry.load): entry.cell.id for entry in repository.study().cells}
    repository.change(load, f"{load}, minimum_duration: 5 s")
    assert sent(repository) == {"rate 2": {24}, "rate 8": {40}, "rate 32": {160}, "concurrency 4": {24}, "burst": {24}}
    after = {(entry.cell.server.id, entry.load): entry.cell.id for entry in repository.study().cells}
    assert {str(load) for server, load in before if before[server, load] != after[server, load]} == {
        "rate 8",
        "rate 32",
    }


def test_a_load_point_sends_the_requests_that_are_stated_for_it_and_the_others_theirs(repository: Repository) -> None:
    load = "rates: [2, 8, 32, inf], concurrencies: [1, 4]"
    repository.change(RATES, load)
    before = {(entry.cell.server.id, entry.load): entry.cell.id for entry in repository.study().cells}
    repository.change(load, f"{load}, requests: {{concurrency 1: 8, inf: 96, rate 32: 40}}, minimum_duration: 2 s")
    assert sent(repository) == {
        "rate 2": {24},
        "rate 8": {24},
        "rate 32": {64},
        "concurrency 1": {8},
        "concurrency 4": {24},
        "burst": {96},
    }
    after = {(entry.cell.server.id, entry.load): entry.cell.id for entry in repository.study().cells}
    changed = {str(load) for server, load in before if before[server, load] != after[server, load]}
    assert changed == {"rate 32", "concurrency 1", "burst"}


def test_fewer_requests_than_a_workload_can_have_are_refused_with_the_load_point(repository: Repository) -> None:
    repository.change(RATES, f"{RATES}, requests: {{inf: 2}}")
    with pytest.raises(ConfigError, match=r"small\.yaml: load\.requests: 2 at burst: "):
        repository.study()


def test_both_sides_of_a_comparison_replay_the_same_file(repository: Repository) -> None:
    repository.change(RATES, "rates: [8, 32, inf], minimum_duration: 5 s")
    study = repository.study()
    of_load = {(str(entry.load), entry.cell.phase.workload.id) for entry in study.cells}
    assert len(of_load) == 3 and len({entry.treatment.name for entry in study.cells}) == 3
    files = {workload.id for job in repository.matrix().jobs for workload in job.workloads}
    assert files == {workload for _, workload in of_load} == set(repository.matrix().workloads)


def test_a_rate_and_a_duration_whose_product_is_not_quite_whole_make_no_request_more(repository: Repository) -> None:
    assert 1.1 * 50 > 55
    repository.change(RATES, "rates: [1.1, 8], minimum_duration: 50 s")
    repository.change("throughput at burst", "throughput at rate 8")
    assert sent(repository) == {"rate 1.1": {55}, "rate 8": {400}}
    repository.change("minimum_duration: 50 s", "minimum_duration: 49.5 s")
    assert sent(repository)["rate 1.1"] == {55}, "54.45 requests are 55"


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ("{kind: multi-turn, requests: 28, turns: 7, system_tokens: 64, message_tokens: 16, output_tokens: 16}", 42),
        (
            "{kind: agent-loop, requests: 27, steps: 9, prefix_tokens: 64, task_tokens: 16, result_tokens: 16, output_tokens: 16}",
            45,
        ),
        (
            "{kind: branches, requests: 24, branches: 4, prefix_tokens: 64, task_tokens: 16, branch_tokens: 16, join_tokens: 16, "
            "output_tokens: 16}",
            42,
        ),
    ],
)
def test_conversations_loops_and_programs_stay_whole(repository: Repository, workload: str, expected: int) -> None:
    repository.change(PREFIXES, workload)
    repository.change(RATES, "rates: [8, inf], minimum_duration: 5 s")
    assert sent(repository)["rate 8"] == {expected}


def test_a_workload_that_a_level_names_is_made_longer_too(repository: Repository) -> None:
    repository.change("prefix_caching: [on, off]", "output_lengths: [variable, uniform]")
    repository.change("{prefix_caching: on, ", "{output_lengths: variable, ")
    repository.change("  prefix_caching: ttft_s", "  output_lengths: ttft_s")
    repository.change(PREFIXES, "{kind: variable-output, requests: 24, prompt_tokens: 32, outputs: [8]}")
    repository.change(RATES, "rates: [8, inf], minimum_duration: 5 s")
    cells = [entry for entry in repository.study().cells if str(entry.load) == "rate 8"]
    assert len({entry.cell.phase.workload.id for entry in cells}) == 2
    assert sent(repository) == {"rate 8": {40}, "burst": {24}}


def test_the_plan_and_the_time_of_a_job_count_the_longer_workload(repository: Repository) -> None:
    repository.change(RATES, "rates: [8, 32]")
    repository.change("throughput at burst", "throughput at rate 32")
    short = walltime_s(repository.matrix().jobs[0], repository.configuration())
    assert left(repository).one_after_another_s == pytest.approx(6 * (1 + 3 + 0.75))
    assert "Requests a cell" not in render_plan(repository.matrix(), repository.layout)
    repository.change("rates: [8, 32]", "rates: [8, 32], minimum_duration: 60 s")
    assert left(repository).one_after_another_s == pytest.approx(6 * (1 + 60 + 60))
    assert "Requests a cell: 480 at rate 8, 1920 at rate 32" in render_plan(repository.matrix(), repository.layout)
    assert walltime_s(repository.matrix().jobs[0], repository.configuration()) > short + 2 * 55


def test_a_sweep_that_stops_when_saturated_is_one_sweep_whatever_its_rates_send(repository: Repository) -> None:
    repository.change(RATES, "rates: [2, 8, 32, 64], minimum_duration: 5 s")
    repository.change("throughput at burst", "throughput at rate 64")
    repository.change("replicates: 2", "replicates: 2\nstop_after_saturation: true")
    layout = Layout(repository.root / "results")
    specification = job_specification(repository.matrix().jobs[0], repository.configuration(), layout)
    low, middle, high, highest = specification.cells
    assert ascending([highest, low, high, middle]) == [low, middle, high, highest]
    assert too_much(highest, specification, layout) is None
    folder = layout.cell(specification.server, specification.replicate, middle.phase)
    folder.mkdir(parents=True)
    saturated = CheckResult(code=SATURATED, severity="caution", saw="a queue", expected="none")
    write_checks(folder / "checks.json", middle.cell, [saturated])
    reason = too_much(highest, specification, layout)
    assert reason is not None and "did not keep up with rate 8" in reason.message
    assert too_much(low, specification, layout) is None


def test_the_report_says_which_requests_were_sent_where(tmp_path: Path) -> None:
    plain = STUDIES[FLOORED]
    told = make_study(
        tmp_path / "longer", FLOORED, text=plain.replace("4, inf]", "4, inf], minimum_duration: 15 s")
    ).read()
    assert dict(study_facts(told))["Load"] == (
        "at 1 request/s, at 4 requests/s and in a burst; at a rate requests come for 15 s or longer, and are more where that takes more"
    )
    assert {dict(card.facts)["Offered"] for card in workload_cards(told)} == {
        "at 1 request/s and in a burst",
        "at 4 requests/s",
    }
    untold = make_study(tmp_path / "plain", FLOORED, text=plain).read()
    assert dict(study_facts(untold))["Load"] == "at 1 request/s, at 4 requests/s and in a burst"
    assert all("Offered" not in dict(card.facts) for card in workload_cards(untold))
