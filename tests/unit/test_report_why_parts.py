"""Twins that were broken off: marked wherever what they recorded is told, and chosen after whole ones."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from leverlab.profile.keeping import read_twin
from leverlab.profile.twin import COUNTERS
from leverlab.records import Reason, write_json
from leverlab.report.mechanism import change_in_short, mechanism
from leverlab.report.page import render_study
from leverlab.report.questions import questions
from leverlab.report.source import StudyData
from leverlab.report.theory_values import theory_values
from leverlab.report.twin_conditions import IN_PART, caution
from leverlab.report.why import changes_in_short, recorded_sentences, why
from tests.unit.recorded_twins import TREATMENT, of, with_twins
from tests.unit.report_studies import PROFILED
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.report_text import text_of
from tests.unit.test_report_explained import STUDY

INTERRUPTED = Reason(code="interrupted", message="The job was told to end by signal 15.")
DIED = Reason(code="server_died", message="The server ended by itself.")
Parts = Mapping[str, Reason]


@dataclass
class Twins:
    """The study with the twins of the baseline and of the treatment, read with some of them broken off."""

    study: ReportStudy
    folders: dict[str, Path]
    kept: list[tuple[Parts, StudyData]]

    def broken_off(self, parts: Parts) -> StudyData:
        for known, data in self.kept:
            if known == parts:
                return data
        self.keep(parts)
        data = self.study.read()
        assert data.profiles
        self.kept.append((parts, data))
        return data

    def keep(self, parts: Parts) -> None:
        for treatment, folder in self.folders.items():
            record = read_twin(folder)
            assert record is not None
            write_json(folder / "twin.json", record.model_copy(update={"partial": parts.get(treatment)}))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    study = make_study(tmp_path_factory.mktemp("broken-off"), PROFILED)
    data = with_twins(study)
    return Twins(study, {name: of(data, name).folder for name in ("baseline", TREATMENT)}, [])


def test_whole_twins_bear_no_mark(twins: Twins) -> None:
    assert "in part" not in render_study(twins.broken_off({}))


@pytest.mark.parametrize(
    ("parts", "mark"),
    [
        ({TREATMENT: DIED}, "the treatment's twin was recorded in part: server died"),
        ({"baseline": INTERRUPTED}, "the baseline's twin was recorded in part: interrupted"),
        ({"baseline": DIED, TREATMENT: DIED}, "both twins were recorded in part: server died"),
        (
            {"baseline": INTERRUPTED, TREATMENT: DIED},
            "the baseline's twin was recorded in part: interrupted; the treatment's twin was recorded in part: server died",
        ),
    ],
)
def test_what_two_twins_say_together_is_marked(twins: Twins, parts: Parts, mark: str) -> None:
    data = twins.broken_off(parts)
    pair, label = (of(data, "baseline"), of(data, TREATMENT)), data.label(TREATMENT)
    said = mechanism(*pair, label)
    assert said.startswith(f"{label} (marked: {mark}): ")
    (answered,) = questions(data, theory_values(data))
    assert f"From profiles: {said}" in answered.sentences
    (line,) = changes_in_short(data)
    assert line == change_in_short(*pair, label) and line.startswith(f"{label} (marked: {mark}): ")
    whole = twins.broken_off({})
    assert said.replace(f" (marked: {mark})", "") == mechanism(of(whole, "baseline"), of(whole, TREATMENT), label)


def test_what_one_twin_says_is_marked_and_that_of_the_whole_one_is_not(twins: Twins) -> None:
    (part,) = why(twins.broken_off({TREATMENT: DIED}))
    baseline, treatment = part.anatomies
    assert baseline.startswith("Baseline: ") and " (marked: recorded in part: server died): " in treatment
    (told,) = part.partial
    assert told.endswith("what it had recorded by then is told: The server ended by itself.")


@pytest.mark.parametrize("broken_off", ["baseline", TREATMENT])
def test_figures_and_the_table_say_which_twin_is_a_part(twins: Twins, broken_off: str) -> None:
    data = twins.broken_off({broken_off: DIED})
    label = "Baseline" if broken_off == "baseline" else data.label(TREATMENT)
    (part,) = why(data)
    captions = [figure.cannot for figure in part.figures]
    mark = f" Marked: recorded in part: {label} (server died)."
    assert [caption.endswith(mark) for caption in captions] == [True] * (len(captions) - 1) + [False], (
        "but kernels drawn"
    )
    (table,) = (table for table in part.tables if table.caption == "What the twins show")
    for row in table.groups[0].rows:
        cell = row.cells[0]
        assert (cell.mark == caution(IN_PART)) is (cell.text == label)
        assert ("; recorded in part: server died" in cell.note) is (cell.text == label)


def test_a_study_that_twins_of_another_explain_has_their_marks(twins: Twins) -> None:
    twins.keep({TREATMENT: DIED})
    page = unescape(text_of(render_study(make_study(twins.study.root, "explained", text=STUDY).read())))
    mark = "(marked: the treatment's twin was recorded in part: server died): "
    assert f"From the profiles of “profiled”: Prefix caching off instead of on {mark}" in page


@pytest.fixture
def counted(tmp_path: Path) -> StudyData:
    """A whole twin of the baseline, and one by Nsight Compute that was broken off."""
    study = make_study(tmp_path, PROFILED)
    twin = of(with_twins(study), "baseline")
    assert twin.record is not None
    folder = twin.folder.with_name("ncu")
    folder.mkdir()
    write_json(folder / "twin.json", twin.record.model_copy(update={"tool": "ncu", "partial": INTERRUPTED}))
    kernel = {
        "kernel": "flash",
        "class": "attention",
        "duration_s": 1e-5,
        "compute_share": 0.2,
        "memory_share": 0.5,
        "dram_share": 0.5,
    }
    pd.DataFrame([kernel]).to_parquet(folder / COUNTERS)
    return study.read()


def test_counters_that_were_broken_off_are_marked_and_the_whole_recording_beside_them_is_not(
    counted: StudyData,
) -> None:
    twin = of(counted, "baseline")
    assert twin.partial is None and twin.counters_partial == INTERRUPTED
    (said,) = (sentence for sentence in recorded_sentences(counted) if "the busiest part" in sentence)
    assert said.startswith("Baseline (marked: recorded in part: interrupted), attention: ")
    (part,) = why(counted)
    assert part.partial == (
        f"Baseline, counters: it was broken off, and what it had counted by then is told: {INTERRUPTED.message}",
    )
    (table,) = (table for table in part.tables if table.caption == "Counters of kernels")
    assert [group.title for group in table.groups] == ["Baseline (marked: recorded in part: interrupted)"]
    assert not any("in part" in sentence for sentence in part.anatomies)


def test_a_whole_recording_is_told_before_a_part_by_another_profiler_and_a_part_before_counters(tmp_path: Path) -> None:
    study = make_study(tmp_path, PROFILED)
    whole = of(with_twins(study), "baseline")
    assert whole.record is not None and whole.record.tool == "torch"
    part = whole.folder.with_name("nsys")
    shutil.copytree(whole.folder, part)
    write_json(part / "twin.json", whole.record.model_copy(update={"tool": "nsys", "partial": DIED}))
    assert of(study.read(), "baseline").folder == whole.folder
    ncu = whole.folder.with_name("ncu")
    ncu.mkdir()
    write_json(ncu / "twin.json", whole.record.model_copy(update={"tool": "ncu"}))
    shutil.rmtree(whole.folder)
    told = of(study.read(), "baseline")
    assert told.folder == part and told.recorded is not None and told.partial == DIED
