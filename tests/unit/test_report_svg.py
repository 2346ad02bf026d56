"""Figures inside pages: many dots, rectangles and styles in few bytes, and each as it was."""

import io
import re
from itertools import accumulate

import numpy as np
import pandas as pd
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MatplotlibPath

from leverlab.report.figures.timeline import timeline
from leverlab.report.svg import drawing, inline, new_figure, styles_once
from tests.unit.report_text import with_styles

_STEP = re.compile(r"m(-?[\d.]+) ?(-?[\d.]+)h0")


def drawn(vertices: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", codes: list[int]) -> tuple[str, str]:
    """The last path of a figure of `vertices`, as matplotlib writes it and as it stands in a page."""
    with drawing():
        figure, axes = new_figure()
        path = MatplotlibPath(vertices, codes)
        path.should_simplify = False
        axes.add_patch(PathPatch(path, facecolor="none", edgecolor="#123456", capstyle="round", clip_on=False))
        short = str(inline(figure, "f", "dots"))
        whole = io.StringIO()
        figure.savefig(whole, format="svg")
    paths = re.findall(r'<path d="([^"]*)"[^>]*#123456', whole.getvalue())
    shown = re.findall(r'<path d="([^"]*)"[^>]*#123456', short)
    assert len(paths) == len(shown) == 1
    return paths[0], shown[0]


def test_dots_are_steps_of_which_none_drifts() -> None:
    points = np.random.default_rng(3).random((3000, 2))
    points = points[points[:, 0].argsort()]
    points[5] = points[4]
    whole, short = drawn(np.repeat(points, 2, axis=0), [MatplotlibPath.MOVETO, MatplotlibPath.LINETO] * len(points))
    wanted = np.array(re.findall(r"M (\S+) (\S+)", whole), dtype=float)
    steps = _STEP.findall(short)
    assert "".join(re.findall(_STEP.pattern.replace("(", "(?:"), short)) == short, "and nothing else"
    shown = np.array(
        list(accumulate(steps, lambda at, step: (at[0] + float(step[0]), at[1] + float(step[1])), initial=(0.0, 0.0)))[
            1:
        ]
    )
    assert len(shown) == len(points)
    assert np.abs(shown - wanted).max() < 0.0101, "cut after two digits, as every coordinate is"
    assert len(short) < 0.3 * len(whole)


def test_a_line_stays_a_line() -> None:
    _, short = drawn(np.array([[0.1, 0.2], [0.4, 0.9], [0.4, 0.9]]), [1, 2, 2])
    assert re.fullmatch(r"M [\d.]+ [\d.]+ L ([\d.]+ [\d.]+) L \1", short)


def test_a_timeline_draws_a_dot_for_each_gap() -> None:
    chunks = pd.DataFrame(
        {"index": [0] * 6 + [1] * 5, "arrival_s": [0.1, 0.2, 0.31, 0.4, 0.52, 0.6, 0.1, 0.3, 0.4, 0.5, 0.7]}
    )
    with drawing():
        made = timeline(chunks, None, "a cell", "t")
    assert made is not None
    assert str(made.figure).count("h0") == 9


def test_a_rectangle_is_written_by_its_sides() -> None:
    with drawing():
        figure, axes = new_figure()
        axes.bar([1, 2], [3, -4], color="#123456")
        axes.plot([1, 2], [1, 1], color="#123456")
        short = str(inline(figure, "f", "bars"))
        whole = io.StringIO()
        figure.savefig(whole, format="svg")
    drawn_as = re.findall(r'<path d="([^"]*)"[^>]*#123456', whole.getvalue())
    *bars, line = re.findall(r'<path d="([^"]*)"[^>]*#123456', short)
    assert len(drawn_as) == 3 and " L " in line
    for before, after in zip(drawn_as, bars, strict=False):
        corners = np.array(re.findall(r"(\S+) (\S+)", re.sub("[MLz]", "", before)), dtype=float)
        (sides,) = re.findall(r"^M(\S+) (\S+)H(\S+)V(\S+)H\1z$", after)
        left, bottom, right, top = map(float, sides)
        shown = np.array([(left, bottom), (right, bottom), (right, top), (left, top)])
        assert np.abs(corners - shown).max() < 0.0101


def test_a_style_is_stated_once_and_each_element_keeps_its_own() -> None:
    with drawing():
        figures = []
        for name in ("a", "b"):
            figure, axes = new_figure()
            axes.plot([1, 2], [3, 4], color="#123456" if name == "a" else "#1b68a8")
            axes.set_title('told: style="fill: none" <g style="fill: none">')
            figures.append(str(inline(figure, name, 'style="fill: none"')))
    other = '<p style="margin: 0">x</p>'
    page = f"<style>\nsvg {{ width: 1px }}\n</style>{other}{other}{''.join(figures)}"
    short = styles_once(page)
    assert with_styles(short) == page
    rules, body = short.split("</style>")
    kept = re.findall(r'<\w[^<>]* style="([^"]*)"', body.replace(other, ""))
    assert len(kept) == len(set(kept)) and any("#123456" in style for style in kept), (
        "what stands once stays where it is"
    )
    stated = re.findall(r"^\.s\d+.*\{ (.*) \}$", rules, re.MULTILINE)
    assert len(stated) == len({*stated, *kept}) - len(kept) > 5
