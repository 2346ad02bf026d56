"""Whether a treatment answers as the baseline does: what is compared with what, what is usual, and when something is said."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.answers import Beginnings, changed_answers, compare_answers
from leverlab.aggregate.tables import write_study
from leverlab.config import ConfigError
from leverlab.load.digests import TextDigests
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from leverlab.stats.shares import markedly_fewer
from tests.unit.aggregated_study import Row, effect
from tests.unit.measured_cells import measure, request_row
from tests.unit.repository import Repository

OFF, LIMITED = "prefix_caching=off", "max_num_seqs=4"
REQUESTS = 24

REAL = (
    "8b6d21a4cfd7951d", "4966958b3c96205e", "303d5200283861e4", "474d50addd8e5096", "c71dc68880fd0f74",
    "446707524cc8c83a", "f102fedd07133722", "9b46de11cf5e0527", "74f9aea7d95dc87a", "80eaeedab7aa04fc",
    "eb15753791ee2a7d", "3d709b1f69557d85", "a7de643e8a33e2ae", "eae6ee7494be830f", "a6efc7c6aedad454",
    "b8de2ce7ba75a468", "23d6c8fe61462e1a", "3af629809e331a4a", "18f884817256af58", "a6fcf3d84ab5c484",
)  # fmt: skip
"""Beginnings that vLLM's CPU build answered the requests of a study like this with: the same with prefix caching and without it, at 2 requests/s
and in a burst."""

Said = Callable[[StudyCell, int], str | None]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.at(tmp_path)


def digest(text: str) -> str | None:
    digests = TextDigests()
    digests.add(text)
    return digests.beginning


def answered(repository: Repository, say: Said, **changes: Any) -> tuple[list[Row], list[Row]]:
    """cells and effects of the study whose requests were answered by `say(cell, request's index)`; None: nothing was kept."""
    study = repository.study()
    for entry in study.cells:
        for replicate in map(entry.key, study.replicates):
            rows = [
                request_row(index, index / 8 * (entry.load.kind == "rate"), 0.1 + replicate.number / 1000)
                | {
                    "beginning_digest": None
                    if (text := say(entry, index)) is None
                    else digest(f"{replicate.number} {text}")
                }
                for index in range(REQUESTS)
            ]
            measure(repository.layout, entry, replicate, rows, **changes)
    return written(repository)


def written(repository: Repository) -> tuple[list[Row], list[Row]]:
    write_study(repository.study(), repository.layout)
    folder = repository.layout.study("small")
    return pq.read_table(folder / "cells.parquet").to_pylist(), pq.read_table(folder / "effects.parquet").to_pylist()


def right(_: StudyCell, index: int) -> str:
    return f"answer {index}"


def wrong_where(treatment: str, share: float = 1.0, load: str = "") -> Said:
    """Another answer to this share of the requests of a treatment."""

    def say(entry: StudyCell, index: int) -> str:
        wrong = entry.treatment.name == treatment and load in str(entry.load) and index < share * REQUESTS
        return f"garbage {index}" if wrong else right(entry, index)

    return say


def alike(cells: Sequence[Row], treatment: str) -> set[tuple[float | None, int | None]]:
    return {(row["answers_alike"], row["answers_compared"]) for row in cells if row["treatment"] == treatment}


def marked(effects: Sequence[Row]) -> set[tuple[str, str]]:
    """(treatment, load point) of what is said to have changed its answers."""
    return {(row["treatment"], row["load"]) for row in effects if "answers_changed" in row["cautions"]}


def test_the_same_answers_are_a_share_of_one_and_nothing_is_said(repository: Repository) -> None:
    cells, effects = answered(repository, right)
    assert alike(cells, OFF) == alike(cells, LIMITED) == alike(cells, "baseline") == {(1.0, REQUESTS)}
    assert marked(effects) == set()


def test_a_treatment_that_answers_something_else_is_named_with_what_was_seen(repository: Repository) -> None:
    """A cache answered from memory that nobody had filled: three times as fast, and every check of one cell passed."""
    cells, effects = answered(repository, wrong_where(OFF))
    assert alike(cells, OFF) == {(0.0, REQUESTS)}
    assert alike(cells, "baseline") == {(1.0, REQUESTS)}
    assert marked(effects) == {(OFF, "rate 8"), (OFF, "burst")}
    found = effect(effects, OFF)
    assert "0 of 48 answers to the same prompts begin as the baseline's, of whose own 48 of 48 do" in found["cautions"]
    moved = effect(effects, OFF, "answers_alike", None)
    assert (moved["baseline_value"], moved["treatment_value"]) == (1.0, 0.0)


def test_it_is_said_at_the_load_point_where_it_is_so(repository: Repository) -> None:
    _, effects = answered(repository, wrong_where(OFF, load="burst"))
    assert marked(effects) == {(OFF, "burst")}


def test_an_answer_that_the_baselines_server_gives_at_another_load_is_none_of_the_levers(
    repository: Repository,
) -> None:
    """Batches of other sizes round otherwise. The baseline's cell may choose the one that it agrees with; so may the treatment's."""
    repository.change("rates: [8, inf]", "rates: [4, 8, inf]")

    def say(entry: StudyCell, index: int) -> str:
        other = str(entry.load) == "rate 4" if entry.treatment.name == "baseline" else str(entry.load) == "burst"
        return f"{'rounded otherwise' if other else 'answer'} {index}"

    cells, effects = answered(repository, say)
    assert alike([row for row in cells if row["load"] == "burst"], OFF) == {(1.0, REQUESTS)}
    assert marked(effects) == set()


def test_a_few_other_answers_are_those_of_rounding(repository: Repository) -> None:
    """One of twelve."""
    cells, effects = answered(repository, wrong_where(OFF, share=1 / 12))
    assert alike(cells, OFF) == {(11 / 12, REQUESTS)}
    assert marked(effects) == set()


def test_a_baseline_that_does_not_agree_with_itself_says_nothing_of_others(repository: Repository) -> None:
    """Weights without a meaning let the smallest rounding choose another token: each cell answers in its own way."""
    cells, effects = answered(repository, lambda entry, index: f"{index} {entry.cell.id[-8:]}")
    assert alike(cells, "baseline") == alike(cells, OFF) == {(0.0, REQUESTS)}
    assert marked(effects) == set()


def test_the_baselines_copy_tells_what_is_usual(repository: Repository) -> None:
    """With one load point nothing else does: the copy is another lifetime of the same server, asked the same."""
    repository.change("rates: [8, inf]", "rates: [8]")
    repository.change("throughput at burst", "throughput at rate 8")
    cells, effects = answered(repository, wrong_where(OFF))
    assert alike(cells, "baseline") == {(None, None)}, "there is nothing to compare it with"
    assert marked(effects) == set()


def test_with_the_copy_one_load_point_is_enough(repository: Repository) -> None:
    repository.change("rates: [8, inf]", "rates: [8]")
    repository.change("throughput at burst", "throughput at rate 8\nnoise_floor: true")
    cells, effects = answered(repository, wrong_where(OFF))
    assert alike(cells, "baseline") == alike(cells, "baseline again") == {(1.0, REQUESTS)}
    assert marked(effects) == {(OFF, "rate 8")}


def test_a_lever_that_changes_answers_is_let_do_so(repository: Repository) -> None:
    repository.change("prefix_caching:\n  title", "prefix_caching:\n  answers: other\n  title", "config/levers.yaml")
    cells, effects = answered(repository, wrong_where(OFF))
    assert alike(cells, OFF) == {(0.0, REQUESTS)}, "it is told all the same"
    assert marked(effects) == set()


def test_cells_are_told_apart_by_what_they_are_and_not_by_their_order(repository: Repository) -> None:
    """A lever that may change answers was found by a row's place among the others: of rows in another order other cells were let do so."""
    repository.change("max_num_seqs:\n  title", "max_num_seqs:\n  answers: other\n  title", "config/levers.yaml")
    answered(repository, right)
    study = repository.study()
    rows = pq.read_table(repository.layout.study("small") / "cells.parquet").to_pylist()
    index = np.arange(REQUESTS)
    said = [Beginnings(index, np.array([f"{row['treatment'] == LIMITED}"] * REQUESTS, "S16")) for row in rows]
    told = {}
    for order in (1, -1):
        compare_answers(study, own := [dict(row) for row in rows][::order], said[::order])
        told[order] = {(row["cell"], row["replicate"]): (row["answers_alike"], row["answers_compared"]) for row in own}
    assert told[1] == told[-1]


