"""Every study of config/studies can be planned, in both sizes, and the course's weeks have what a week needs."""

from functools import cache

import pytest

from leverlab.aggregate.comparisons import contrasts
from leverlab.config import load
from leverlab.config.course import ELSEWHERE, ExpectedAnswer, RangeAnswer
from leverlab.config.study import Study
from leverlab.engines.lmcache import serves_in_process
from leverlab.layout import Layout
from leverlab.matrix.expand import Matrix, expand
from leverlab.matrix.jobs import request_count
from leverlab.matrix.treatments import treatments
from leverlab.metrics import MINIMUM_SAMPLES, parse_metric_reference
from leverlab.plan import render_plan
from tests.unit.repository import SOURCE

LMCACHE_DEFAULT_CHUNK = 256
ALL = load(SOURCE, {"study": "all", "sharegpt_path": "README.md"})
WEEKS = [name for name in ALL.study_names() if ALL.study(name).week]


@cache
def matrix_of(name: str) -> Matrix:
    """What the study `name` is expanded to: most of what these tests take, and several look at the same."""
    return expand(ALL, [name])


@pytest.mark.parametrize("name", [*ALL.study_names(), *ALL.smoke_names()])
def test_a_study_is_planned(name: str) -> None:
    matrix = matrix_of(name)
    assert matrix.jobs
    assert (ALL.study(name).title or name) in render_plan(matrix, Layout(SOURCE / "nowhere"))


@pytest.mark.parametrize("name", [*ALL.study_names(), *ALL.smoke_names()])
def test_what_a_study_asks_can_be_compared_in_both_sizes(name: str) -> None:
    """A smoke size may leave out a lever that a question asks about."""
    study = ALL.study(name)
    assert contrasts(study, treatments(study)) or all(len(levels) == 1 for levels in study.levers.values())


def test_every_week_of_the_course_is_a_study() -> None:
    assert {ALL.study(name).week for name in WEEKS} == set(range(1, 17))


def test_no_prompt_of_a_study_can_be_found_whole_by_lmcache() -> None:
    """Of a prompt that is a whole number of its chunks one token is left to compute, in a step in which it loads nothing."""
    seen = set()
    for name in ALL.study_names():
        if "vllm-lmcache" not in ALL.study(name).engines:
            continue
        (matrix,) = matrix_of(name).studies
        for entry in matrix.cells:
            server, drawn = entry.cell.server.identity, entry.cell.phase.identity["workload"]["workload"]
            if not serves_in_process(server["flags"]):
                continue
            parts = ("prompt_tokens",) if drawn["kind"] == "random" else ("prefix_tokens", "suffix_tokens")
            chunk = int(server["environment"].get("LMCACHE_CHUNK_SIZE", LMCACHE_DEFAULT_CHUNK))
            tail = sum(drawn[part] for part in parts) % chunk
            assert tail > 1, f"{name}: {drawn} in chunks of {chunk}"
            seen.add((name, chunk))
    assert {chunk for name, chunk in seen if name == "week15-lmcache-chunks"} == {64, 128, 256, 512, 1024}
    assert {"week15-lmcache", "week15-restarts", "capstone-disaggregation"} <= {name for name, _ in seen}


@pytest.mark.parametrize("name", WEEKS)
def test_a_week_says_what_it_takes_and_runs_without_a_gpu(name: str) -> None:
    study = ALL.study(name)
    assert study.hardware and study.questions and study.collects and study.reads
    smoke = ALL.study(f"{name}-smoke")
    assert {gpu.name for gpu in smoke.gpus} == {"cpu"}
    assert smoke.title == f"{study.title}, smoke size"


def named_metrics(study: Study) -> set[str]:
    """Every metric that the study judges, collects or answers a question with, as it writes them."""
    answers = [answer for question in study.questions for answer in question.answers]
    told = [*study.primary.values(), *(metric for answer in answers for metric in getattr(answer, "metrics", []))]
    told += [answer.metric for answer in answers if isinstance(answer, ExpectedAnswer | RangeAnswer)]
    collected = [entry for value in study.collects.values() for entry in ([value] if isinstance(value, str) else value)]
    return {*told, *(entry for entry in collected if not ELSEWHERE.fullmatch(entry))}


@pytest.mark.parametrize("name", ALL.study_names())
def test_a_percentile_that_a_study_names_has_the_requests_that_it_takes(name: str) -> None:
    """Else it is not given, and what was to be collected is missing. Gaps between chunks are many of every request."""
    (matrix,) = matrix_of(name).studies
    sent = {str(cell.load): request_count(cell.cell.phase) for cell in matrix.cells}
    for text in named_metrics(matrix.study):
        reference = parse_metric_reference(text)
        if reference.statistic is None or reference.metric.startswith("chunk_gap"):
            continue
        classes = 2 if reference.metric.startswith(("interactive_", "batch_")) else 1
        for point in [str(reference.load)] if reference.load else sent:
            assert sent[point] >= classes * MINIMUM_SAMPLES[reference.statistic], f"{text}: {point}"


@pytest.mark.parametrize("name", ALL.smoke_names())
def test_a_smoke_size_is_small(name: str) -> None:
    jobs = matrix_of(name).jobs
    assert len(jobs) <= 12, "each starts a server"
    assert sum(len(job.cells) for job in jobs) <= 24
