"""A study's questions, answered from cells whose numbers are known: ranges, and effects at each level of another lever."""

from collections.abc import Callable
from pathlib import Path

import pytest

from leverlab.config import ConfigError
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from leverlab.report.source import read_study
from leverlab.stats.ranges import range_place
from tests.unit.answered import answers
from tests.unit.measured_cells import measure, measure_study, request_row
from tests.unit.repository import Repository

STUDY = """\
question: What does a prefix cache find?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: chatbot
load: {rates: [8]}
levers: {scenario: [chatbot, retrieval], prefix_caching: [on, off]}
baseline: {scenario: chatbot, prefix_caching: on}
design: factorial
primary: {scenario: cache_hit_ratio at rate 8, prefix_caching: ttft_s p50 at rate 8}
replicates: 3
questions:
  - ask: How much is found?
    answers:
      - kind: range
        lever: scenario
        metric: cache_hit_ratio
        expected: {chatbot: [0.3, 0.6], retrieval: [0, 0.15]}
        source: the course
  - ask: What does it spare?
    answers: [{kind: effect, lever: prefix_caching, each: scenario, metrics: [ttft_s p50]}]
"""
DRAWS = {1: 1.0, 2: 1.3, 3: 0.8}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.at(tmp_path)
    made.write("small", STUDY)
    return made


def measure_hits(repository: Repository, cached: Callable[[StudyCell, ReplicateKey], int]) -> None:
    """Requests of 100 prompt tokens, of which the cache had `cached`."""
    study = repository.study()
    for entry in study.cells:
        for replicate in study.replicates:
            rows = [
                request_row(index, index / 8, cached_tokens=cached(entry, replicate) if index else 0)
                for index in range(21)
            ]
            measure(repository.layout, entry, replicate, rows)


def scenario(entry: StudyCell) -> str:
    return dict(entry.treatment.levels)["scenario"]


def test_a_metric_is_inside_or_outside_the_range_that_was_expected(repository: Repository) -> None:
    measure_hits(
        repository, lambda entry, replicate: {"chatbot": 42, "retrieval": 21}[scenario(entry)] + replicate.number
    )
    found = answers(repository)[0]
    assert found.measured
    chatbot, retrieval = found.sentences
    assert chatbot == (
        "Scenario chatbot: the prefix-cache hit ratio at 8 requests/s is 41.9 % (95 % interval 39.5 % to 44.3 %, 3 replicates), "
        "inside the expected range of 30 % to 60 % (the course)."
    )
    assert "22 % (" not in retrieval and "outside the expected range of 0 % to 15 %" in retrieval


def test_a_range_that_the_interval_crosses_is_not_resolved(repository: Repository) -> None:
    measure_hits(repository, lambda entry, replicate: {1: 25, 2: 35, 3: 48}[replicate.number])
    chatbot, retrieval = answers(repository)[0].sentences
    assert "whether that is inside the expected range of 30 % to 60 % is not resolved" in chatbot
    assert "outside" not in chatbot and "is not resolved" in retrieval


def test_replicates_that_agree_to_the_last_digit_are_counts(repository: Repository) -> None:
    measure_hits(repository, lambda entry, replicate: 42)
    chatbot, retrieval = answers(repository)[0].sentences
    assert "40 % (the same in all 3 replicates), inside" in chatbot
    assert "40 % (the same in all 3 replicates), outside" in retrieval


@pytest.mark.parametrize(
    ("replicates", "told"),
    [(1, "is 40 % (1 replicate: a verdict"), (2, "is 40 % (2 replicates, 40 % and 40 %: a verdict")],
)
def test_fewer_than_three_replicates_resolve_no_range(repository: Repository, replicates: int, told: str) -> None:
    """Two that agree by chance said `inside`, where no verdict on an effect rests on two."""
    repository.change("replicates: 3", f"replicates: {replicates}")
    measure_hits(repository, lambda entry, replicate: 42)
    assert all(
        f"{told} needs three); whether that is inside the expected range" in said and "is not resolved" in said
        for said in answers(repository)[0].sentences
    )


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ([0.5, 0.51, 0.49], "inside"),
        ([0.9, 0.91, 0.89], "outside"),
        ([0.1, 0.11, 0.09], "outside"),
        ([0.58, 0.61, 0.6], "not resolved"),
        ([0.6, 0.6, 0.6], "inside"),
        ([0.7, 0.7, 0.7], "outside"),
        ([0.5, 0.5], "not resolved"),
        ([0.5, 0.5001], "not resolved"),
        ([0.5], "not resolved"),
    ],
)
def test_where_a_mean_lies(values: list[float], place: str) -> None:
    assert range_place(values, 0.3, 0.6)[0] == place


