"""A study's questions, answered from cells whose numbers are known: ranges, and effects at each level of another lever."""

from collections.abc import Callable
from pathlib import Path

import pytest

from leverlab.aggregate.tables import write_study
from leverlab.config import ConfigError
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from leverlab.report import at_levels
from leverlab.report.numbered_levels import values_at
from leverlab.report.questions import Answered, questions
from leverlab.report.source import read_study
from leverlab.report.theory_values import theory_values
from leverlab.stats.line import line_through
from leverlab.stats.ranges import range_place
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


def answers(repository: Repository) -> list[Answered]:
    write_study(repository.study(), repository.layout)
    data = read_study("small", repository.configuration(), repository.layout)
    return questions(data, theory_values(data))


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


LEVELS = """\
question: What do graphs cost?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: chatbot
load: {rates: [8]}
levers: {max_num_seqs: [64, 4, 8, 16]}
baseline: {max_num_seqs: 64}
primary: {max_num_seqs: graph_memory_bytes at rate 8}
replicates: 3
questions:
  - ask: How much memory?
    answers: [{kind: levels, lever: max_num_seqs, metrics: [graph_memory_bytes]}]
"""


def test_levels_that_are_equally_good_are_all_named_and_those_without_a_difference_too(tmp_path: Path) -> None:
    repository = Repository.at(tmp_path)
    repository.write("small", LEVELS)
    sizes = {"64": 0.58, "4": 0.0, "8": 0.0, "16": 0.57}
    study = repository.study()
    for entry in study.cells:
        for replicate in map(entry.key, study.replicates):
            rows = [request_row(index, index * 0.125, 0.1) for index in range(20)]
            facts = {"graph_memory_bytes": sizes[dict(entry.treatment.levels)["max_num_seqs"]] * 2**30}
            measure(repository.layout, entry, replicate, rows, server_facts=facts)
    (answer,) = answers(repository)
    assert answer.sentences[0].endswith(
        "Against 64, 4 and 8 lower it; of those the best are 4 and 8. At 16 no difference was found."
    )


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


def counted(repository: Repository, facts: dict[str, dict[str, float]]) -> tuple[str, ...]:
    """The answer about the levels of max_num_seqs, where the servers of a level told `facts` of their start."""
    study = repository.study()
    for entry in study.cells:
        for replicate in map(entry.key, study.replicates):
            rows = [request_row(index, index * 0.125, 0.1) for index in range(20)]
            told = facts[dict(entry.treatment.levels)["max_num_seqs"]]
            measure(repository.layout, entry, replicate, rows, server_facts=told)
    (answer,) = answers(repository)
    return answer.sentences


@pytest.mark.parametrize("kind", ["levels", "effect"])
def test_what_the_baseline_has_nothing_of_is_told_of_the_others(tmp_path: Path, kind: str) -> None:
    """As how often drafts are right: where nothing is drafted, no cell tells it, and there is nothing to compare."""
    repository = Repository.at(tmp_path)
    repository.write("small", LEVELS.replace("kind: levels", f"kind: {kind}").replace("primary: {max", "# {max"))
    size = {"graph_memory_bytes": 2.0**30}
    (said,) = counted(repository, {"64": {}, "4": size, "8": {"graph_memory_bytes": 2.0**31}, "16": {}})
    assert said == (
        "Batch limit (max_num_seqs): the memory of captured graphs at 8 requests/s is 1 GiB at 4 and 2 GiB at 8. "
        "At 64 and 16 no valid cell tells it."
    )


@pytest.mark.parametrize("kind", ["levels", "effect"])
def test_what_no_cell_tells_is_said_not_to_be_answered(tmp_path: Path, kind: str) -> None:
    repository = Repository.at(tmp_path)
    repository.write("small", LEVELS.replace("kind: levels", f"kind: {kind}").replace("primary: {max", "# {max"))
    (said,) = counted(repository, {level: {} for level in ("64", "4", "8", "16")})
    assert said == "Not answered: no valid cell tells the memory of captured graphs."


