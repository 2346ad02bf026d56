"""Whether a metric lies on a straight line over the levels of a lever that are numbers, and on which."""

from collections.abc import Iterator

import pandas as pd

from leverlab.metrics import MetricReference
from leverlab.report.numbered_levels import values_at
from leverlab.report.phrases import context_phrase, load_order, load_phrase, metric_phrase, value_phrase
from leverlab.report.source import StudyData
from leverlab.stats.intervals import Interval
from leverlab.stats.line import LEAST_LEVELS, Line, line_through
from leverlab.units import format_share


def line_of(values: pd.DataFrame) -> Line | None:
    """The line through `values` of one load point, as `values_at` gives them, over the replicates that all of its levels have."""
    table = values.pivot_table(index="replicate", columns="level", values="value").dropna()
    return line_through({float(level): [float(value) for value in table[level]] for level in table.columns})


def line_sentences(lever: str, reference: MetricReference, data: StudyData) -> Iterator[str]:
    """A sentence for each context and load point at which a level tells the metric, the other levers at the baseline."""
    prefix = "Simulated: " if data.simulated else ""
    for context in data.contexts:
        values = values_at(lever, reference, context, data)
        where = f" ({context_phrase(*context)})" if len(data.contexts) > 1 else ""
        for load in sorted(values["load"].unique(), key=load_order):
            what = f"{data.titles[lever]}: {metric_phrase(reference.metric, reference.statistic)} {load_phrase(load)}{where}"
            own = values[values["load"] == load]
            told, line = own["level"].nunique(), line_of(own)
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
    replicates = f"{line.replicates} replicates"
    if line.straight is None:
        return (
            f"is closest to the straight line with {course}: the largest departure is {departs}. "
            "Whether it lies on one is not resolved: 1 replicate."
        )
    if not line.straight:
        return f"lies on no straight line: from the closest, with {course}, it departs by up to {departs}, further than {replicates} scatter."
    return (
        f"lies on a straight line as far as {replicates} tell, with {course}: "
        f"the largest departure is {departs}.{_proportion(zero)}"
    )


def _proportion(at_zero: Interval | None) -> str:
    if at_zero is None:
        return ""
    if 0 in at_zero:
        return " No fixed part was found: as far as that, it goes in proportion."
    if at_zero.low > 0:
        return " It has a fixed part, so that it does not go in proportion."
    return " It is below 0 at 0, so that it does not go in proportion."
