"""Every study runs where there is no GPU: its smoke size, through Snakemake, to a report that holds what it promises."""

import html
import re

import pandas
import pytest

from leverlab.config import load
from leverlab.config.study import Study
from tests.workflow.conftest import Checkout

DISTURBED = {"client_error", "send_late"}
"""What makes a cell invalid because the machine had other work: no fault of the study."""

pytestmark = [pytest.mark.studies, pytest.mark.engine]


def disturbed(cells: pandas.DataFrame) -> pandas.DataFrame:
    """The cells that other work on the machine made invalid."""
    invalid = cells[cells["checks"] == "invalid"]
    by_other_work = invalid["check_codes"].map(lambda codes: bool(DISTURBED & set(codes.split(",")))).astype(bool)
    return invalid[by_other_work]


def cells_of(measured: Checkout, smoke: str) -> pandas.DataFrame:
    return pandas.read_parquet(measured.root / f"results/studies/{smoke}/cells.parquet")


def study_of(measured: Checkout, smoke: str) -> Study:
    return load(measured.root, {"study": smoke}).study(smoke)


def page_of(measured: Checkout, smoke: str) -> str:
    return (measured.root / "reports" / f"{smoke}.html").read_text().replace("\N{NO-BREAK SPACE}", " ")


def text_of(page: str) -> str:
    without = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", without)))


def section_of(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, flags=re.DOTALL)
    assert found, f"the page has no section {name}"
    return found[0]


def test_its_cells_are_measured_and_what_is_not_says_why(measured: Checkout, smoke: str) -> None:
    cells = cells_of(measured, smoke)
    assert (cells["status"] == "measured").any(), cells[["treatment", "status", "reason"]].to_dict("records")
    unmeasured = cells[cells["status"] != "measured"]
    assert unmeasured["reason"].fillna("").ne("").all(), unmeasured[["treatment", "status"]].to_dict("records")
    assert not unmeasured["status"].isin(["failed", "missing"]).any(), unmeasured["reason"].tolist()
    invalid = cells[cells["checks"] == "invalid"]
    unexplained = set(invalid["check_codes"]) - set(disturbed(cells)["check_codes"])
    assert not unexplained, invalid[["treatment", "load", "check_codes"]].to_dict("records")


def test_every_question_has_an_answer(measured: Checkout, smoke: str) -> None:
    study = study_of(measured, smoke)
    if not study.questions:
        return
    section = section_of(page_of(measured, smoke), "questions")
    answered = dict(re.findall(r"<h3>(.*?)</h3>\s*<ul[^>]*>(.*?)</ul>", section, flags=re.DOTALL))
    shown = {html.unescape(ask): text_of(told).strip() for ask, told in answered.items()}
    for question in study.questions:
        assert shown.get(question.ask), question.ask


def test_everything_that_the_course_collects_is_shown(measured: Checkout, smoke: str) -> None:
    study = study_of(measured, smoke)
    if study.collects:
        shown = text_of(section_of(page_of(measured, smoke), "collects"))
        for name in study.collects:
            assert name in shown


def test_a_simulated_page_says_so_everywhere_and_confirms_nothing(measured: Checkout, smoke: str) -> None:
    page = page_of(measured, smoke)
    captions = re.findall(r"<figcaption>.*?</figcaption>", page, flags=re.DOTALL)
    headline = re.search(r'<p class="verdict headline">(.*?)</p>', page, flags=re.DOTALL)
    assert headline
    # A single replicate whose baseline was disturbed leaves nothing to draw.
    assert captions or "baseline" in set(disturbed(cells_of(measured, smoke))["treatment"])
    simulated = load(measured.root, {"study": smoke}).simulated(study_of(measured, smoke))
    assert ("simulated" in text_of(headline[1]).lower()) == simulated
    assert {("<strong>Simulated.</strong>" in caption) for caption in captions} <= {simulated}
    assert ("The real flags of" in text_of(page)) == simulated
    if simulated:
        for word in ("confirmed", "contradicted"):
            assert f"expectation {word}" not in page