def test_a_lever_may_change_the_answers_of_one_model_and_not_of_another(repository: Repository) -> None:
    """As one that changes those of dummy weights: a treatment that is let do so of one model is not of all."""
    answered(repository, wrong_where(OFF))
    study = repository.study()
    rows = pq.read_table(repository.layout.study("small") / "cells.parquet").to_pylist()
    here, elsewhere = [dict(row) for row in rows], [dict(row) | {"model": "other"} for row in rows]
    for row in elsewhere:
        row["cell"] = f"other-{row['cell']}"
    cells = [
        replace(
            entry,
            cell=SimpleNamespace(id=f"{prefix}{entry.cell.id}"),
            other_answers=prefix == "" and entry.treatment.name == OFF,
        )
        for prefix in ("", "other-")
        for entry in study.cells
    ]
    found = changed_answers(replace(study, cells=tuple(cells)), [*here, *elsewhere])
    assert {(context[1], treatment) for context, treatment, _ in found} == {("other", OFF)}


def test_other_prompts_are_not_compared(repository: Repository) -> None:
    repository.change("max_num_seqs: [64, 4]", "prefix_tokens: [256, 128]")
    repository.change("max_num_seqs: 64}", "prefix_tokens: 256}")
    repository.change("max_num_seqs: throughput at burst", "prefix_tokens: ttft_s p50 at burst")
    cells, effects = answered(repository, right)
    assert alike(cells, "prefix_tokens=128") == {(None, None)}
    assert alike(cells, OFF) == {(1.0, REQUESTS)}
    assert marked(effects) == set()


