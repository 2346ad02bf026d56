"""Whether a metric lies on a straight line over the levels of a lever that are numbers, and on which."""

from collections.abc import Iterator, Sequence
from typing import Final

from leverlab.metrics import MetricReference
from leverlab.report.at_levels import AtLevels
from leverlab.report.doubts import marked_effects
from leverlab.report.effect import Effect
from leverlab.report.phrases import context_phrase, joined, load_phrase, metric_phrase, value_phrase
from leverlab.report.sentences import replicates_phrase
from leverlab.report.source import StudyData
from leverlab.stats.intervals import Interval
from leverlab.stats.line import LEAST_LEVELS, Line
from leverlab.stats.verdict import TOO_FEW
from leverlab.units import format_share

_SHOWN: Final = 0.0005
"""Departures that are shown as no departure at all, and fixed parts of what replicates determine exactly that are none."""

_IN_PROPORTION: Final = " It goes in proportion."


def line_sentences(lever: str, reference: MetricReference, asked: Sequence[AtLevels], data: StudyData) -> Iterator[str]:
    """A sentence for each context and load point at which a level tells the metric, the other levers at the baseline; one for load points
    of which the same is told.

    `asked`: what `at_levels` gives for the question.
    """
    prefix = "Simulated: " if data.simulated else ""
    for one in asked:
        if not one.tells(lever, reference):
            continue
        where = f" ({context_phrase(*one.context)})" if len(data.contexts) > 1 else ""
        alike: dict[str, list[str]] = {}
        for load in (
            one.loads if reference.load is None else [load for load in one.loads if load == str(reference.load)]
        ):
            what = f"{data.titles[lever]}: {metric_phrase(reference.metric, reference.statistic)} {load_phrase(load)}{where}"
            own = one.at_load(load)
            levels, line = own["level"].nunique(), one.lines.get(load)
            if levels < LEAST_LEVELS:
                yield f"Not answered: {what}: a line takes {LEAST_LEVELS} levels, and valid cells tell it at {levels}."
            elif line is None:
                yield f"Not answered: {what}: no replicate has a valid cell at each of the {levels} levels."
            else:
                alike.setdefault(_told(reference.metric, line, float(own["level"].max())), []).append(load)
        for told, loads in alike.items():
            at = joined([load_phrase(load) for load in loads])
            what = f"{data.titles[lever]}: {metric_phrase(reference.metric, reference.statistic)} {at}{where}"
            yield f"{prefix}{what} {told}{marked_effects(_effects(one, loads, data), data)}"


def _effects(one: AtLevels, loads: Sequence[str], data: StudyData) -> list[Effect]:
    """The comparisons of the levels with the baseline's, which tell whether these were measured under the same conditions."""
    return [
        effect
        for effect in data.effects
        if (effect.context, effect.metric, effect.statistic) == (one.context, one.metric, one.statistic)
        and effect.load in loads
        and list(effect.changed) == [one.lever]
    ]


def _told(metric: str, line: Line, most: float) -> str:
    """`most`: the highest level, for every so many of which the line is said to rise."""

    def value(number: float) -> str:
        return value_phrase(metric, number)

    sign, way = (1, "more") if line.slope >= 0 else (-1, "less")
    course = f"{value(line.at_zero)} at 0 and {value(sign * line.slope * most)} {way} for every {most:g}"
    zero, slope = line.at_zero_interval, line.slope_interval
    exactly = zero is None and abs(line.at_zero) <= _SHOWN * abs(line.slope * most)
    if zero is not None and slope is not None:
        low, high = sorted((sign * slope.low * most, sign * slope.high * most))
        course += f" (95 % intervals {value(zero.low)} to {value(zero.high)} and {value(low)} to {value(high)})"
    departs = f"the largest departure is {format_share(line.departure, 1)} at {line.departs_at:g}"
    if line.departure < _SHOWN:
        departs = f"no level departs from it by {format_share(2 * _SHOWN, 1)}"
    replicates = replicates_phrase(line.replicates)
    if line.straight is None:
        return (
            f"is closest to the straight line with {course}: {departs}. "
            f"Whether it lies on one is not resolved: {replicates}, and {TOO_FEW}."
        )
    if not line.straight:
        return (
            f"lies on no straight line: from the closest, with {course}, the levels together depart further than {replicates} scatter; "
            f"{departs}."
        )
    return (
        f"lies on a straight line as far as {replicates} tell, with {course}: "
        f"{departs}.{_unresolved(slope) or _proportion(zero) or (_IN_PROPORTION if exactly else '')}"
    )


def _unresolved(slope: Interval | None) -> str:
    if slope is None or 0 not in slope:
        return ""
    return " Whether it rises or falls along it is not resolved."


def _proportion(at_zero: Interval | None) -> str:
    if at_zero is None:
        return ""
    if 0 in at_zero:
        return " No fixed part was found: as far as that, it goes in proportion."
    if at_zero.low > 0:
        return " It has a fixed part, so that it does not go in proportion."
    return " It is below 0 at 0, so that it does not go in proportion."
