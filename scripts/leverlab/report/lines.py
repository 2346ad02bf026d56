"""Whether a metric lies on a straight line over the levels of a lever that are numbers, and on which."""

from collections.abc import Iterator, Sequence

from leverlab.metrics import MetricReference
from leverlab.report.at_levels import AtLevels
from leverlab.report.phrases import context_phrase, load_phrase, metric_phrase, value_phrase
from leverlab.report.sentences import replicates_phrase
from leverlab.report.source import StudyData
from leverlab.stats.intervals import Interval
from leverlab.stats.line import LEAST_LEVELS, Line
from leverlab.stats.verdict import TOO_FEW
from leverlab.units import format_share


def line_sentences(lever: str, reference: MetricReference, asked: Sequence[AtLevels], data: StudyData) -> Iterator[str]:
    """A sentence for each context and load point at which a level tells the metric, the other levers at the baseline.

    `asked`: what `at_levels` gives for the question.
    """
    prefix = "Simulated: " if data.simulated else ""
    for one in asked:
        if not one.tells(lever, reference):
            continue
        where = f" ({context_phrase(*one.context)})" if len(data.contexts) > 1 else ""
        for load in (
            one.loads if reference.load is None else [load for load in one.loads if load == str(reference.load)]
        ):
            what = f"{data.titles[lever]}: {metric_phrase(reference.metric, reference.statistic)} {load_phrase(load)}{where}"
            own = one.at_load(load)
            told, line = own["level"].nunique(), one.lines.get(load)
            if told < LEAST_LEVELS:
                yield f"Not answered: {what}: a line takes {LEAST_LEVELS} levels, and valid cells tell it at {told}."
            elif line is None:
                yield f"Not answered: {what}: no replicate has a valid cell at each of the {told} levels."
            else:
                yield f"{prefix}{what} {_told(reference.metric, line, float(own['level'].max()))}"


def _told(metric: str, line: Line, most: float) -> str:
    """`most`: the highest level, for every so many of which the line is said to rise."""

    def value(number: float) -> str:
        return value_phrase(metric, number)

    sign, way = (1, "more") if line.slope >= 0 else (-1, "less")
    course = f"{value(line.at_zero)} at 0 and {value(sign * line.slope * most)} {way} for every {most:g}"
    zero, slope = line.at_zero_interval, line.slope_interval
    if zero is not None and slope is not None:
        low, high = sorted((sign * slope.low * most, sign * slope.high * most))
        course += f" (95 % intervals {value(zero.low)} to {value(zero.high)} and {value(low)} to {value(high)})"
    departs = f"{format_share(line.departure, 1)} at {line.departs_at:g}"
    replicates = replicates_phrase(line.replicates)
    if line.straight is None:
        return (
            f"is closest to the straight line with {course}: the largest departure is {departs}. "
            f"Whether it lies on one is not resolved: {replicates}, and {TOO_FEW}."
        )
    if not line.straight:
        return f"lies on no straight line: from the closest, with {course}, it departs by up to {departs}, further than {replicates} scatter."
    return (
        f"lies on a straight line as far as {replicates} tell, with {course}: "
        f"the largest departure is {departs}.{_unresolved(slope) or _proportion(zero)}"
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
