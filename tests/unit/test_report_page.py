"""A report's page as text: what it holds, that it needs nothing from outside, and that it stays small."""

import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import Markup

from leverlab.records import CellRecord, SamplingCost, read_json, write_json
from leverlab.report.looks import VARIABLES
from leverlab.report.overview import glance
from leverlab.report.page import _typeset, prose, render_study, style
from leverlab.report.provenance import provenance
from tests.unit.report_studies import CROSSED, FLOORED, LARGE, SIMULATED, TROUBLED
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.report_text import smallest_text_px, text_of


class Outline(HTMLParser):
    """Ids, headings, tables and references of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.outside: list[str] = []
        self.tables = self.captions = self.scopes = self.drawings = self.labels = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"] or "")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for key in ("src", "href"):
            if re.match(r"(?:[a-z]+:)?//|https?:", given.get(key) or ""):
                self.outside.append(given[key] or "")
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.drawings += tag == "svg"
        self.labels += tag == "svg" and ("aria-label" in given or given.get("aria-hidden") == "true")
        assert tag != "th" or "scope" in given


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReportStudy]:
    root = tmp_path_factory.mktemp("report")
    return {name: make_study(root, name) for name in (TROUBLED, CROSSED, SIMULATED, FLOORED)}


@pytest.fixture(scope="module")
def pages(studies: dict[str, ReportStudy]) -> dict[str, str]:
    return {name: study.write_report().read_text() for name, study in studies.items()}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ReportStudy:
    return make_study(tmp_path_factory.mktemp("large"), LARGE, records=False)


def verdicts(page: str) -> list[str]:
    section = re.search(r'<section[^>]*id="verdict".*?</section>', page, flags=re.DOTALL)
    assert section
    return [
        text_of(item).strip()
        for item in re.findall(r'<p[^>]*class="verdict[^"]*"[^>]*>(.*?)</p>', section[0], flags=re.DOTALL)
    ]


def answer_of(page: str) -> str:
    """The answer in the page's head."""
    head = re.search(r"<header.*?</header>", page, flags=re.DOTALL)
    assert head
    (answer,) = re.findall(r'<p class="verdict headline">(.*?)</p>', head[0], flags=re.DOTALL)
    return text_of(answer).strip()


@pytest.mark.parametrize("name", [TROUBLED, CROSSED, SIMULATED])
def test_structure(pages: dict[str, str], name: str) -> None:
    outline = Outline(pages[name])
    assert len(outline.ids) == len(set(outline.ids)), "an id stands twice"
    assert not outline.outside
    assert "<script" not in pages[name]
    assert "<!DOCTYPE svg" not in pages[name]
    assert outline.tables == outline.captions > 5
    assert outline.drawings == outline.labels > 0
    assert outline.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False)), (
        outline.headings
    )
    referenced = set(re.findall(r"url\(#([^)]+)\)", pages[name])) | set(re.findall(r'href="#([^"]+)"', pages[name]))
    assert referenced <= set(outline.ids)


def test_the_stylesheet_has_every_colour_of_the_figures_in_both_modes() -> None:
    light, dark = (
        dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style(), flags=re.DOTALL)[:2]
    )
    named = {
        variable.removeprefix("var(").removesuffix(")"): colour
        for colour, variable in VARIABLES.items()
        if variable.startswith("var(")
    }
    assert len(named) > 10
    assert {name: light.get(name) for name in named} == named
    assert named.keys() <= dark.keys()


def test_what_stands_between_backticks_is_set_as_code() -> None:
    assert prose("a <b> of 3 ms") == "a <b> of 3 ms", "left to the template, which escapes"
    assert prose("`x < 1` and 3 ms & more") == "<code>x &lt; 1</code> and 3\N{NO-BREAK SPACE}ms &amp; more"


def test_a_mark_is_set_apart_from_its_sentence_and_stays_text() -> None:
    assert (
        prose("`x` rises. That is worse. Marked: 1 of its 6 cells carries a caution: `a <b>`.")
        == '<code>x</code> rises. That is worse. <span class="mark">Marked: 1 of its 6 cells carries a caution: <code>a &lt;b&gt;</code>.</span>'
    )
    assert prose("Off (marked: 3 % apart, git.commit (r1)): a (b) step.") == (
        'Off <span class="mark">(marked: 3\N{NO-BREAK SPACE}% apart, git.commit (r1))</span>: a (b) step.'
    )
    assert ".mark {" in style()