def test_answers_that_were_drawn_are_not_compared(repository: Repository) -> None:
    repository.change(
        "truth: {flags: {enable-prefix-caching: false}}", "truth: {request: {temperature: 0.7}}", "config/levers.yaml"
    )
    cells, effects = answered(repository, wrong_where(OFF))
    assert alike(cells, OFF) == {(None, None)}
    assert alike(cells, "baseline") == {(1.0, REQUESTS)}
    assert marked(effects) == set()


def test_cells_that_kept_nothing_of_their_answers_are_not_compared(repository: Repository) -> None:
    cells, effects = answered(repository, lambda entry, index: right(entry, index) if entry.treatment.changed else None)
    assert alike(cells, OFF) == alike(cells, "baseline") == {(None, None)}
    assert marked(effects) == set()


def test_tables_that_are_older_than_the_digests_are_read_as_before(repository: Repository) -> None:
    answered(repository, right)
    study = repository.study()
    for entry in study.cells:
        for replicate in study.replicates:
            folder = repository.layout.cell(entry.cell.server.id, str(replicate), entry.cell.phase.id)
            table = pq.read_table(folder / "requests.parquet")
            pq.write_table(table.drop_columns(["beginning_digest", "answer_digest"]), folder / "requests.parquet")
    cells, effects = written(repository)
    assert alike(cells, "baseline") == alike(cells, OFF) == {(None, None)}
    assert marked(effects) == set()
    assert pq.read_table(repository.layout.study("small") / "requests.parquet").column("answer_digest").null_count


def test_only_requests_that_both_answered_are_compared(repository: Repository) -> None:
    study = repository.study()
    for entry in study.cells:
        for replicate in study.replicates:
            failed = 20 if entry.treatment.name == OFF else REQUESTS
            rows = [
                request_row(
                    index, index / 8, status="ok" if index < failed else "cut", beginning_digest=digest(str(index))
                )
                for index in reversed(range(REQUESTS))
            ]
            measure(repository.layout, entry, replicate, rows)
    cells, _ = written(repository)
    assert alike(cells, OFF) == {(1.0, 20)}
    assert alike(cells, "baseline") == {(1.0, REQUESTS)}


