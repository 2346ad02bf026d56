"""Labels of points that lie close together: none over another, over a mark or over a line, and the same each time."""

from itertools import combinations

from leverlab.report.figures.labels import clear_offsets

PAGE = (0.0, 0.0, 300.0, 300.0)


def corners(text: str, point: tuple[float, float], offset: tuple[float, float]) -> tuple[float, float, float, float]:
    """Where a text of six points a character lies, which is less than is kept free for it."""
    left, bottom = point[0] + offset[0], point[1] + offset[1]
    return left, bottom, left + 6 * len(text), bottom + 10


def test_labels_of_points_at_one_place_lie_beside_one_another() -> None:
    points = [(100.0, 100.0), (101.0, 101.0), (103.0, 99.0), (101.0, 100.0), (110.0, 104.0)]
    texts = ["c1", "c1", "attention", "c4", "c16"]
    offsets = clear_offsets(texts, points, [], PAGE)
    boxes = [corners(*each) for each in zip(texts, points, offsets, strict=True)]
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for left, bottom, right, top in boxes:
        assert not any(left < x < right and bottom < y < top for x, y in points)
    assert offsets == clear_offsets(texts, points, [], PAGE)


def test_a_label_keeps_off_lines() -> None:
    (alone,) = clear_offsets(["c1"], [(100.0, 100.0)], [], PAGE)
    under = [(100.0 + step, 92.0) for step in range(40)]
    (moved,) = clear_offsets(["c1"], [(100.0, 100.0)], under, PAGE)
    assert alone[1] < 0 and moved != alone


def test_a_label_stays_inside_the_axes() -> None:
    (offset,) = clear_offsets(["c1"], [(298.0, 2.0)], [], PAGE)
    _, bottom, right, _ = corners("c1", (298.0, 2.0), offset)
    assert bottom >= 0 and right <= 300