def test_what_is_markup_already_stays_as_it_is() -> None:
    """An answer of an engine, in which it may have written anything: it was escaped a second time."""
    answer = Markup('<span class="answer">Call `f`. Marked: a.</span>')
    assert prose(answer) is answer


def test_text_in_figures_can_be_read_on_a_phone(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        assert smallest_text_px(page) >= 9.9, name


def test_percent_is_written_in_one_way(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        body = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
        shown = re.sub(r"<[^>]+>", " ", re.sub(r"<code.*?</code>", " ", body, flags=re.DOTALL))
        assert re.search(r"\d\N{NO-BREAK SPACE}%", shown), "nothing to look at"
        assert not re.findall(r".{0,30}\d ?%.{0,10}", shown), name
        spoken = " ".join(re.findall(r'(?:aria-label|title)="([^"]*)"', body))
        assert not re.findall(r".{0,30}\d%.{0,10}", spoken), name


def test_what_older_cells_wrote_is_set_like_the_rest() -> None:
    assert _typeset("up to 14% of the time") == "up to 14\N{NO-BREAK SPACE}% of the time"
    assert _typeset("results/a%20b/1%2F2.html") == "results/a%20b/1%2F2.html"


def test_the_same_data_give_the_same_bytes(studies: dict[str, ReportStudy], pages: dict[str, str]) -> None:
    again = render_study(studies[TROUBLED].read())
    assert hashlib.sha256(again.encode()).digest() == hashlib.sha256(pages[TROUBLED].encode()).digest()


def test_the_verdict_comes_first_and_names_lever_interval_load_and_replicates(pages: dict[str, str]) -> None:
    page = pages[TROUBLED]
    assert (
        page.index('id="verdict"')
        < page.index('id="measured"')
        < page.index('id="provenance"')
        < page.index('id="effects"')
    )
    answer, (caching, limit) = answer_of(page), verdicts(page)
    assert answer.startswith("Prefix caching moved its primary metric most")
    assert re.search(
        r"raises the median time to first token at 1 request/s by a factor of [\d.]+ \(97.5 % interval [\d.]+ to [\d.]+\)",
        caching,
    )
    assert "in 3 replicates" in caching
    assert "in 1 replicate" in limit or "in 2 replicates" in limit


def test_swapping_the_baseline_changes_every_sentence(pages: dict[str, str], tmp_path: Path) -> None:
    backward = make_study(tmp_path, SIMULATED, baseline={"prefix_caching": "off", "max_num_seqs": "4"})
    before, after = (
        [answer_of(page), *verdicts(page)] for page in (pages[SIMULATED], backward.write_report().read_text())
    )
    assert len(before) == len(after) == 3
    assert not set(before) & set(after)


def test_cells_without_numbers_are_shown_with_reason_and_log(pages: dict[str, str]) -> None:
    text = text_of(pages[TROUBLED])
    for word in ("failed", "infeasible", "missing", "invalid", "caution"):
        assert re.search(rf"[✕⊘○!] {word}", text), word
    assert "The server died." in text
    assert "ERROR worker &lt;0&gt; exited" in pages[TROUBLED], "a log is text, not markup"
    assert "or are &lt;missing&gt;?" in pages[TROUBLED]


def test_every_cell_has_its_command(studies: dict[str, ReportStudy], pages: dict[str, str]) -> None:
    for cell in studies[TROUBLED].read().cells["cell"].unique():
        assert f"snakemake -c1 results/reproductions/{cell}/1/verdict.html" in pages[TROUBLED]


def test_links_to_data_lead_to_files(studies: dict[str, ReportStudy], pages: dict[str, str]) -> None:
    links = re.findall(r'href="(\.\./results/servers/[^"]+)"', pages[TROUBLED])
    assert len(links) > 20
    assert all((studies[TROUBLED].layout.reports / link).is_file() for link in links)


def test_a_simulated_engine_is_named_at_every_verdict_and_figure(pages: dict[str, str]) -> None:
    page = pages[SIMULATED]
    assert all(sentence.startswith("Simulated: ") for sentence in verdicts(page))
    assert page.count("<figcaption>") == page.count("<figcaption><strong>Simulated.</strong>") > 0
    assert "confirmed" not in text_of(page)
    assert "imulated" not in text_of(pages[TROUBLED])


def test_one_load_point_is_told_in_a_sentence(pages: dict[str, str]) -> None:
    assert "fewer than two load points" in text_of(pages[SIMULATED])
    assert "The study has one finite rate" in text_of(pages[SIMULATED])
    assert "fewer than two load points" not in text_of(pages[CROSSED])


def test_models_and_gpus_stand_side_by_side_where_there_are_several(pages: dict[str, str]) -> None:
    assert 'id="side-by-side"' in pages[CROSSED]
    assert "llama-3.1-8b-shape on 2 × h100 with vllm" in pages[CROSSED]
    assert 'id="side-by-side"' not in pages[TROUBLED]


def test_everything_else_is_called_exploratory(pages: dict[str, str]) -> None:
    rows = re.findall(
        r"<tr[^>]*>(?:(?!</tr>).)*(?:improves|worsens|no difference found|not judgeable)(?:(?!</tr>).)*</tr>",
        pages[TROUBLED],
        flags=re.DOTALL,
    )
    assert len(rows) > 50
    assert all(("(exploratory)" in row) != ('class="primary"' in row) for row in rows)


def test_tables_alone_are_enough(tmp_path: Path) -> None:
    text = text_of(make_study(tmp_path, TROUBLED, records=False).write_report().read_text())
    assert (
        "The checks' own records are not on this machine" in text
        or "The checks&#39; own records are not on this machine" in text
    )
    assert "cannot be drawn over time" in text or "nothing can be drawn over time" in text


def test_a_large_study_stays_below_three_megabytes(large: ReportStudy) -> None:
    data = large.read()
    page = render_study(data)
    assert len(data.cells) > 1000
    assert len(page.encode()) < 3_000_000
    assert "effects.parquet holds all" in page
    assert "cells.parquet holds all" in page


def test_the_index_has_a_line_for_each_study(studies: dict[str, ReportStudy], pages: dict[str, str]) -> None:
    page = studies[TROUBLED].write_index().read_text()
    assert all(f'href="{name}.html"' in page for name in pages)
    assert "of 18 cells measured, 1 of them invalid" in text_of(page)
    assert "2026-03-03" in page
    assert "Prefix caching off instead of on" in page


def test_a_primary_verdict_quotes_the_interval_that_it_rests_on(
    studies: dict[str, ReportStudy], pages: dict[str, str]
) -> None:
    """Of two primary comparisons that differ, the clearer one is decided at 97.5 %, the other at 95 % (Holm)."""
    table = pq.read_table(studies[SIMULATED].layout.study(SIMULATED) / "effects.parquet").to_pandas()
    primary = table[table["primary"]]
    assert sorted(primary["verdict_level"]) == pytest.approx([0.95, 0.975])
    found = re.findall(r"\(([\d.]+) % interval ([\d.]+) to ([\d.]+)\)", " ".join(verdicts(pages[SIMULATED])))
    wanted = [
        (100 * row["verdict_level"], row["verdict_low"], row["verdict_high"])
        for row in primary.sort_values("lever", ascending=False).to_dict("records")
    ]
    assert [tuple(map(float, entry)) for entry in found] == [pytest.approx(entry, rel=0.01) for entry in wanted]
    assert "2 primary comparisons" in text_of(pages[SIMULATED])
    assert "<small>97.5\N{NO-BREAK SPACE}% interval</small>" in pages[SIMULATED]


def test_rates_are_told_as_they_were_drawn(pages: dict[str, str], tmp_path: Path) -> None:
    study = make_study(tmp_path, SIMULATED)
    path = study.layout.study(SIMULATED) / "cells.parquet"
    table = pq.read_table(path)
    drawn = pa.array([{"r1": 1.5, "r2": 2.0, "r3": 2.25}[replicate] for replicate in table["replicate"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("offered_rate"), "offered_rate", drawn), path)
    text = text_of(study.write_report().read_text())
    assert "1.5 requests/s to 2.25 requests/s at 2 requests/s" in text
    assert "while 1.92 requests/s arrived (Baseline)" in text
    assert "Arrived, as drawn" not in text_of(pages[SIMULATED])


def test_means_over_different_replicates_are_not_passed_off_as_comparable(pages: dict[str, str]) -> None:
    warning = "each replicate is another draw"
    assert warning in text_of(pages[TROUBLED]), "its treatments have lost cells in a burst"
    assert warning not in text_of(pages[CROSSED])


def test_the_noise_floor_is_told_and_drawn(pages: dict[str, str]) -> None:
    text = text_of(pages[FLOORED])
    assert (
        "The baseline against its own copy: no difference found in the median time to first token at 1 request/s"
        in text
    )
    assert "Two equal servers stay within" in text
    assert "The band behind each is the noise floor" in text
    assert "noise floor ×" in pages[FLOORED], "the drawing's own words name it"
    assert "Baseline again" in text and "the baseline is measured twice in each replicate" in text
    for name in (TROUBLED, CROSSED, SIMULATED):
        assert "noise floor" not in text_of(pages[name]).lower()


def test_a_copy_is_no_series_of_the_curves(pages: dict[str, str]) -> None:
    curves = pages[FLOORED].partition('id="curves"')[2].partition("<table")[0]
    assert "Baseline" in curves and "Baseline again" not in curves


def test_crossed_levers_have_main_effects_and_interactions(pages: dict[str, str]) -> None:
    text = text_of(pages[FLOORED])
    assert "Main effects and interactions" in text
    assert "Prefix caching off instead of on and Batch limit (max_num_seqs) 4 instead of 64 interaction ×" in text
    assert "Main effects and interactions" not in text_of(pages[TROUBLED])


def test_what_may_be_believed_is_seen_at_a_glance(pages: dict[str, str]) -> None:
    page = pages[TROUBLED]
    text = text_of(page)
    assert (
        "18 cells, counting each replicate: 13 sound, 1 with a caution (send lag), 1 invalid (cache state), 1 failed, 1 infeasible, 1 missing."
        in text
    )
    overview = page.partition('class="glance"')[2].partition("</table>")[0]
    marks = re.findall(r'<(?:a|span) class="badge[^"]*"[^>]*title="([^"]*)"', overview)
    assert len(marks) == 18 and marks.count("sound") == 13
    assert {"invalid: cache state", "with a caution: send lag", "The server died.", "Out of memory."} < set(marks)
    ids = set(Outline(page).ids)
    leads = re.findall(r'href="#([^"]+)"', overview)
    assert len(leads) == 5 and set(leads) <= ids, "a mark leads to what was seen"


def test_an_invalid_cell_is_greyed_where_its_numbers_stand(pages: dict[str, str]) -> None:
    cells = pages[TROUBLED].partition('id="cell-table"')[2].partition("</table>")[0]
    (greyed,) = re.findall(r'<tr class="out">.*?</tr>', cells)
    assert "✕" in greyed and "cache state" in greyed


def test_the_overview_of_a_large_study_leaves_out_what_is_sound(large: ReportStudy) -> None:
    data = large.read()
    checks = list(data.cells["checks"])
    checks[7] = "caution"
    overview = glance(replace(data, cells=data.cells.assign(checks=checks)), (), ())
    assert len([row for _, rows in overview.groups for row in rows]) == 1
    assert (
        f"{len(checks) // 3 - 1} of {len(checks) // 3} rows, in which every cell is sound, are not shown."
        in overview.note
    )


def test_where_treatments_saturate_is_told_of_a_sweep(pages: dict[str, str]) -> None:
    assert "above 16 requests/s, the highest that was offered" in text_of(pages[CROSSED])
    text = text_of(pages[FLOORED])
    assert "Where each treatment stops to keep up" in text and "between 1 request/s and 4 requests/s" in text
    assert re.search(r"Keeps up until Capacity \(95 % interval\) ÷ baseline Replicates", text)
    assert "A hollow mark lies beyond the knee" in text
    assert re.search(r"In \d+ cells the check saturated says other than today", text), "no check of the study says so"
    assert "says other than today" not in text_of(pages[CROSSED])
    troubled = text_of(pages[TROUBLED])
    assert "Where each treatment stops to keep up" not in troubled, "one finite rate is no sweep"
    assert "hollow" not in troubled


def test_a_page_tells_what_sampling_took_where_records_do(tmp_path: Path) -> None:
    study = make_study(tmp_path, FLOORED)
    assert "Sampling" not in dict(provenance(study.read()).facts)
    for number, row in enumerate(study.read().cells.to_dict("records")[:3]):
        file = study.layout.cell(row["server"], row["replicate"], row["phase"]) / "cell.json"
        cost = SamplingCost(
            looks=90, rate=10.0, look_s_p50=(number + 1) * 1e-3, look_s_max=0.02, cpu_share=0.01 * number
        )
        record = CellRecord.model_validate(read_json(file))
        write_json(file, record.model_copy(update={"sampling": {"gpu": cost}}))
    assert dict(provenance(study.read()).facts)["Sampling"] == (
        "GPUs (NVML) 10 times a second, 2 ms each (medians), 20 ms at most, 2.0 % of a core at most"
    )
