"""Studies that a repository keeps: their tables, their pages, and a list that says what was not run."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.report.reference import publish, render_reference
from leverlab.report.source import read_study
from tests.unit.report_study import CROSSED, SIMULATED, TROUBLED, ReportStudy, make_study
from tests.unit.test_report_page import text_of


@pytest.fixture
def study(tmp_path: Path) -> ReportStudy:
    return make_study(tmp_path, CROSSED)


def test_a_published_study_has_its_tables_and_a_page_that_leads_to_them(study: ReportStudy, tmp_path: Path) -> None:
    folder = tmp_path / "reference" / "lab"
    publish(CROSSED, study.configuration, study.layout, folder)
    page = (folder / f"{CROSSED}.html").read_text()
    for table in ("cells", "effects", "requests"):
        assert f'href="{CROSSED}/{table}.parquet"' in page
        assert pq.read_table(folder / CROSSED / f"{table}.parquet").equals(
            pq.read_table(study.layout.study(CROSSED) / f"{table}.parquet")
        )


def test_the_list_is_made_from_the_tables_beside_it(study: ReportStudy, tmp_path: Path) -> None:
    folder = tmp_path / "reference" / "lab"
    publish(CROSSED, study.configuration, study.layout, folder)
    shutil.rmtree(study.layout.study(CROSSED))
    listed = text_of(render_reference("lab", study.configuration, study.layout, folder))
    kept = read_study(CROSSED, study.configuration, study.layout, folder / CROSSED)
    assert kept.study.question in listed
    assert f"{len(kept.cells)} cells measured" in listed


def test_tables_that_are_older_than_a_metric_are_read(study: ReportStudy) -> None:
    path = study.layout.study(CROSSED) / "cells.parquet"
    before = study.write_report().read_text()
    pq.write_table(pq.read_table(path).drop_columns(["proxy_added_s", "tpot_s_p99"]), path)
    after = study.write_report().read_text()
    assert "Output throughput" in text_of(before) and "Output throughput" in text_of(after)


def test_a_week_that_was_not_measured_is_said_to_be_not_run(study: ReportStudy, tmp_path: Path) -> None:
    folder = tmp_path / "reference" / "lab"
    publish(CROSSED, study.configuration, study.layout, folder)
    file = study.configuration.study_folder / f"{CROSSED}.yaml"
    other = file.read_text() + "\nweek: 9\ntitle: Something else\n"
    (file.parent / "week09-another.yaml").write_text(other)
    listed = text_of(render_reference("lab", study.configuration, study.layout, folder))
    assert "Something else: not run" in listed


def test_dummy_weights_are_said_where_a_real_engine_had_them(tmp_path: Path) -> None:
    real = make_study(tmp_path / "a", TROUBLED, records=False)
    assert real.read().dummy_models == ["tiny-llama"]
    assert "Dummy weights: tiny-llama" in text_of(real.write_report().read_text())
    assert make_study(tmp_path / "b", SIMULATED, records=False).read().dummy_models == []