def test_what_is_usual_comes_from_the_same_replicate(repository: Repository) -> None:
    """Replicates draw other prompts: request 0 of one is not that of another."""
    study = repository.study()
    keys = {entry.key(replicate) for entry in study.cells for replicate in study.replicates}
    assert keys == {ReplicateKey(1), ReplicateKey(2)}
    cells, _ = answered(repository, right)
    assert {row["answers_alike"] for row in cells} == {1.0}, (
        "the texts of the replicates differ, and none is compared with another"
    )


@pytest.mark.parametrize(("others", "said"), [(0, set()), (1, {(OFF, "rate 8"), (OFF, "burst")})])
def test_an_engine_that_answers_from_the_memory_of_another_prompt_is_found(
    repository: Repository, others: int, said: set[tuple[str, str]]
) -> None:
    """The real answers of an engine, given to the prompts that they belong to, and each to the prompt before."""
    study = repository.study()
    for entry in study.cells:
        shifted = others if entry.treatment.name == OFF else 0
        answers = [*REAL[shifted:], *REAL[:shifted]]
        rows = [request_row(index, index / 8, beginning_digest=answer) for index, answer in enumerate(answers)]
        for replicate in study.replicates:
            measure(repository.layout, entry, replicate, rows)
    cells, effects = written(repository)
    assert alike(cells, OFF) == {(float(not others), len(REAL))}
    assert alike(cells, LIMITED) == {(1.0, len(REAL))}
    assert marked(effects) == said


@pytest.mark.parametrize(
    ("lever", "level", "against", "weights", "other"),
    [
        ("prefix_caching", "off", "on", "dummy", False),
        ("quantization", "none", "fp8", "real", True),
        ("kv_cache_dtype", "fp8", "auto", "real", True),
        ("kv_cache_dtype", "auto", "fp8", "real", True),
        ("speculation", "draft", "off", "dummy", False),
        ("speculation", "synthetic-4", "off", "real", True),
        ("tensor_parallel", "2", "1", "real", False),
        ("tensor_parallel", "2", "1", "dummy", True),
        ("tensor_parallel", "2", "2", "dummy", False),
    ],
)
def test_levers_say_whether_they_change_answers(
    repository: Repository, lever: str, level: str, against: str, weights: str, other: bool
) -> None:
    told = repository.configuration().levers[lever]
    assert told.other_answers(level, against, dummy_weights=weights == "dummy") is other


def test_a_level_that_there_is_not_is_named(repository: Repository) -> None:
    repository.change("answers: {fp8: other}", "answers: {fp4: other}", "config/levers.yaml")
    with pytest.raises(ConfigError, match="answers speaks of level 'fp4', which is none of"):
        repository.configuration()


@pytest.mark.parametrize(
    ("count", "of", "usual", "usual_of", "said"),
    [
        (0, 24, 24, 24, True),
        (36, 48, 48, 48, True),
        (22, 24, 24, 24, False),  # less than a tenth of all
        (3, 4, 4, 4, False),  # too few to tell from chance
        (700, 1000, 900, 1000, True),  # three times as many others
        (840, 1000, 950, 1000, True),
        (820, 1000, 900, 1000, False),  # not twice as many others, and less than a tenth apart
        (600, 1000, 750, 1000, False),  # neither half as many alike nor twice as many others
        (200, 1000, 450, 1000, True),  # half as many alike
        (0, 1000, 80, 1000, False),
        (1000, 1000, 900, 1000, False),  # more than usual
        (0, 0, 24, 24, False),
        (0, 24, 0, 0, False),
    ],
)
def test_markedly_fewer(count: int, of: int, usual: int, usual_of: int, said: bool) -> None:
    assert markedly_fewer(count, of, usual, usual_of) is said
