"""Twins that were recorded elsewhere than the baseline's, or than the measured cell beside them: marked where they are held against it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from leverlab.profile.keeping import read_twin
from leverlab.records import write_json
from leverlab.report.mechanism import change_in_short, mechanism
from leverlab.report.page import render_study
from leverlab.report.questions import questions
from leverlab.report.source import StudyData
from leverlab.report.theory_values import theory_values
from leverlab.report.view import Row
from leverlab.report.why import changes_in_short, why
from tests.unit.recorded_twins import TREATMENT, of, with_twins
from tests.unit.report_studies import PROFILED
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.report_text import text_of
from tests.unit.test_report_explained import STUDY, why_of

Conditions = dict[str, Any]

HERE: Conditions = {
    "node": {"hostname": "worker-1"}, "cpu": {"logical": 32}, "memory": {"total_bytes": 270}, "versions": {"vllm": "1.2.3"},
    "git": {"commit": "0123abc", "dirty": False},
}  # fmt: skip
"""As the cells of the study's first replicate tell it, and what these do not tell."""
THERE = HERE | {"cpu": {"logical": 64}, "memory": {"total_bytes": 540}, "git": {"commit": "4567def", "dirty": False}}
OTHERS = "cpu.logical, git.commit, memory.total_bytes"
HOST = {"hostname": "worker-1", "boot_id": "3741d5b9"}
OTHER_GPU = "another GPU of the same host"


def on(*cards: str, node: Conditions = HOST, commit: str = "0123abc") -> Conditions:
    """Recorded on GPUs of these UUIDs."""
    gpu = {str(index): {"name": "H100", "uuid": card} for index, card in enumerate(cards)}
    return HERE | {"node": node, "git": {"commit": commit, "dirty": False}, "gpu": gpu}


@dataclass
class Twins:
    """The study with its two twins, as it is read with them recorded here or there."""

    study: ReportStudy
    folders: tuple[Path, Path]
    read: list[tuple[tuple[Conditions, Conditions], StudyData]]

    def recorded(self, baseline: Conditions, treatment: Conditions) -> StudyData:
        """Read once for each pair, twins too: their tables are the same each time."""
        where = baseline, treatment
        for known, data in self.read:
            if known == where:
                return data
        self.keep(*where)
        data = self.study.read()
        assert data.profiles
        self.read.append((where, data))
        return data

    def keep(self, *provenances: Conditions) -> None:
        for folder, provenance in zip(self.folders, provenances, strict=True):
            record = read_twin(folder)
            assert record is not None
            write_json(folder / "twin.json", record.model_copy(update={"provenance": provenance}))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    study = make_study(tmp_path_factory.mktemp("recorded"), PROFILED)
    data = with_twins(study)
    return Twins(study, (of(data, "baseline").folder, of(data, TREATMENT).folder), [])


def facts(data: StudyData) -> dict[str, Row]:
    """The rows of the table on twins, by the treatment."""
    (table,) = (table for table in why(data)[0].tables if table.caption == "What the twins show")
    return {row.cells[0].text: row for row in table.groups[0].rows}


def test_twins_of_the_same_conditions_bear_no_mark(twins: Twins) -> None:
    """Nor do those of which one does not tell its own."""

    def said(data: StudyData) -> tuple[Any, ...]:
        (part,) = why(data)
        captions = [(figure.why, figure.cannot) for figure in part.figures]
        sentence = mechanism(of(data, "baseline"), of(data, TREATMENT), "Off")
        return captions, part.tables, changes_in_short(data), sentence

    plain = said(twins.recorded({}, {}))
    assert "conditions" not in str(plain), "a word of every such mark"
    for baseline, treatment in ((HERE, HERE), (HERE, {})):
        assert said(twins.recorded(baseline, treatment)) == plain


def test_a_sentence_from_twins_of_other_conditions_names_these(twins: Twins) -> None:
    data = twins.recorded(HERE, THERE)
    said = mechanism(of(data, "baseline"), of(data, TREATMENT), "Off")
    assert said.startswith(f"Off (marked: the twins were not recorded under the same conditions: {OTHERS}): ")
    (answered,) = questions(data, theory_values(data))
    assert f"From profiles: {said}".replace("Off", data.label(TREATMENT), 1) in answered.sentences


