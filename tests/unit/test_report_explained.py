"""A study whose mechanism another study's twins explain: what its page takes from them, and when it leaves it."""

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leverlab.config import ConfigError
from leverlab.profile.keeping import read_twin
from leverlab.report.page import render_study
from leverlab.report.reference import publish
from tests.unit.recorded_twins import with_twins
from tests.unit.report_studies import PROFILED
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.test_report_page import text_of

STUDY = """\
title: The explained
question: What does prefix caching do?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [4]}
levers: {prefix_caching: [on, off], max_num_seqs: [64]}
baseline: {prefix_caching: on, max_num_seqs: 64}
primary: {prefix_caching: ttft_s p50 at rate 4}
replicates: 3
explained_by: [profiled]
questions:
  - ask: Where does the time go?
    answers: [{kind: profile, shows: time by class}]
collects:
  Kernel time: "profile: time by class"
"""
OWN = STUDY + "profile: {at: [rate 4]}\n"


@pytest.fixture
def explained(tmp_path: Path) -> ReportStudy:
    with_twins(make_study(tmp_path, PROFILED))
    return make_study(tmp_path, "explained", text=STUDY)


def why_of(page: str) -> str:
    start = page.index('id="why"')
    return page[start : page.index("</section>", start)]


def test_the_page_tells_what_the_other_studys_twins_say_of_its_lever(explained: ReportStudy) -> None:
    page = render_study(explained.read())
    section, text = why_of(page), text_of(page)
    assert "From the study “profiled”: 1 request/s" in text_of(section)
    assert "Prefix caching off instead of on: " in text_of(section)
    assert "shared-prefix prompts (" in text_of(section), "the load that its times are of"
    assert 'href="profiled.html#why"' in section
    assert "Maximum number" not in text_of(section) and "its twin has not run" not in section
    assert "From the profiles of “profiled”: Prefix caching off instead of on: " in text
    assert "Not answered" not in text
    assert "time by class (under “Why: what the profiles show”, by the twins of “profiled”)" in text


def test_without_a_lever_in_common_it_is_the_baseline_alone(tmp_path: Path) -> None:
    with_twins(make_study(tmp_path, PROFILED))
    text = STUDY.replace(
        "prefix_caching: [on, off], max_num_seqs: [64]", "prefix_caching: [on], max_num_seqs: [64, 8]"
    ).replace("primary: {prefix_caching", "primary: {max_num_seqs")
    section = text_of(why_of(render_study(make_study(tmp_path, "explained", text=text).read())))
    assert "Baseline: a decode step of " in section and "Prefix caching off" not in section


def test_what_did_not_run_explains_nothing(explained: ReportStudy) -> None:
    shutil.rmtree(explained.layout.results / "profiles")
    page = render_study(explained.read())
    assert 'id="why"' not in page
    assert "none was taken beside this study; the twins of profiled would explain it too" in text_of(page)
    shutil.rmtree(explained.layout.study(PROFILED))
    assert 'id="why"' not in render_study(explained.read())


def test_a_damaged_or_foreign_table_of_the_other_study_leaves_the_page_standing(explained: ReportStudy) -> None:
    for table in ("accuracy", "saturation", "effects", "cells"):
        file = explained.layout.study(PROFILED) / f"{table}.parquet"
        whole = file.read_bytes() if file.is_file() else None
        pq.write_table(pa.table({"another": ["column"]}), file)
        assert f"{table}.parquet is another table, which lacks " in explained.read().unreadable[PROFILED]
        file.write_bytes(b"PAR1 cut off")
        assert f"{table}.parquet cannot be read (" in explained.read().unreadable[PROFILED]
        if table != "cells":
            file.unlink() if whole is None else file.write_bytes(whole)
    section = text_of(why_of(render_study(explained.read())))
    assert "From the study “profiled” Nothing: " in section and "Prefix caching off instead of on" not in section
    assert "cells.parquet cannot be read (" in section
    assert "delete it and run snakemake -c1 partial --config study=profiled" in section


def test_a_damaged_table_of_a_twin_leaves_the_page_standing(explained: ReportStudy) -> None:
    for file in (explained.layout.results / "profiles").rglob("kernels.parquet"):
        file.write_bytes(b"PAR1 cut off")
    assert not explained.read().explaining and 'id="why"' not in render_study(explained.read())
    page = text_of(render_study(ReportStudy(explained.root, PROFILED).read()))
    assert "its tables are not on this machine, or cannot be read" in page


def test_its_own_twins_answer_first(explained: ReportStudy) -> None:
    own = with_twins(make_study(explained.root, "explained", text=OWN))
    page = text_of(render_study(own))
    assert "From profiles: Prefix caching off instead of on" in page and "From the profiles of" not in page
    section = text_of(why_of(render_study(own)))
    assert section.index("4 requests/s") < section.index("From the study “profiled”")


def test_a_published_page_leads_to_the_other_where_that_is_published_too(explained: ReportStudy) -> None:
    folder = explained.root / "reference" / "lab"
    publish("explained", explained.configuration, explained.layout, folder)
    page = (folder / "explained.html").read_text()
    assert "From the study “profiled”" in page and "profiled.html" not in page
    publish(PROFILED, explained.configuration, explained.layout, folder)
    publish("explained", explained.configuration, explained.layout, folder)
    page = (folder / "explained.html").read_text()
    assert 'href="profiled.html#why"' in page
    kernels = re.findall(r'href="(profiled/profiles/[^"]*kernels\.parquet)"', page)
    assert len(kernels) == 2 and all((folder / file).is_file() for file in kernels)
    assert all(read_twin((folder / file).parent) is not None for file in kernels)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("[profild]", "explained_by: there is no config/studies/profild.yaml; did you mean 'profiled'?"),
        ("[explained]", "explained_by: explained is the study itself"),
        ("[plain]", "explained_by: plain asks for no twins"),
    ],
)
def test_a_mistake_is_named(explained: ReportStudy, named: str, said: str) -> None:
    folder = explained.configuration.study_folder
    (folder / "plain.yaml").write_text(STUDY.replace("explained_by: [profiled]\n", ""))
    (folder / "explained.yaml").write_text(STUDY.replace("[profiled]", named))
    with pytest.raises(ConfigError, match=re.escape(said)):
        explained.configuration.study("explained")


def test_a_smoke_size_is_explained_by_no_twins_of_a_full_size(explained: ReportStudy) -> None:
    file = explained.configuration.study_folder / "explained.yaml"
    file.write_text(STUDY + "smoke: {replicates: 1}\n")
    assert explained.configuration.study("explained").explained_by == ["profiled"]
    assert explained.configuration.study("explained-smoke").explained_by == []
