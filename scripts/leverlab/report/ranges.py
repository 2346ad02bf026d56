"""Ranges that a source expects a metric to lie in, held against the measured cells."""

from collections.abc import Iterator, Sequence
from math import fsum

from leverlab.aggregate.schema import metric_column
from leverlab.config.course import RangeAnswer
from leverlab.metrics import parse_metric_reference
from leverlab.report.doubts import marked_cells
from leverlab.report.phrases import context_phrase, joined, load_order, load_phrase, metric_phrase, value_phrase
from leverlab.report.sentences import replicates_phrase
from leverlab.report.source import StudyData
from leverlab.stats.ranges import range_place
from leverlab.stats.verdict import LEAST_PAIRS, TOO_FEW


def range_sentences(answer: RangeAnswer, data: StudyData) -> Iterator[str]:
    """A sentence for each level, context and load point of which there is a valid cell: inside, outside, or not resolved."""
    reference = parse_metric_reference(answer.metric)
    column = metric_column(reference.metric, reference.statistic)
    prefix = "Simulated: " if data.simulated else ""
    for level, (low, high) in answer.expected.items():
        treatment = treatment_at(data, answer.lever, level)
        for context in data.contexts if treatment is not None else ():
            cells = data.of_context(context)
            own = cells[cells["treatment"] == treatment].dropna(subset=[column])
            for load in sorted(own["load"].unique(), key=load_order):
                if reference.load is not None and load != str(reference.load):
                    continue
                rests_on = own[own["load"] == load]
                values = [float(value) for value in rests_on[column]]
                where = f" ({context_phrase(*context)})" if len(data.contexts) > 1 else ""
                what = f"{metric_phrase(reference.metric, reference.statistic)} {load_phrase(load)}{where}"
                told = _told(reference.metric, values, low, high)
                yield f"{prefix}{data.titles[answer.lever]} {level}: {what} is {told} ({answer.source}).{marked_cells(rests_on)}"


def treatment_at(data: StudyData, lever: str, level: str) -> str | None:
    """The treatment in which `lever` is at `level` and every other at the baseline; None where the design has none."""
    wanted = {**data.study.baseline, lever: level}
    found = (name for name, one in data.treatments.items() if dict(one.levels) == wanted and not one.copy)
    return next(found, None)


def _told(metric: str, values: Sequence[float], low: float, high: float) -> str:
    place, interval = range_place(values, low, high)
    mean = value_phrase(metric, fsum(values) / len(values))
    expected = f"the expected range of {value_phrase(metric, low)} to {value_phrase(metric, high)}"
    if len(values) < LEAST_PAIRS:
        each = f", {joined([value_phrase(metric, value) for value in values])}" if len(values) > 1 else ""
        basis = f"{replicates_phrase(len(values))}{each}: {TOO_FEW}"
    elif interval is not None:
        ends = f"{value_phrase(metric, interval.low)} to {value_phrase(metric, interval.high)}"
        basis = f"95 % interval {ends}, {len(values)} replicates"
    else:
        basis = f"the same in all {len(values)} replicates"
    if place == "not resolved":
        return f"{mean} ({basis}); whether that is inside {expected} is not resolved"
    return f"{mean} ({basis}), {place} {expected}"