def test_the_headline_is_marked_in_short(twins: Twins) -> None:
    data = twins.recorded(HERE, THERE)
    (line,) = changes_in_short(data)
    label = data.label(TREATMENT)
    assert line.startswith(f"{label} (marked: its twins were recorded under other conditions): ")
    (plain,) = changes_in_short(twins.recorded(THERE, THERE))
    assert line.replace(" (marked: its twins were recorded under other conditions)", "") == plain


def test_the_mark_is_the_same_from_the_other_side(twins: Twins) -> None:
    told = []
    for baseline, treatment in ((HERE, THERE), (THERE, HERE)):
        data = twins.recorded(baseline, treatment)
        pair = of(data, "baseline"), of(data, TREATMENT)
        for before, after in (pair, pair[::-1]):
            assert change_in_short(before, after, "Off").startswith("Off (marked: ")
            told.append(mechanism(before, after, "Off").partition("): ")[0])
    assert set(told) == {f"Off (marked: the twins were not recorded under the same conditions: {OTHERS}"}


def test_figures_and_the_table_say_whose_twin_was_recorded_elsewhere(twins: Twins) -> None:
    data = twins.recorded(HERE, THERE)
    label = data.label(TREATMENT)
    figures = {figure.why.partition(",")[0].partition(".")[0]: figure.cannot for figure in why(data)[0].figures}
    marked = (
        f" Marked: recorded under other conditions than the baseline's: {label} ({OTHERS}). What differs may come from these "
        "and not from the lever."
    )
    assert figures["which part of a step makes up the difference to the baseline's"].endswith(f"one run.{marked}")
    (bars,) = (said for why_look, said in figures.items() if why_look.startswith("what the time of a "))
    assert bars.endswith(" Marked: not all of them were recorded under the same conditions, as the table below says.")
    rows = facts(data)
    own = rows[label].cells[0]
    assert own.mark is not None and own.mark.word == "other conditions"
    assert own.note.endswith(
        f"; recorded under other conditions than the baseline's: {OTHERS}; than those of its measured cell: git.commit"
    )
    assert rows["Baseline"].cells[0].mark is None and "conditions" not in rows["Baseline"].cells[0].note


def test_a_twin_beside_a_cell_of_other_conditions_is_marked(twins: Twins) -> None:
    """Both twins of one machine, and the cells of another commit: the twins agree with each other, and not with what was measured."""
    data = twins.recorded(THERE, THERE)
    said = mechanism(of(data, "baseline"), of(data, TREATMENT), "Off")
    assert said.startswith("Off: ")
    assert " (marked: not measured under the conditions of the twins: git.commit)" in said
    assert all("Marked" not in figure.cannot for figure in why(data)[0].figures)
    for row in facts(data).values():
        named = dict(zip(("treatment", "step", "measured", "own", "slowed"), row.cells, strict=False))
        assert named["treatment"].mark is None
        for cell in (named["measured"], named["slowed"]):
            assert cell.mark is not None and cell.mark.word == "other conditions"
        assert named["treatment"].note.endswith(
            "; recorded under other conditions than those of its measured cell: git.commit"
        )
    one = twins.recorded(HERE, THERE)
    said = mechanism(of(one, "baseline"), of(one, TREATMENT), "Off")
    assert "(marked: not measured under the conditions of the treatment's twin: git.commit)" in said
    assert facts(one)["Baseline"].cells[2].mark is None


def test_measured_values_of_other_conditions_in_such_a_sentence_are_marked(twins: Twins) -> None:
    data = twins.recorded(HERE, HERE)
    before = of(data, "baseline")
    assert "marked" not in mechanism(before, of(data, TREATMENT), "Off")
    cells = data.cells.copy()
    other = cells["treatment"] == TREATMENT
    cells.loc[other, "provenance"] = cells.loc[other, "provenance"].str.replace("1.2.3", "4.5.6")
    said = mechanism(before, of(replace(data, cells=cells), TREATMENT), "Off")
    assert (
        "(marked: its cells were not measured under the same conditions: versions.vllm; not measured under the conditions of the "
        "treatment's twin: versions.vllm)" in said
    )


