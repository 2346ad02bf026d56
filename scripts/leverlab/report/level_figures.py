"""The figure of a question about levels that are numbers: what is told of each of them, over the levels."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from leverlab.config.course import LevelsAnswer, LineAnswer, Question
from leverlab.metrics import MetricReference, parse_metric_reference
from leverlab.report.blocks import legend
from leverlab.report.figures.axes import Series
from leverlab.report.figures.levels import level_panel
from leverlab.report.lines import line_of
from leverlab.report.numbered_levels import numbers, values_at
from leverlab.report.phrases import context_phrase, load_heading, load_order
from leverlab.report.source import StudyData
from leverlab.report.view import FigureBlock
from leverlab.stats.line import LEAST_LEVELS

_LIMIT: Final = 6
"""Panels that a question can do with."""


def level_figure(question: Question, place: int, data: StudyData) -> FigureBlock | None:
    """A panel for each metric and context; None where no lever that the question asks about has three levels that are numbers.

    `place`: the question's number on the page, which makes the drawings' names their own.
    """
    drawn = [
        (lever, reference, context, values)
        for lever, reference in _asked(question, data)
        for context in data.contexts
        if (values := values_at(lever, reference, context, data))["level"].nunique() >= LEAST_LEVELS
    ][:_LIMIT]
    if not drawn:
        return None
    lined = set(_lined(question))
    every = sorted({load for *_, values in drawn for load in values["load"]}, key=load_order)
    looks = {load: number for number, load in enumerate(every)}
    panels = []
    for number, (lever, reference, context, values) in enumerate(drawn):
        where = f" ({context_phrase(*context)})" if len(data.contexts) > 1 else ""
        shown = {load: looks[load] for load in every if load in set(values["load"])}
        with_line = (lever, (reference.metric, reference.statistic)) in lined
        lines = {load: line for load in shown if with_line and (line := line_of(values[values["load"] == load]))}
        title = f"{data.titles[lever]}{where}"
        panels.append(
            level_panel(values, reference.metric, reference.statistic, title, shown, lines, f"q{place}-{number}")
        )
    dotted = " A dotted line is the straight one that is closest." if lined else ""
    return FigureBlock(
        tuple(panels),
        "how it goes with the level: evenly, by a step, or up to a bend. Marks are means of the replicates, small ones "
        f"the replicates.{dotted}",
        "what lies between the levels, and beyond the last one.",
        "",
        legend([Series(load, load_heading(load), looks[load]) for load in every]),
    )


def _asked(question: Question, data: StudyData) -> Iterator[tuple[str, MetricReference]]:
    """Levers and metrics whose levels are numbers, each once; at every load point where any of the answers speaks of all."""
    found: dict[tuple[str, str, str | None], MetricReference] = {}
    for answer in question.answers:
        if isinstance(answer, LevelsAnswer | LineAnswer) and len(numbers(answer.lever, data)) >= LEAST_LEVELS:
            for reference in map(parse_metric_reference, answer.metrics):
                key = (answer.lever, reference.metric, reference.statistic)
                known = found.setdefault(key, reference)
                if known.load != reference.load:
                    found[key] = replace(known, load=None)
    yield from ((lever, reference) for (lever, *_), reference in found.items())


def _lined(question: Question) -> Iterator[tuple[str, tuple[str, str | None]]]:
    for answer in question.answers:
        if isinstance(answer, LineAnswer):
            for reference in map(parse_metric_reference, answer.metrics):
                yield answer.lever, (reference.metric, reference.statistic)
