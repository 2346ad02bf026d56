"""A report in a browser: axe finds nothing, nothing is fetched, a phone's width is enough, JavaScript is not needed, paper works."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MatplotlibPath
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from leverlab.report.svg import PANEL, drawing, inline, new_figure
from tests.unit.report_studies import CROSSED, SIMULATED, TROUBLED
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.report_text import with_styles

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "there is no Chromium: install Debian's package chromium, or run without `-m browser`"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of three studies, one of them with every kind of trouble, and the index."""
    root = tmp_path_factory.mktemp("reports")
    made: dict[str, ReportStudy] = {name: make_study(root, name) for name in (TROUBLED, CROSSED, SIMULATED)}
    return {name: study.write_report() for name, study in made.items()} | {"index": made[TROUBLED].write_index()}


def opened(browser: Browser, page: Path, *, width: int = DESKTOP, scheme: str = "light", script: bool = True) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        java_script_enabled=script,
        is_mobile=width == PHONE,  # type: ignore[arg-type]
    )
    view = context.new_page()
    view.goto(page.as_uri())
    return view


# Colours are of the scheme and layout is of the width: each of both is looked at, not each with each.
@pytest.mark.parametrize(("width", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
@pytest.mark.parametrize("name", [TROUBLED, CROSSED, SIMULATED, "index"])
def test_axe_finds_no_violation(browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    view = opened(browser, pages[name], width=width, scheme=scheme)
    # What is folded away is part of the page.
    view.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = Axe().run(view).response["violations"]
    assert not found, "\n".join(
        f"{item['id']}: {item['help']}: {[node['html'][:200] for node in item['nodes'][:3]]}" for item in found
    )


def test_axe_would_find_a_violation(browser: Browser, pages: dict[str, Path]) -> None:
    view = opened(browser, pages["index"])
    view.evaluate("document.querySelector('h1').style.color = '#ddd'")
    assert [item["id"] for item in Axe().run(view).response["violations"]] == ["color-contrast"]


@pytest.mark.parametrize("name", [TROUBLED, CROSSED, SIMULATED, "index"])
def test_nothing_is_fetched_but_the_page(browser: Browser, pages: dict[str, Path], name: str) -> None:
    context = browser.new_context()
    view = context.new_page()
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.goto(pages[name].as_uri(), wait_until="networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]


@pytest.mark.parametrize("name", [TROUBLED, CROSSED, SIMULATED, "index"])
def test_a_phone_scrolls_in_one_direction(browser: Browser, pages: dict[str, Path], name: str) -> None:
    view = opened(browser, pages[name], width=PHONE)
    assert view.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert view.evaluate("visualViewport.width") == PHONE, "the page is wider than the screen, and was shrunk to fit"


def test_text_in_figures_can_be_read_on_a_phone(browser: Browser, pages: dict[str, Path]) -> None:
    view = opened(browser, pages[CROSSED], width=PHONE)
    smallest = view.evaluate(
        """Math.min(...[...document.querySelectorAll('figure svg text')].map(text => {
            const scale = text.getScreenCTM();
            return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b);
        }))"""
    )
    assert smallest >= 9.9


def test_without_javascript_the_same_is_shown(browser: Browser, pages: dict[str, Path]) -> None:
    texts = {
        script: opened(browser, pages[TROUBLED], script=script).locator("body").inner_text() for script in (True, False)
    }
    assert texts[True] == texts[False]
    assert "Verdict" in texts[False]


def test_every_link_inside_the_page_leads_somewhere(browser: Browser, pages: dict[str, Path]) -> None:
    view = opened(browser, pages[CROSSED])
    anchors = view.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(link => link.getAttribute('href').slice(1))"
    )
    missing = [anchor for anchor in anchors if view.locator(f"[id='{anchor}']").count() != 1]
    assert anchors
    assert not missing


def test_strokes_without_length_are_seen_as_dots(browser: Browser) -> None:
    points = [(0.2, 0.3), (0.5, 0.8), (0.9, 0.5)]
    with drawing():
        figure, axes = new_figure()
        axes.set_axis_off()
        path = MatplotlibPath(
            np.repeat(points, 2, axis=0), [MatplotlibPath.MOVETO, MatplotlibPath.LINETO] * len(points)
        )
        path.should_simplify = False
        look = {"edgecolor": "#ff0000", "linewidth": 12, "capstyle": "round", "facecolor": "none"}
        axes.add_patch(PathPatch(path, transform=axes.transAxes, **look))
        markup = inline(figure, "f", "dots")
    assert markup.count("h0") == len(points)
    view = browser.new_page()
    view.set_content(f"<body style='margin: 0'><div style='width: 470px'>{markup}</div>")
    shown = np.asarray(Image.open(io.BytesIO(view.screenshot())).convert("RGB")).astype(int)
    red = (shown[..., 0] > 200) & (shown[..., 1:].max(axis=2) < 60)
    dot = np.pi * (12 / 2 * 470 / (PANEL[0] * 72)) ** 2  # pixels, where a figure has points
    assert red.sum() == pytest.approx(len(points) * dot, rel=0.2)


def test_a_class_of_a_figure_yields_to_no_rule_of_the_page(browser: Browser, pages: dict[str, Path]) -> None:
    page = pages[CROSSED].read_text(encoding="utf-8")
    rule = ".page figure svg * { fill: #ff0000; stroke: #ff0000; stroke-width: 9px; font-size: 30px; opacity: 0.2 }"
    looks = []
    for text in (page, with_styles(page)):
        view = browser.new_page()
        view.set_content(text.replace("</style>", f"{rule}</style>", 1))
        looks.append(
            view.evaluate(
                """[...document.querySelectorAll('svg, svg *')].map(shown => {
                    const look = getComputedStyle(shown);
                    return ['fill', 'fill-opacity', 'stroke', 'stroke-width', 'stroke-dasharray', 'font-size', 'text-anchor', 'opacity', 'color']
                        .map(name => look.getPropertyValue(name)).join();
                })"""
            )
        )
    assert len(looks[0]) > 100 and any("rgb(255, 0, 0)" in look for look in looks[0])
    assert looks[0] == looks[1]


def test_it_prints_on_light_paper(browser: Browser, pages: dict[str, Path]) -> None:
    view = opened(browser, pages[TROUBLED], scheme="dark")
    view.emulate_media(media="print", color_scheme="dark")
    ink = view.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(29, 32, 36)", "dark ink, whatever the screen's mode"
    assert view.evaluate("document.documentElement.scrollWidth") <= DESKTOP
    printed = view.pdf(format="A4", print_background=True)
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 20_000
