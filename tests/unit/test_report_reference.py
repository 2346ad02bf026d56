"""Studies that a repository keeps: their tables, their pages, and a list that says what was not run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.effects import effect_rows
from leverlab.aggregate.schema import effects_schema, table_of
from leverlab.matrix.expand import expand
from leverlab.report.beside_theory import left_out
from leverlab.report.reference import publish, render_reference
from leverlab.report.source import read_study
from leverlab.report.theory_values import theory_values
from tests.unit.report_studies import CROSSED, SIMULATED, TROUBLED
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.report_text import text_of

LAB = Path("reference", "lab")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ReportStudy:
    """A study that is published in the folder `reference/lab` beside it; tests that change it take a copy."""
    study = make_study(tmp_path_factory.mktemp("published"), CROSSED)
    publish(CROSSED, study.configuration, study.layout, study.root / LAB)
    return study


@pytest.fixture
def copied(published: ReportStudy, tmp_path: Path) -> ReportStudy:
    shutil.copytree(published.root, tmp_path, dirs_exist_ok=True)
    return ReportStudy(tmp_path, CROSSED)


def test_a_published_study_has_its_tables_and_a_page_that_leads_to_them(published: ReportStudy) -> None:
    folder = published.root / LAB
    page = (folder / f"{CROSSED}.html").read_text()
    for table in ("cells", "effects", "requests"):
        assert f'href="{CROSSED}/{table}.parquet"' in page
        assert pq.read_table(folder / CROSSED / f"{table}.parquet").equals(
            pq.read_table(published.layout.study(CROSSED) / f"{table}.parquet")
        )


def test_the_list_is_made_from_the_tables_beside_it(copied: ReportStudy) -> None:
    folder = copied.root / LAB
    shutil.rmtree(copied.layout.study(CROSSED))
    listed = text_of(render_reference("lab", copied.configuration, copied.layout, folder))
    kept = read_study(CROSSED, copied.configuration, copied.layout, folder / CROSSED)
    assert kept.study.question in listed
    assert f"{len(kept.cells)} cells measured" in listed


def test_theory_is_told_from_the_published_tables_alone(copied: ReportStudy) -> None:
    """The lengths of requests were read below results/ alone: a page made again without them lost every floor and ceiling."""
    folder = copied.root / LAB / CROSSED
    before = theory_values(copied.read())
    shutil.rmtree(copied.layout.study(CROSSED))
    kept = read_study(CROSSED, copied.configuration, copied.layout, folder)
    after = theory_values(replace(kept, published=folder))
    assert before.values == after.values
    assert "decode_floor_s" in {value.quantity.name for value in after.values}
    (folder / "requests.parquet").unlink()
    lost = theory_values(replace(kept, published=folder))
    assert "decode_floor_s" not in {value.quantity.name for value in lost.values}
    assert "no request tells" in " ".join(left_out(kept, lost)), "and the page says so"


def test_tables_that_are_older_than_a_metric_are_read(copied: ReportStudy) -> None:
    path = copied.layout.study(CROSSED) / "cells.parquet"
    before = (copied.root / LAB / f"{CROSSED}.html").read_text()
    pq.write_table(pq.read_table(path).drop_columns(["proxy_added_s", "tpot_s_p99"]), path)
    after = copied.write_report().read_text()
    assert "Output throughput" in text_of(before) and "Output throughput" in text_of(after)


def test_a_week_that_was_not_measured_is_said_to_be_not_run(copied: ReportStudy) -> None:
    folder = copied.root / LAB
    file = copied.configuration.study_folder / f"{CROSSED}.yaml"
    other = file.read_text() + "\nweek: 9\ntitle: Something else\n"
    (file.parent / "week09-another.yaml").write_text(other)
    listed = text_of(render_reference("lab", copied.configuration, copied.layout, folder))
    assert "Something else: not run" in listed


def test_a_study_without_a_week_that_asks_and_was_not_measured_is_said_to_be_not_run(copied: ReportStudy) -> None:
    folder = copied.root / LAB
    file = copied.configuration.study_folder / f"{CROSSED}.yaml"
    question = 'questions: [{ask: "And?", answers: [{kind: effect, lever: prefix_caching, metrics: [ttft_s p50]}]}]'
    for name, more in (("asking", f"title: It asks\n{question}\n"), ("silent", "title: It asks nothing\n")):
        (file.parent / f"{name}.yaml").write_text(f"{file.read_text()}\n{more}")
    listed = text_of(render_reference("lab", copied.configuration, copied.layout, folder))
    assert "It asks: not run" in listed and "It asks nothing" not in listed


def test_the_list_ranks_the_levers_from_the_tables_beside_it(copied: ReportStudy) -> None:
    folder = copied.root / LAB
    shutil.rmtree(copied.layout.study(CROSSED))
    page = render_reference("lab", copied.configuration, copied.layout, folder)
    listed = text_of(page)
    assert "Levers by TTFT, median" in listed and "Prefix caching on, not off: off worsens" in listed
    assert "for sure at least ×" in listed
    assert "The three largest 1. Prefix caching off instead of on worsens" in " ".join(listed.split())
    assert f'href="{CROSSED}.html">{CROSSED}</a>' in page


def test_of_invalid_cells_the_list_ranks_and_recommends_nothing(copied: ReportStudy) -> None:
    for folder in (copied.root / LAB / CROSSED, copied.layout.study(CROSSED)):
        cells = pq.read_table(folder / "cells.parquet")
        rows = [{**row, "checks": "invalid"} for row in cells.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, cells.schema), folder / "cells.parquet")
        (matrix,) = expand(copied.configuration, [CROSSED]).studies
        pq.write_table(table_of(effect_rows(matrix, rows), effects_schema()), folder / "effects.parquet")
    listed = text_of(render_reference("lab", copied.configuration, copied.layout, copied.root / LAB))
    assert "There is nothing to rank." in listed and "No recommendation" in listed
    assert "primary comparisons have no verdict (invalid cells, or too few pairs) and are not ranked" in listed


def test_dummy_weights_are_said_where_a_real_engine_had_them(tmp_path: Path) -> None:
    real = make_study(tmp_path / "a", TROUBLED, records=False)
    assert real.read().dummy_models == ["tiny-llama"]
    assert "Dummy weights: tiny-llama" in text_of(real.write_report().read_text())
    assert make_study(tmp_path / "b", SIMULATED, records=False).read().dummy_models == []