def test_a_metric_without_a_better_direction_differs_all_the_same(tmp_path: Path) -> None:
    repository = Repository.at(tmp_path)
    repository.write("small", LEVELS.replace("[graph_memory_bytes]", "[kv_blocks]").replace("primary: {max", "# {max"))
    blocks = {level: {"kv_blocks": float(count)} for level, count in (("64", 100), ("4", 100), ("8", 90), ("16", 80))}
    (said,) = counted(repository, blocks)
    assert said.endswith(
        "At 4 no difference was found. At 8 and 16 it differs from 64, in each pair by exactly the same."
    )


def test_a_level_that_is_only_measured_with_another_lever_is_told_with_it(tmp_path: Path) -> None:
    """As the log of the experts' balance, which there is with expert parallelism alone."""
    repository = Repository.at(tmp_path)
    text = LEVELS.replace("levers: {", "levers: {prefix_caching: [on, off], ").replace(
        "baseline: {", "baseline: {prefix_caching: on, "
    )
    text = text.replace("[64, 4, 8, 16]", "[64, 4]").replace("primary: {max", "# {max")
    repository.write("small", text + "design: {list: [{prefix_caching: off, max_num_seqs: 4}]}\n")
    (said,) = counted(repository, {"64": {"graph_memory_bytes": 2.0**31}, "4": {"graph_memory_bytes": 2.0**30}})
    assert said == (  # what the baseline takes at 64, with prefix caching on, is the effect of both
        "Batch limit (max_num_seqs): the memory of captured graphs at 8 requests/s, with Prefix caching off is 1 GiB at 4. "
        "At 64 no valid cell tells it."
    )


LINE = LEVELS.replace("kind: levels", "kind: line")


def lined(tmp_path: Path, gibibytes: dict[str, tuple[float, float, float]], *, replicates: int = 3) -> tuple[str, ...]:
    """The answer about a line over max_num_seqs, whose levels took `gibibytes` in each of three replicates."""
    repository = Repository.at(tmp_path)
    repository.write("small", LINE)
    study = repository.study()
    for entry in study.cells:
        for replicate in study.replicates[:replicates]:
            rows = [request_row(index, index * 0.125, 0.1) for index in range(20)]
            size = gibibytes[dict(entry.treatment.levels)["max_num_seqs"]][replicate.number - 1] * 2**30
            measure(repository.layout, entry, entry.key(replicate), rows, server_facts={"graph_memory_bytes": size})
    (answer,) = answers(repository)
    return answer.sentences


SCATTER = (1.0, 1.02, 0.98)


def test_levels_on_a_straight_line_with_a_fixed_part(tmp_path: Path) -> None:
    (said,) = lined(tmp_path, {str(n): tuple(s * (1 + n / 16) for s in SCATTER) for n in (4, 8, 16, 64)})  # type: ignore[misc]
    assert said == (
        "Batch limit (max_num_seqs): the memory of captured graphs at 8 requests/s lies on a straight line as far as 3 replicates "
        "tell, with 1 GiB at 0 and 4 GiB more for every 64 (95 % intervals 0.95 GiB to 1.05 GiB and 3.8 GiB to 4.2 GiB): "
        "the largest departure is 0.0 % at 4. It has a fixed part, so that it does not go in proportion."
    )


def test_a_fixed_part_that_is_not_found_is_said_not_to_be(tmp_path: Path) -> None:
    jitter = {4: (0.25, 0.26, 0.24), 8: (0.5, 0.49, 0.51), 16: (1.0, 1.02, 0.99), 64: (4.0, 3.98, 4.03)}
    (said,) = lined(tmp_path, {str(n): values for n, values in jitter.items()})
    assert said.endswith("No fixed part was found: as far as that, it goes in proportion.")


