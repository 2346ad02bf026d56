"""Answers about a metric at the levels of a lever: the values, what differs, and the straight line through them."""

from pathlib import Path

import pytest

from leverlab.report import at_levels
from leverlab.report.numbered_levels import values_at
from leverlab.stats.line import line_through
from tests.unit.answered import answers
from tests.unit.measured_cells import measure, request_row
from tests.unit.repository import Repository

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


def test_levels_that_differ_are_told_together_whether_or_not_by_exactly_the_same(tmp_path: Path) -> None:
    """As the bytes over a link, which a counter rounds at some lengths: two sentences seemed to say two things."""
    repository = Repository.at(tmp_path)
    repository.write("small", LEVELS.replace("[graph_memory_bytes]", "[kv_blocks]").replace("primary: {max", "# {max"))
    study = repository.study()
    blocks = {"64": 100, "4": 50, "8": 60, "16": 70}
    for entry in study.cells:
        level = dict(entry.treatment.levels)["max_num_seqs"]
        for replicate in map(entry.key, study.replicates):
            rows = [request_row(index, index * 0.125, 0.1) for index in range(20)]
            count = blocks[level] + (replicate.number if level == "8" else 0)
            measure(repository.layout, entry, replicate, rows, server_facts={"kv_blocks": float(count)})
    (answer,) = answers(repository)
    assert answer.sentences[0].endswith(
        "At 4, 8 and 16 it differs from 64 (at 4 and 16 in each pair by exactly the same)."
    )


def test_load_points_of_which_the_same_was_found_are_one_sentence(tmp_path: Path) -> None:
    repository = Repository.at(tmp_path)
    line = "  - ask: A line?\n    answers: [{kind: line, lever: max_num_seqs, metrics: [graph_memory_bytes]}]\n"
    repository.write("small", LEVELS.replace("rates: [8]", "rates: [4, 8]") + line)
    sizes = {level: {"graph_memory_bytes": int(level) * 2.0**20} for level in ("64", "4", "8", "16")}
    study = repository.study()
    for entry in study.cells:
        for replicate in map(entry.key, study.replicates):
            rows = [request_row(index, index / float(entry.load.value or 1), 0.1) for index in range(20)]
            facts = sizes[dict(entry.treatment.levels)["max_num_seqs"]]
            measure(repository.layout, entry, replicate, rows, server_facts=facts)
    levels, straight = answers(repository)
    assert levels.sentences == (
        "Batch limit (max_num_seqs): the memory of captured graphs at 4 requests/s and at 8 requests/s is 0.0625 GiB at 64, "
        "0.00391 GiB at 4, 0.00781 GiB at 8 and 0.0156 GiB at 16 (means of 3 replicates). Against 64, 4, 8 and 16 lower it; of those the best is 4.",
    )
    assert straight.sentences == (
        "Batch limit (max_num_seqs): the memory of captured graphs at 4 requests/s and at 8 requests/s lies on a straight line as far as "
        "3 replicates tell, with 0 GiB at 0 and 0.0625 GiB more for every 64: no level departs from it by 0.1 %. It goes in proportion.",
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
        "Batch limit (max_num_seqs): the memory of captured graphs at 8 requests/s, with Prefix caching off is 1 GiB at 4 (means of 3 replicates). "
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
        "no level departs from it by 0.1 %. It has a fixed part, so that it does not go in proportion."
    )


def test_a_fixed_part_that_is_not_found_is_said_not_to_be(tmp_path: Path) -> None:
    jitter = {4: (0.25, 0.26, 0.24), 8: (0.5, 0.49, 0.51), 16: (1.0, 1.02, 0.99), 64: (4.0, 3.98, 4.03)}
    (said,) = lined(tmp_path, {str(n): values for n, values in jitter.items()})
    assert said.endswith("No fixed part was found: as far as that, it goes in proportion.")


def test_a_curve_lies_on_no_straight_line(tmp_path: Path) -> None:
    (said,) = lined(tmp_path, {str(n): tuple(s * n * n / 1000 for s in SCATTER) for n in (4, 8, 16, 64)})  # type: ignore[misc]
    assert "lies on no straight line: from the closest, with " in said
    assert "the levels together depart further than 3 replicates scatter; the largest departure is " in said


@pytest.mark.parametrize(("replicates", "said_of"), [(1, "1 replicate"), (2, "2 replicates")])
def test_a_line_of_fewer_than_three_replicates_is_not_judged(tmp_path: Path, replicates: int, said_of: str) -> None:
    (said,) = lined(tmp_path, {str(n): (10 - n / 16,) * 3 for n in (4, 8, 16, 64)}, replicates=replicates)
    assert said == (
        "Batch limit (max_num_seqs): the memory of captured graphs at 8 requests/s is closest to the straight line with 10 GiB at 0 "
        "and 4 GiB less for every 64: no level departs from it by 0.1 %. "
        f"Whether it lies on one is not resolved: {said_of}, and a verdict needs three."
    )


def test_two_levels_make_no_line(tmp_path: Path) -> None:
    repository = Repository.at(tmp_path)
    repository.write("small", LINE.replace("[64, 4, 8, 16]", "[64, 4]"))
    (said,) = counted(repository, {level: {"graph_memory_bytes": 2.0**30} for level in ("64", "4")})
    assert said.endswith("a line takes 3 levels, and valid cells tell it at 2.")


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


def test_too_few_levels_have_no_figure(tmp_path: Path) -> None:
    few = Repository.at(tmp_path)
    few.write("small", LEVELS.replace("[64, 4, 8, 16]", "[64, 4]"))
    counted(few, {level: {"graph_memory_bytes": 2.0**30} for level in ("64", "4")})
    (answer,) = answers(few)
    assert answer.figure is None