def test_the_effect_at_each_level_compares_what_differs_in_one_lever(repository: Repository) -> None:
    """Off is four times slower for the chatbot and nothing for retrieval, which is ten times slower anyway."""

    def ttft_s(entry: StudyCell, replicate: ReplicateKey) -> float:
        levels = dict(entry.treatment.levels)
        off = levels["prefix_caching"] == "off"
        wobble = 1 + 0.01 * replicate.number if off else 1.0
        slower = 10.0 if levels["scenario"] == "retrieval" else 4.0 if off else 1.0
        return 0.01 * DRAWS[replicate.number] * slower * wobble

    measure_study(repository.layout, repository.study(), ttft_s)
    found = answers(repository)[1]
    chatbot, retrieval = found.sentences
    assert chatbot.startswith(
        "Scenario chatbot: Prefix caching off instead of on raises the median time to first token"
    )
    assert "by a factor of 4.08" in chatbot
    assert retrieval.startswith("Scenario retrieval: Prefix caching off instead of on") and "4.0" not in retrieval
    assert "2 %" in retrieval or "1.02" in retrieval


def test_a_simulated_engine_is_named_first(repository: Repository) -> None:
    repository.change("engines: [vllm-cpu]", "engines: [truth]")
    measure_hits(repository, lambda entry, replicate: 40 + replicate.number)
    said = [sentence for found in answers(repository) for sentence in found.sentences]
    assert len(said) == 4
    assert all(one.startswith("Simulated: Scenario ") and one.count("Simulated") == 1 for one in said)


def test_without_the_question_there_are_no_simple_effects(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), lambda entry, replicate: 0.1 * DRAWS[replicate.number])
    answers(repository)
    data = read_study("small", repository.configuration(), repository.layout)
    assert {effect.treatment for effect in data.simple} == {"prefix_caching=off at scenario=retrieval"}
    repository.change("each: scenario, ", "")
    answers(repository)
    assert read_study("small", repository.configuration(), repository.layout).simple == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "lever: scenario\n",
            "lever: scenari\n",
            "'scenari' is not one of the study's levers; did you mean 'scenario'",
        ),
        ("{chatbot: [0.3", "{chatbt: [0.3", "'chatbt' is not among the levels of scenario; did you mean 'chatbot'"),
        ("[0.3, 0.6]", "[0.6, 0.3]", "the lower end comes first"),
        ("each: scenario", "each: prefix_caching", "is the lever itself"),
        ("each: scenario", "each: max_num_seqs", "'max_num_seqs' is not one of the study's levers"),
        ("metric: cache_hit_ratio", "metric: cache_hit_rato", "did you mean 'cache_hit_ratio'"),
    ],
)
def test_a_question_that_does_not_fit_the_study_is_refused(
    repository: Repository, old: str, new: str, said: str
) -> None:
    repository.change(old, new)
    with pytest.raises(ConfigError, match=r"config/studies/small\.yaml: questions.*") as error:
        repository.study()
    assert said in str(error.value)


def test_a_line_over_levels_that_are_no_numbers_is_refused(repository: Repository) -> None:
    repository.change("kind: effect, lever: prefix_caching, each: scenario", "kind: line, lever: prefix_caching")
    with pytest.raises(ConfigError, match=r"prefix_caching: its level 'on' is no number.*`kind: levels`"):
        repository.study()


def test_levels_that_are_no_numbers_have_no_figure(repository: Repository) -> None:
    measure_hits(repository, lambda entry, replicate: 40 + replicate.number)
    assert [answer.figure for answer in answers(repository)] == [None, None]