def test_a_curve_lies_on_no_straight_line(tmp_path: Path) -> None:
    (said,) = lined(tmp_path, {str(n): tuple(s * n * n / 1000 for s in SCATTER) for n in (4, 8, 16, 64)})  # type: ignore[misc]
    assert "lies on no straight line: from the closest, with " in said
    assert said.endswith("further than 3 replicates scatter.")


@pytest.mark.parametrize(("replicates", "said_of"), [(1, "1 replicate"), (2, "2 replicates")])
def test_a_line_of_fewer_than_three_replicates_is_not_judged(tmp_path: Path, replicates: int, said_of: str) -> None:
    (said,) = lined(tmp_path, {str(n): (10 - n / 16,) * 3 for n in (4, 8, 16, 64)}, replicates=replicates)
    assert said == (
        "Batch limit (max_num_seqs): the memory of captured graphs at 8 requests/s is closest to the straight line with 10 GiB at 0 "
        "and 4 GiB less for every 64: the largest departure is 0.0 % at 4. "
        f"Whether it lies on one is not resolved: {said_of}, and a verdict needs three."
    )


def test_two_levels_make_no_line(tmp_path: Path) -> None:
    repository = Repository.at(tmp_path)
    repository.write("small", LINE.replace("[64, 4, 8, 16]", "[64, 4]"))
    (said,) = counted(repository, {level: {"graph_memory_bytes": 2.0**30} for level in ("64", "4")})
    assert said.endswith("a line takes 3 levels, and valid cells tell it at 2.")


def test_a_line_over_levels_that_are_no_numbers_is_refused(repository: Repository) -> None:
    repository.change("kind: effect, lever: prefix_caching, each: scenario", "kind: line, lever: prefix_caching")
    with pytest.raises(ConfigError, match=r"prefix_caching: its level 'on' is no number.*`kind: levels`"):
        repository.study()


@pytest.mark.parametrize(("kind", "dotted"), [("line", True), ("levels", False)])
def test_a_question_about_levels_that_are_numbers_has_their_figure(tmp_path: Path, kind: str, dotted: bool) -> None:
    repository = Repository.at(tmp_path)
    repository.write("small", LEVELS.replace("kind: levels", f"kind: {kind}"))
    sizes = {level: {"graph_memory_bytes": (1 + int(level) / 16) * 2**30} for level in ("64", "4", "8", "16")}
    counted(repository, sizes)
    (answer,) = answers(repository)
    assert answer.figure is not None
    (panel,) = answer.figure.panels
    assert (
        "Memory of captured graphs over Batch limit (max_num_seqs). At 8 requests/s: 4: 1.25 GiB, 8: 1.5 GiB" in panel
    )
    assert "GiB" in panel
    assert ("dotted" in answer.figure.why) is dotted


def test_what_a_line_rests_on_is_read_once_for_its_sentence_and_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, drawn = [], []
    monkeypatch.setattr(at_levels, "values_at", lambda *asked: read.append(asked) or values_at(*asked))
    monkeypatch.setattr(at_levels, "line_through", lambda values: drawn.append(values) or line_through(values))
    lined(tmp_path, {str(n): tuple(s * (1 + n / 16) for s in SCATTER) for n in (4, 8, 16, 64)})  # type: ignore[misc]
    assert (len(read), len(drawn)) == (1, 1)


def test_levels_that_are_no_numbers_or_too_few_have_no_figure(repository: Repository, tmp_path: Path) -> None:
    measure_hits(repository, lambda entry, replicate: 40 + replicate.number)
    assert [answer.figure for answer in answers(repository)] == [None, None]
    few = Repository.at(tmp_path / "few")
    few.write("small", LEVELS.replace("[64, 4, 8, 16]", "[64, 4]"))
    counted(few, {level: {"graph_memory_bytes": 2.0**30} for level in ("64", "4")})
    (answer,) = answers(few)
    assert answer.figure is None
