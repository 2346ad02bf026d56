"""What is held against cells stands behind every answer that rests on them, and in the primary rows of the tables."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.cautions import Caution
from leverlab.report.doubts import doubts_in
from leverlab.report.effect_tables import before_after
from leverlab.report.questions import questions
from leverlab.report.source import StudyData
from leverlab.report.theory_values import theory_values
from tests.unit.report_studies import ROOFED, STUDIES
from tests.unit.report_study import make_study

Row = dict[str, Any]

STUDY = """\
question: What speaks against each answer?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1, 4]}
levers: {prefix_caching: [on, off], max_num_seqs: [64, 4, 16]}
baseline: {prefix_caching: on, max_num_seqs: 64}
design: factorial
primary: {prefix_caching: ttft_s p50 at rate 1}
replicates: 3
questions:
  - ask: effect
    answers: [{kind: effect, lever: prefix_caching, metrics: [ttft_s p50]}]
  - ask: each
    answers: [{kind: effect, lever: prefix_caching, each: max_num_seqs, metrics: [ttft_s p50 at rate 1]}]
  - ask: levels
    answers: [{kind: levels, lever: max_num_seqs, metrics: [ttft_s p50 at rate 1]}]
  - ask: line
    answers: [{kind: line, lever: max_num_seqs, metrics: [ttft_s p50 at rate 1]}]
  - ask: load
    answers: [{kind: load, metrics: [ttft_s p50]}]
  - ask: range
    answers:
      - {kind: range, lever: prefix_caching, metric: ttft_s p50 at rate 1, expected: {on: [0, 1], off: [0, 1]}, source: the course}
  - ask: expected
    answers:
      - {kind: expected, lever: prefix_caching, of: off, against: on, metric: ttft_s p50 at rate 1, direction: increases, because: Prompts.}
  - ask: stacking
    answers: [{kind: stacking, levers: [prefix_caching, max_num_seqs], metrics: [ttft_s p50 at rate 1]}]
  - ask: saturation
    answers: [{kind: saturation}]
"""
OFF = "prefix_caching=off"


def marked(root: Path, codes: Callable[[Row], str], text: str = STUDY) -> StudyData:
    """The study, with the codes of each cell's cautions as `codes` gives them."""
    study = make_study(root, "asked", text=text, records=False)
    path = study.layout.study(study.name) / "cells.parquet"
    table = pq.read_table(path)
    rows = [row | {"checks": "caution" if codes(row) else "ok", "check_codes": codes(row)} for row in table.to_pylist()]
    pq.write_table(table.from_pylist(rows, table.schema), path)
    return study.read()


def answers(data: StudyData) -> dict[str, tuple[str, ...]]:
    return {answer.ask: answer.sentences for answer in questions(data, theory_values(data))}


def of_off(row: Row) -> str:
    """One replicate of the treatment that turns prefix caching off."""
    return "gpu_throttled" if (row["treatment"], row["replicate"]) == (OFF, "r2") else ""


def test_nothing_is_said_where_every_cell_is_sound(tmp_path: Path) -> None:
    data = marked(tmp_path, lambda row: "")
    assert not [said for told in answers(data).values() for said in told if "Marked" in said]


@pytest.mark.parametrize(
    ("asked", "of", "mark"),
    [
        # Both load points are one sentence or two: the cells of each load point count once.
        ("effect", "Prefix caching off", " of its "),
        ("levels", "", ""),
        ("line", "", ""),
        ("load", "Prefix caching off instead of on:", " Marked: 2 of its 6 cells carry a caution: gpu throttled."),
        ("range", "Prefix caching off", " Marked: 1 of its 3 cells carries a caution: gpu throttled."),
        ("expected", "Confirmed", " Marked: 1 of its 6 cells carries a caution: gpu throttled."),
        ("stacking", "", " Marked: 1 of its 12 cells carries a caution: gpu throttled."),
        (
            "saturation",
            "Prefix caching off instead of on:",
            " Marked: 2 of its 6 cells carry a caution: gpu throttled.",
        ),
    ],
)
def test_an_answer_says_what_is_held_against_its_own_cells(tmp_path: Path, asked: str, of: str, mark: str) -> None:
    told = answers(marked(tmp_path, of_off))[asked]
    own = [said for said in told if said.startswith(of)] if mark else []
    others = [said for said in told if said not in own]
    assert bool(own) == bool(mark)
    assert all(said.endswith(mark) or (asked == "effect" and mark in said) for said in own)
    assert not [said for said in others if "Marked" in said], "these rest on no marked cell"


def test_levels_and_lines_are_marked_with_the_cells_of_all_levels(tmp_path: Path) -> None:
    told = answers(marked(tmp_path, lambda row: "drift" if row["treatment"] == "max_num_seqs=16" else ""))
    for asked in ("levels", "line"):
        (said,) = told[asked]
        assert said.endswith(" Marked: 3 of its 9 cells carry a caution: drift.")


def test_an_effect_at_another_levers_level_rests_on_the_cells_there(tmp_path: Path) -> None:
    both = f"{OFF}, max_num_seqs=4"
    data = marked(tmp_path, lambda row: "drift" if row["treatment"] == both else "")
    assert both in set(data.cells["treatment"])
    at = {said.partition(":")[0].split()[-1]: said for said in answers(data)["each"]}
    assert at["4"].endswith(" Marked: 3 of its 6 cells carry a caution: drift.")
    assert "Marked" not in at["64"] + at["16"]


def test_the_codes_of_most_cells_are_named_and_the_others_counted(tmp_path: Path) -> None:
    def codes(row: Row) -> str:
        if row["treatment"] != OFF:
            return ""
        return "send_late,drift,stalled,shared_core" if row["replicate"] == "r1" else "shared_core,stalled"

    (said,) = answers(marked(tmp_path, codes))["expected"]
    assert said.endswith(" Marked: 3 of its 6 cells carry a caution: stalled, shared core, send late and 1 more.")


def test_sides_of_other_conditions_are_said_and_of_how_many_comparisons(tmp_path: Path) -> None:
    data = marked(tmp_path, lambda row: "")
    elsewhere = (Caution("provenance_differs", "another node"),)
    effects = tuple(
        replace(effect, cautions=elsewhere) if effect.treatment == "max_num_seqs=4" else effect
        for effect in data.effects
    )
    told = answers(replace(data, effects=effects))
    held = " Marked: its sides were measured under other conditions in 1 of 2 comparisons."
    assert told["levels"][0].endswith(held)
    assert told["line"][0].endswith(held)
    assert "Marked" not in told["expected"][0]


def test_a_measured_value_beside_theory_is_marked_and_a_property_is_not(tmp_path: Path) -> None:
    data = marked(tmp_path, of_off, STUDIES[ROOFED])
    told = next(iter(answers(data).values()))
    floors = [said for said in told if "decode" in said and "(measured)" in said]
    assert len(floors) > 1
    assert [said.endswith(" Marked: 1 of its 3 cells carries a caution: gpu throttled.") for said in floors] == [
        said.startswith("Prefix caching off") for said in floors
    ]
    assert not [said for said in told if "by theory" in said and "Marked" in said]


def test_primary_rows_of_the_tables_are_marked(tmp_path: Path) -> None:
    data = marked(tmp_path, of_off)
    own = [effect for effect in data.effects if effect.treatment == OFF and effect.metric == "ttft_s"]
    table = before_after("effects-0", own, data.telling, doubts_in(data), "Main metrics")
    notes = {row.primary: row.cells[-1].note for group in table.groups for row in group.rows}
    assert notes == {True: "marked: 1 of its 6 cells carries a caution: gpu throttled", False: ""}
