"""Whether the effects of two levers stack: what both do together beside what each alone lets expect."""

import itertools
from collections.abc import Iterator
from typing import Final

from leverlab.aggregate.schema import metric_column
from leverlab.config.course import StackingAnswer
from leverlab.metrics import METRICS, MetricReference, parse_metric_reference
from leverlab.report.doubts import marked_effects
from leverlab.report.effect import Effect
from leverlab.report.phrases import change_phrase, context_phrase, levels_phrase, load_phrase, metric_phrase
from leverlab.report.source import StudyData
from leverlab.stats.intervals import Interval, mean_interval
from leverlab.stats.verdict import LEAST_PAIRS
from leverlab.units import format_number

Context = tuple[str, str, str, int]

_ADDING: Final = {"s": "In time", "tokens/s": "In tokens/s"}
"""Unit → how the interaction in that unit begins."""


def stacking_sentences(answer: StackingAnswer, data: StudyData) -> Iterator[str]:
    """A sentence for each metric, context, load point and pair of levels that was measured apart and together.

    By factors, an interaction of 1 says that the effects multiply. What two levers spare of different parts of a request adds up
    instead, and their factors do not multiply then; so it is told in the metric's own unit as well, where 0 says that they add.
    """
    for reference in map(parse_metric_reference, answer.metrics):
        for effect in data.crossed:
            if effect.kind == "interaction" and set(effect.changed) == set(answer.levers) and _is(effect, reference):
                yield f"{'Simulated: ' if data.simulated else ''}{_sentence(effect, data)}{marked_effects([effect], data)}"


def _is(effect: Effect, reference: MetricReference) -> bool:
    same = (effect.metric, effect.statistic) == (reference.metric, reference.statistic)
    return same and (reference.load is None or effect.load == str(reference.load))


def _sentence(effect: Effect, data: StudyData) -> str:
    where = f" ({context_phrase(*effect.context)})" if len(data.contexts) > 1 else ""
    what = f"{metric_phrase(effect.metric, effect.statistic)} {load_phrase(effect.load)}{where}"
    single = [_treatment(effect, {lever: effect.changed[lever]}, data) for lever in effect.changed]
    alone = [one for one in single if one is not None]
    apart = [f"{_factor(one)} with {levels_phrase(one.changed, data.titles)}" for one in alone]
    both = _treatment(effect, effect.changed, data)
    if len(apart) < 2 or both is None or both.estimate is None or effect.estimate is None:
        return f"{levels_phrase(effect.changed, data.titles)}: whether their effects on {what} stack is not known: {effect.reason or 'a combination has no valid pair'}."
    told = f"{what} changes by {apart[0]}, by {apart[1]}, and by {_factor(both)} with both."
    told = f"{told[:1].upper()}{told[1:]}"
    if not any(one.decided for one in (*alone, both)):
        return f"{told} Neither alone nor both were found to change it, so that whether they stack is not resolved."
    return f"{told} {_by_factors(effect)}{_by_difference(effect, data)}"


def _treatment(effect: Effect, changed: dict[str, tuple[str, str]], data: StudyData) -> Effect | None:
    """The comparison with the baseline of the treatment that makes exactly these changes, in the same metric and place."""
    key = (effect.context, effect.load, effect.metric, effect.statistic)
    return next(
        (e for e in data.effects if (e.context, e.load, e.metric, e.statistic) == key and e.changed == changed), None
    )


def _factor(effect: Effect) -> str:
    if effect.estimate is None:
        return "an unknown amount"
    if effect.by_ratio:
        return f"a factor of {format_number(effect.estimate)}"
    return f"{'+' if effect.estimate >= 0 else '−'}{change_phrase(effect.metric, effect.estimate)}"


def _by_factors(effect: Effect) -> str:
    """What the interaction says; `not resolved` where no verdict can be given."""
    low, high = effect.low, effect.high
    if effect.estimate is None or low is None or high is None or effect.pairs < LEAST_PAIRS:
        return "Whether the effects stack is not resolved: there are too few replicates."
    neutral, joins = effect.neutral, "multiply" if effect.by_ratio else "add up"
    shown = f"{_size(effect, effect.estimate)} ({_size(effect, low)} to {_size(effect, high)})"
    if low <= neutral <= high:
        least = effect.minimum_detectable
        seen = f"; one of {_size(effect, least)} would have been found" if least is not None else ""
        return f"Beside what they would do if they {'multiplied' if effect.by_ratio else 'added up'}, together they do {shown}: no departure was found{seen}."
    more = effect.raises == (METRICS[effect.metric].better != "lower")
    return f"They do not {joins}: beside that, together they do {shown}, which is {'better' if more else 'worse'} than each alone lets expect."


def _size(effect: Effect, value: float) -> str:
    if effect.by_ratio:
        return f"×{format_number(value)}"
    return f"{'−' if value < 0 else '+'}{change_phrase(effect.metric, value)}"


def _by_difference(effect: Effect, data: StudyData) -> str:
    """The interaction in the metric's own unit, for metrics that are compared by ratio."""
    unit = METRICS[effect.metric].unit
    found = _difference(effect, data) if effect.by_ratio and unit in _ADDING else None
    if found is None:
        return ""
    shown = " to ".join(
        f"{'−' if end < 0 else '+'}{change_phrase(effect.metric, end)}" for end in (found.low, found.high)
    )
    verdict = "no departure from adding up was found" if found.low <= 0 <= found.high else "they do not add up"
    middle = (found.low + found.high) / 2
    return f" {_ADDING[unit]}, together they change {'−' if middle < 0 else '+'}{change_phrase(effect.metric, middle)} beside the sum of both ({shown}): {verdict}."


def _difference(effect: Effect, data: StudyData) -> Interval | None:
    """The 95 % interval, over the replicates, of (both - one) - (other - neither); None with too few whole replicates for a verdict."""
    cells = data.of_context(effect.context)
    cells = cells[cells["load"] == effect.load]
    column = metric_column(effect.metric, effect.statistic)
    names = {frozenset(treatment.changed): name for name, treatment in data.treatments.items() if not treatment.copy}
    pairs = [(lever, level) for lever, (level, _) in effect.changed.items()]
    sides = {size: [frozenset(chosen) for chosen in itertools.combinations(pairs, size)] for size in range(3)}
    values = []
    for replicate in sorted(cells["replicate"].unique()):
        own = cells[cells["replicate"] == replicate].set_index("treatment")[column].dropna()
        found = {side: own.get(names.get(side, "")) for of_size in sides.values() for side in of_size}
        if all(value is not None for value in found.values()):
            (neither,), (one, other), (both,) = ([float(found[side]) for side in sides[size]] for size in range(3))
            values.append(both - one - other + neither)
    return mean_interval(values) if len(values) >= LEAST_PAIRS else None
