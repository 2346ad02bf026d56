"""matplotlib figures as SVG that stands inside a page: no links, no clashing ids, and the page's own colours and font."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib as mpl
import seaborn
from markupsafe import Markup
from matplotlib.figure import Figure

from leverlab.report.looks import INK, MUTED, RULE, VARIABLES

_SVG: Final = "http://www.w3.org/2000/svg"
_XLINK: Final = "http://www.w3.org/1999/xlink"
_COLOUR: Final = re.compile(r"#[0-9a-fA-F]{6}\b")
_REFERENCE: Final = re.compile(r"url\(#([^)]+)\)")
_DECIMALS: Final = re.compile(r"(-?\d+\.\d{2})\d+")
_INHERITED: Final = re.compile(r"(?:font-family|stroke-linejoin): [^;]*;? ?")
_DOT: Final = re.compile(r"M (-?\d+(?:\.\d+)?) (-?\d+(?:\.\d+)?) L \1 \2")
_RECTANGLE: Final = re.compile(r"M ([\d.-]+) ([\d.-]+) L ([\d.-]+) \2 L \3 ([\d.-]+) L \1 \4 z ?")
_DRAWING: Final = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_STYLED: Final = re.compile(r'(<\w[^<>]*) style="([^"&{}]*)"')
_GEOMETRY: Final = ("d", "transform", "points", "x", "y", "width", "height", "cx", "cy", "r")

PANEL: Final = (4.7, 3.1)
"""Inches. At one point a CSS pixel a panel fills a phone's width, and three of them a desktop's."""
WIDEST: Final = 4.9
"""Inches. What is wider is shrunk on a phone, and its text with it."""
SMALL: Final = 10.0
"""Points of the smallest text in a figure: about as many CSS pixels on a phone."""


@contextmanager
def drawing() -> Iterator[None]:
    """Settings under which every figure of a report is drawn; the same input gives the same bytes."""
    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "leverlab",
        "font.size": 10.5,
        "font.family": "DejaVu Sans",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 10.5,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": RULE,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "lines.linewidth": 1.8,
        "lines.markersize": 6,
        "path.simplify": True,
    }
    style: dict[Any, Any] = {**seaborn.axes_style("ticks"), **settings}
    with mpl.rc_context(style):
        yield


def new_figure(size: tuple[float, float] = PANEL, **grid: Any) -> tuple[Figure, Any]:  # noqa: ANN401 - matplotlib's
    """A figure of `size` inches outside pyplot's registry, and its axes (an array where `grid` asks for several)."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(**grid)


def inline(figure: Figure, name: str, alt: str) -> Markup:
    """`figure` as an `<svg>` element whose ids begin with `name`, which must be unique on the page; `alt` is its text."""
    buffer = io.BytesIO()
    engine = figure.get_layout_engine()
    if engine is not None:
        # Once, and without drawing: saving would draw the whole figure a first time to have it laid out.
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_cleaned(buffer.getvalue().decode(), name, alt))


def styles_once(page: str) -> str:
    """`page` with each style that its figures repeat as a class of its stylesheet, which the elements name instead."""
    told = Counter(style for drawing in _DRAWING.findall(page) for _, style in _STYLED.findall(drawing))
    classes = {style: f"s{number}" for number, (style, times) in enumerate(told.most_common()) if times > 1}
    # `:not(#_)` holds everywhere and weighs as much as an id: a class, like the style that it was, goes before all of style.css.
    rules = "".join(f".{name}:not(#_) {{ {style} }}\n" for style, name in classes.items())

    def named(element: re.Match[str]) -> str:
        return f'{element[1]} class="{classes[element[2]]}"' if element[2] in classes else element[0]

    shorter = _DRAWING.sub(lambda drawing: _STYLED.sub(named, drawing[0]), page)
    return shorter.replace("</style>", f"{rules}</style>", 1)


def _cleaned(text: str, name: str, alt: str) -> str:
    root = ElementTree.fromstring(text)
    referenced = {*_REFERENCE.findall(text), *re.findall(r'href="#([^"]+)"', text)}
    known = [element.attrib["id"] for element in root.iter() if element.get("id") in referenced]
    # matplotlib's letter says what it is (clip path, marker); a number is shorter than the hash behind it.
    ids = {identifier: f"{name}-{identifier[0]}{number}" for number, identifier in enumerate(known)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if element.get("id") not in ids:
            element.attrib.pop("id", None)
        _restyle(element, ids)
    _compact(root)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    root.set("xmlns", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _compact(element: ElementTree.Element) -> None:
    """Drop what shows nothing (matplotlib draws its empty backgrounds too) and groups that group nothing."""
    element.tail = None
    if element.tag != "text":
        element.text = None
    kept: list[ElementTree.Element] = []
    for child in element:
        _compact(child)
        if child.tag in ("metadata", "style") or _shows_nothing(child):
            continue
        kept += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = kept


def _shows_nothing(element: ElementTree.Element) -> bool:
    if element.tag in ("g", "defs"):
        return len(element) == 0
    return element.tag == "path" and "id" not in element.attrib and element.get("style") == "fill: none"


def _restyle(element: ElementTree.Element, ids: Mapping[str, str]) -> None:
    link = element.attrib.pop(f"{{{_XLINK}}}href", None)
    if link is not None:
        element.set("href", f"#{ids[link.removeprefix('#')]}")
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, ids[value])
        elif key in _GEOMETRY:
            rounded = " ".join(_DECIMALS.sub(r"\1", value).split())
            element.set(key, _dots(_RECTANGLE.sub(r"M\1 \2H\3V\4H\1z", rounded)) if key == "d" else rounded)
        elif key == "style":
            # Only a style can hold a CSS variable; the font and the joins of lines are style.css's.
            changed = _COLOUR.sub(lambda match: VARIABLES.get(match[0].lower(), match[0]), _INHERITED.sub("", value))
            element.set(key, changed.strip().rstrip(";"))
        elif key not in ("viewBox", "href"):
            element.set(key, _REFERENCE.sub(lambda match: f"url(#{ids[match[1]]})", value))


def _dots(path: str) -> str:
    """`path`, shorter where it is nothing but strokes without length: each as the step from the one before, to a hundredth as it was.

    `h0` is a stroke that browsers draw the round caps of; thousands of them took more of a page than all its text.
    """
    points = _DOT.findall(path)
    if " ".join(f"M {x} {y} L {x} {y}" for x, y in points) != path:
        return path
    steps, before = [], (0, 0)
    for x, y in points:
        at = round(float(x) * 100), round(float(y) * 100)
        right, down = (_hundredths(to - since) for to, since in zip(at, before, strict=True))
        steps.append(f"m{right}{'' if down.startswith('-') else ' '}{down}h0")
        before = at
    return "".join(steps)


def _hundredths(number: int) -> str:
    """A number of hundredths, as short as SVG allows."""
    whole, rest = divmod(abs(number), 100)
    digits = f"{whole or ''}{f'.{rest:02d}'.rstrip('0') if rest else ''}" or "0"
    return f"-{digits}" if number < 0 else digits
