"""Every metric of the course is in a study, and docs/course-map.md says where."""

import shutil
import sys
from pathlib import Path

import pytest

from leverlab.config import ConfigError, load
from leverlab.config.course_rows import read_course
from leverlab.course_map import PAGE, course_map, main
from tests.unit.repository import SOURCE


def page_of(root: Path) -> str:
    return course_map(load(root, {"study": []}), read_course(root))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("config", "envs"):
        shutil.copytree(SOURCE / folder, tmp_path / folder)
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_the_page_has_not_drifted() -> None:
    assert (SOURCE / PAGE).read_text(encoding="utf-8") == page_of(SOURCE), "run `python -m leverlab.course_map`"


def test_every_row_of_the_course_is_on_the_page() -> None:
    page = (SOURCE / PAGE).read_text(encoding="utf-8")
    entries = read_course(SOURCE).values()
    assert {entry.week for entry in entries if entry.week} == set(range(1, 17))
    for entry in entries:
        for row in [*entry.metrics, *entry.everywhere, *entry.not_measured]:
            assert row in page


def test_every_study_that_asks_something_is_on_the_page_with_its_document() -> None:
    page = (SOURCE / PAGE).read_text(encoding="utf-8")
    beside = page.partition("## Studies beside the weeks")[2].partition("## Document 000")[0]
    configuration = load(SOURCE, {"study": []})
    for name in configuration.study_names():
        study = configuration.study(name)
        assert (f"| `{name}` | " in beside) == (bool(study.questions or study.profile) and study.week is None), name
    assert "| `hit-ratios` | Document 000: How much" in beside and "| `capstone` | Week 16: Which levers" in beside
    assert "| `where-time-goes-tp2` | Explains `week02-offline-throughput`, " in beside and "No document" not in beside


def test_what_is_not_measured_says_why(copy: Path) -> None:
    path = copy / "config" / "course.yaml"
    assert "| invalid JSON rate | not measured, because drawn words" in page_of(copy)
    path.write_text(path.read_text().replace("    invalid JSON rate:", "    Error rate:"))
    with pytest.raises(ConfigError, match="not_measured: 'Error rate' is measured"):
        read_course(copy)


def test_a_study_that_is_not_there_is_named(copy: Path) -> None:
    path = copy / "config" / "course.yaml"
    path.write_text(path.read_text().replace("[tuning-matrix, adapters]", "[tuning-matrices, adapters]"))
    with pytest.raises(ConfigError, match=r"document-002\.studies: there is no study 'tuning-matrices' without a week"):
        page_of(copy)


def test_a_row_that_no_study_collects_is_missed(copy: Path) -> None:
    path = copy / "config" / "studies" / "week04-paged-attention.yaml"
    text = path.read_text()
    assert '  "Memory waste %": block_waste_ratio\n' in text
    path.write_text(text.replace('  "Memory waste %": block_waste_ratio\n', ""))
    with pytest.raises(ConfigError, match="week-04: no study of week 4 collects 'Memory waste %'"):
        page_of(copy)


def test_a_new_metric_of_a_study_changes_the_page(copy: Path) -> None:
    before = page_of(copy)
    path = copy / "config" / "studies" / "week07-continuous-batching.yaml"
    path.write_text(path.read_text().replace("collects:\n", "collects:\n  Waiting: mean_waiting\n", 1))
    added = set(page_of(copy).splitlines()) - set(before.splitlines())
    (line,) = added
    assert "| Waiting | `mean_waiting` | server gauges | One cell over time |" in line


def test_the_command_finds_drift_and_mends_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["course_map", *arguments])
        return main()

    assert run("--check") == 1 and not (copy / PAGE).exists()
    assert run() == 0 and run("--check") == 0
    (copy / PAGE).write_text("something else")
    assert run("--check") == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("week: 7, metrics", "metrics", "give `week` and `metrics`, or `everywhere`"),
        ("ITL: chunk_gap_s p50", "ITL: chunk_gaps p50", "there is no metric 'chunk_gaps'"),
    ],
)
def test_a_mistake_is_named(copy: Path, old: str, new: str, said: str) -> None:
    path = copy / "config" / "course.yaml"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=said):
        read_course(copy)
