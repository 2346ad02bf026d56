"""The figure of a question about levels that are numbers: what is told of each of them, over the levels."""

from collections.abc import Iterator, Sequence
from typing import Final

from leverlab.config.course import LineAnswer, Question
from leverlab.metrics import parse_metric_reference
from leverlab.report.at_levels import AtLevels
from leverlab.report.blocks import legend
from leverlab.report.figures.axes import Series
from leverlab.report.figures.levels import level_panel
from leverlab.report.phrases import context_phrase, load_heading, load_order
from leverlab.report.source import StudyData
from leverlab.report.view import FigureBlock
from leverlab.stats.line import LEAST_LEVELS

_LIMIT: Final = 6
"""Panels that a question can do with."""


def level_figure(question: Question, asked: Sequence[AtLevels], place: int, data: StudyData) -> FigureBlock | None:
    """A panel for each metric and context; None where no lever that the question asks about has three levels that are numbers.

    `asked`: what `at_levels` gives for the question. `place`: its number on the page, which makes the drawings' names their own.
    """
    drawn = [one for one in asked if one.values["level"].nunique() >= LEAST_LEVELS][:_LIMIT]
    if not drawn:
        return None
    lined = set(_lined(question))
    every = sorted({load for one in drawn for load in one.loads}, key=load_order)
    looks = {load: number for number, load in enumerate(every)}
    panels = []
    for number, one in enumerate(drawn):
        where = f" ({context_phrase(*one.context)})" if len(data.contexts) > 1 else ""
        lines = one.lines if (one.lever, (one.metric, one.statistic)) in lined else {}
        title = f"{data.titles[one.lever]}{where}"
        shown = {load: looks[load] for load in one.loads}
        panels.append(level_panel(one.values, one.metric, one.statistic, title, shown, lines, f"q{place}-{number}"))
    dotted = " A dotted line is the straight one that is closest." if lined else ""
    return FigureBlock(
        tuple(panels),
        "how it goes with the level: evenly, by a step, or up to a bend. Marks are means of the replicates, small ones "
        f"the replicates.{dotted}",
        "what lies between the levels, and beyond the last one.",
        "",
        legend([Series(load, load_heading(load), looks[load]) for load in every]),
    )


def _lined(question: Question) -> Iterator[tuple[str, tuple[str, str | None]]]:
    for answer in question.answers:
        if isinstance(answer, LineAnswer):
            for reference in map(parse_metric_reference, answer.metrics):
                yield answer.lever, (reference.metric, reference.statistic)