@pytest.mark.parametrize(
    ("baseline", "treatment", "mark"),
    [
        (on("GPU-a"), on("GPU-a"), ""),
        (on("GPU-a"), on("GPU-b"), f"one of the twins ran on {OTHER_GPU}"),
        (on("GPU-a", "GPU-b"), on("GPU-c", "GPU-a"), f"one of the twins ran on {OTHER_GPU}"),
        # The same GPUs in another order; more of them, which is what is compared; what is not known.
        (on("GPU-a", "GPU-b"), on("GPU-b", "GPU-a"), ""),
        (on("GPU-a"), on("GPU-b", "GPU-a"), ""),
        (on("GPU-a"), on("unknown"), ""),
        (on("GPU-a"), on(), ""),
        # Machines may share a name: where no boot is told, so is no host.
        (on("GPU-a", node=HERE["node"]), on("GPU-b"), "one of the twins ran on another GPU"),
        (
            on("GPU-a"),
            on("GPU-b", node=HOST | {"hostname": "worker-2"}),
            "the twins were not recorded under the same conditions: node.hostname",
        ),
        (
            on("GPU-a"),
            on("GPU-b", commit="4567def"),
            f"the twins were not recorded under the same conditions: git.commit, {OTHER_GPU}",
        ),
    ],
)
def test_a_sentence_from_twins_of_two_gpus_says_so(
    twins: Twins, baseline: Conditions, treatment: Conditions, mark: str
) -> None:
    data = twins.recorded({}, {})
    pair = tuple(
        replace(twin, record=twin.record.model_copy(update={"provenance": provenance}))
        for twin, provenance in ((of(data, "baseline"), baseline), (of(data, TREATMENT), treatment))
        if twin.record is not None
    )
    short = "its twins were recorded under other conditions" if "conditions" in mark else mark
    for before, after in (pair, pair[::-1]):
        for said, held in ((mechanism, mark), (change_in_short, short)):
            named = f" (marked: {held.replace('the twins', 'its twins') if said is change_in_short else held})"
            assert said(before, after, "Off").startswith(f"Off{named if held else ''}: ")


def test_figures_and_the_table_say_whose_twin_ran_on_another_gpu(twins: Twins) -> None:
    data = twins.recorded(on("GPU-a"), on("GPU-b"))
    label = data.label(TREATMENT)
    (part,) = why(data)
    figures = {figure.why.partition(",")[0].partition(".")[0]: figure.cannot for figure in part.figures}
    marked = f" Marked: recorded on {OTHER_GPU} than the baseline's: {label}. What differs may come from that and not from the lever."
    assert figures["which part of a step makes up the difference to the baseline's"].endswith(f"one run.{marked}")
    (bars,) = (said for why_look, said in figures.items() if why_look.startswith("what the time of a "))
    assert bars.endswith(" Marked: not all of them were recorded on the same GPU, as the table below says.")
    own = facts(data)[label].cells[0]
    assert own.mark is not None and own.mark.word == "another GPU"
    assert own.note.endswith(f"; recorded on {OTHER_GPU} than the baseline's")
    assert facts(data)["Baseline"].cells[0].mark is None


def test_a_twin_beside_a_cell_of_another_gpu_is_marked(twins: Twins) -> None:
    twins.keep(on("GPU-a"), on("GPU-a"))  # read again with each table of cells
    data = twins.study.read()
    cells = data.cells.copy()
    cells["provenance"] = json.dumps(on("GPU-b"), sort_keys=True)
    both = replace(data, cells=cells)
    said = mechanism(of(both, "baseline"), of(both, TREATMENT), "Off")
    assert said.startswith("Off: ")
    assert f" (marked: measured on {OTHER_GPU} than the twins)" in said
    for row in facts(both).values():
        named = dict(zip(("treatment", "step", "measured", "own", "slowed"), row.cells, strict=False))
        assert named["treatment"].mark is None
        assert named["treatment"].note.endswith(f"; recorded on {OTHER_GPU} than its measured cell")
        for cell in (named["measured"], named["slowed"]):
            assert cell.mark is not None and cell.mark.word == "another GPU"
    cells.loc[cells["treatment"] == TREATMENT, "provenance"] = json.dumps(on("GPU-a"), sort_keys=True)
    one = replace(data, cells=cells)
    said = mechanism(of(one, "baseline"), of(one, TREATMENT), "Off")
    assert (
        f" (marked: one of its cells was measured on {OTHER_GPU}; measured on {OTHER_GPU} than the baseline's twin)"
        in said
    )


def test_a_study_that_twins_of_another_explain_has_their_marks(twins: Twins) -> None:
    twins.keep(HERE, THERE)
    page = render_study(make_study(twins.study.root, "explained", text=STUDY).read())
    mark = f"(marked: the twins were not recorded under the same conditions: {OTHERS}): "
    assert f"From the profiles of “profiled”: Prefix caching off instead of on {mark}" in text_of(page)
    assert "other conditions" in text_of(why_of(page))
