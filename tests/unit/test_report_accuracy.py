"""The figure and the side-by-side of the report's section on accuracy."""

from markupsafe import escape

from leverlab.report.figures.accuracy import Point, dominated, trade
from leverlab.report.side_by_side import marked
from leverlab.report.svg import drawing
from leverlab.truth.sums import solved


def point(label: str, score: float, throughput: float, weights: float | None = 1.0, *, better: bool = True) -> Point:
    return Point(label, 0, score, 0.03, throughput, weights, better)


def test_a_point_is_dominated_where_another_is_at_least_as_good_in_all_and_better_in_one() -> None:
    points = [
        point("fast", 0.6, 200.0),
        point("right", 0.7, 100.0),
        point("neither", 0.6, 100.0),
        point("same", 0.6, 200.0),
    ]
    assert dominated(points) == {"neither"}


def test_memory_saves_a_point_and_counts_for_nothing_where_one_does_not_tell_it() -> None:
    small = point("small", 0.6, 90.0, 0.5)
    assert dominated([point("large", 0.7, 100.0), small]) == set()
    assert dominated([point("large", 0.7, 100.0, None), small]) == {"small"}


def test_a_score_of_which_less_is_better_is_turned_round() -> None:
    assert dominated([point("a", 12.0, 100.0, better=False), point("b", 9.0, 100.0, better=False)]) == {"a"}


def test_the_figure_has_a_panel_for_memory_only_where_all_tell_it() -> None:
    points = [point("fast", 0.6, 200.0), point("neither", 0.5, 100.0)]
    with drawing():
        panels = trade(points, "accuracy-0")
        assert len(panels) == 2
        assert "neither: 50 %, 100 tokens/s, 9.31e-10 GiB, dominated" in panels[0].replace("\N{NO-BREAK SPACE}", " ")
        assert len(trade([*points, point("silent", 0.6, 10.0, None)], "accuracy-1")) == 1


def test_differing_words_are_marked_in_their_places_and_nothing_of_an_answer_is_markup() -> None:
    assert marked("It is 7 <b>.", "It is 8 <b>.") == "It is<del> 7</del><ins> 8</ins> &lt;b&gt;."
    assert marked("same\nlines", "same\nlines") == escape("same\nlines")
    assert marked("", "new") == "<ins>new</ins>"
    assert marked("old words", "old") == "old<del> words</del>"


def test_a_declared_share_of_sums_is_solved_and_more_is_never_less() -> None:
    sums = {f"1 + 1 = 2. What is {one} + {other}?": one + other for one in range(30) for other in range(20)}
    few, more = (
        {prompt for prompt, value in sums.items() if str(solved(prompt, share, 0)).endswith(f"#### {value}")}
        for share in (0.6, 0.9)
    )
    assert 0.5 < len(few) / len(sums) < 0.7
    assert few < more
    assert solved("Name a river.", 1.0, 0) is None
