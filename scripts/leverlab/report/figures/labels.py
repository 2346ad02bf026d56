"""Labels of points that lie close together: each beside its point, where it covers neither a mark, a line nor another label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from leverlab.report.looks import MUTED
from leverlab.report.svg import SMALL

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in points of the figure."""

_CHARACTER: Final = 0.62 * SMALL
"""Points that a character is wide, about."""
_HEIGHT: Final = 1.1 * SMALL
_MARK: Final = 4.0
"""Half of a mark."""
_NEAR: Final = 6.0
_FURTHER: Final = (0.0, 12.0, 24.0, 36.0)
"""How far away labels go, one try after another; from the second on a line leads to the point."""
_PLACES: Final = 5
"""Of each distance."""
_STEPS: Final = 60


@dataclass(frozen=True, slots=True)
class Label:
    """A text for the point (`x`, `y`) of the data."""

    text: str
    x: float
    y: float


def place_labels(axes: Axes, labels: Sequence[Label], lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> None:
    """Draw `labels` clear of one another, of their points and of `lines` (xs, ys); the scales, limits and size of `axes` must stand."""
    points = [_in_points(axes, [label.x], [label.y])[0] for label in labels]
    covered = [place for xs, ys in lines for place in _along(_in_points(axes, xs, ys))]
    (left, bottom), (right, top) = _in_points(axes, axes.get_xlim(), axes.get_ylim())
    offsets = clear_offsets([label.text for label in labels], points, covered, (left, bottom, right, top))
    for label, offset in zip(labels, offsets, strict=True):
        beside = offset in list(_tries(label.text))[:_PLACES]
        leader = None if beside else {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6}
        axes.annotate(
            label.text, (label.x, label.y), offset, textcoords="offset points", fontsize=SMALL, color=MUTED, va="bottom",
            arrowprops=leader,
        )  # fmt: skip


def clear_offsets(
    texts: Sequence[str],
    points: Sequence[tuple[float, float]],
    covered: Sequence[tuple[float, float]],
    within: Box,
) -> list[tuple[float, float]]:
    """Where the lower left corner of each text goes, seen from its point: the first place that is free, in the order of `texts`.

    All are in points of the figure; on `covered` no text should lie, and none outside of `within`. Where no place is free it is the first.
    """
    taken: list[Box] = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in points]
    taken += [(x, y, x, y) for x, y in covered]
    found = []
    for text, (x, y) in zip(texts, points, strict=True):
        tries = list(_tries(text))
        boxes = {offset: _box(text, x, y, offset) for offset in tries}
        inside = (offset for offset, box in boxes.items() if _is_inside(box, within))
        chosen = next((o for o in inside if not any(_overlap(boxes[o], other) for other in taken)), tries[0])
        taken.append(boxes[chosen])
        found.append(chosen)
    return found


def _tries(text: str) -> Iterator[tuple[float, float]]:
    """Below to the right first, as points of a roofline lie below their roof."""
    width = _CHARACTER * len(text)
    for further in _FURTHER:
        below, above, left = -_HEIGHT - further, 2.0 + further, -_NEAR - width - further
        yield from ((_NEAR, below), (left, below), (_NEAR, above), (left, above), (_NEAR + further, -_HEIGHT / 2))


def _box(text: str, x: float, y: float, offset: tuple[float, float]) -> Box:
    left, bottom = x + offset[0], y + offset[1]
    return left, bottom, left + _CHARACTER * len(text), bottom + _HEIGHT


def _is_inside(one: Box, other: Box) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _in_points(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    scale = 72 / axes.figure.dpi
    return [(float(x) * scale, float(y) * scale) for x, y in axes.transData.transform(np.column_stack([xs, ys]))]


def _along(corners: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    yield from corners
    for (x, y), (other_x, other_y) in pairwise(corners):
        yield from zip(np.linspace(x, other_x, _STEPS), np.linspace(y, other_y, _STEPS), strict=True)
