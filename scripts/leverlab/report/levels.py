"""A metric at every level of a lever: the values, and what of them is a difference from the baseline's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from leverlab.aggregate.effects import LEFT_OUT
from leverlab.aggregate.schema import metric_column
from leverlab.load_point import LoadPoint
from leverlab.metrics import METRICS, MetricReference
from leverlab.report.doubts import marked_effects
from leverlab.report.effect import Effect
from leverlab.report.phrases import context_phrase, joined, load_order, load_phrase, metric_phrase, value_phrase
from leverlab.report.sentences import capital
from leverlab.report.source import StudyData
from leverlab.stats.verdict import LEAST_PAIRS

_MANY: Final = 3
"""Levels from which on a value that all of them have is told once."""


@dataclass(frozen=True, slots=True)
class _AtLoad:
    """A load point, the values of the levels there, what they are of the replicates, and the effects that they rest on."""

    load: str
    told: str
    basis: str
    effects: Sequence[Effect]


def level_sentences(lever: str, reference: MetricReference, data: StudyData) -> Iterator[str]:
    """A sentence for each context and each load point at which any level of `lever` tells the metric; one for those of which the same was found.

    Of treatments that change it alone; in a design without such, of those that change the same besides.
    """
    metric = METRICS[reference.metric]
    changing = [effect for effect in data.effects if lever in effect.changed and refers_to(reference, effect)]
    changing = [effect for effect in changing if len(effect.changed) == 1] or changing
    places = dict.fromkeys((effect.context, effect.load, _besides(effect, lever, data)) for effect in changing)
    alike: dict[tuple[str, str], list[_AtLoad]] = {}
    for place in sorted(places, key=lambda place: (data.contexts.index(place[0]), load_order(place[1]))):
        context, load, besides = place
        own = [e for e in changing if (e.context, e.load, _besides(e, lever, data)) == place]
        values, unpaired = _values(own, lever, data)
        if not values:
            continue
        where = f" ({context_phrase(*context)})" if len(data.contexts) > 1 else ""
        found = " ".join(_found(own, lever, values, metric.better, data))
        rests_on = [effect for effect in own if effect.changed[lever][0] in values]
        told = _told(metric.name, values, data.study.levers[lever])
        at_load = _AtLoad(load, told, _basis(values, unpaired, rests_on), rests_on)
        alike.setdefault((f"{where}{besides}", found), []).append(at_load)
    simulated = "Simulated: " if data.simulated else ""
    what = metric_phrase(metric.name, reference.statistic)
    for (where, found), at in alike.items():
        marked = marked_effects([effect for one in at for effect in one.effects], data)
        told = _over_loads(what, where, at)
        yield f"{simulated}{data.titles[lever]}: {told}. {found}".rstrip() + marked


def _over_loads(what: str, where: str, at: Sequence[_AtLoad]) -> str:
    """The values at load points of which the same was found; those that are the same at all of them once."""
    loads = [load_phrase(one.load) for one in at]
    if len({(one.told, one.basis) for one in at}) == 1:
        return f"{what} {joined(loads)}{where} is {at[0].told}{at[0].basis}"
    once = at[0].basis if len({one.basis for one in at}) == 1 else ""
    parts = [f"{load} {one.told}{'' if once else one.basis}" for load, one in zip(loads, at, strict=True)]
    return f"{what}{where}: {'; '.join(parts)}{once}"


def _told(metric: str, values: Mapping[str, float], levels: Sequence[str]) -> str:
    """The value at each level; once where it is the same at all of many."""
    shown = {level: value_phrase(metric, value) for level, value in values.items()}
    if len(shown) == len(levels) >= _MANY and len(set(shown.values())) == 1:
        return f"{next(iter(shown.values()))} at every level"
    return joined([f"{value} at {level}" for level, value in shown.items()])


def _basis(values: Mapping[str, float], unpaired: list[str], effects: Sequence[Effect]) -> str:
    """What the values are of the replicates: other answers tell medians, which are none of these."""
    pairs = sorted({effect.pairs for effect in effects if effect.pairs})
    if 0 < len(unpaired) < len(values):
        return f" (at {joined(unpaired)} the median of its own cells, otherwise means over pairs of replicates)"
    if unpaired or not pairs or pairs[-1] < 2:
        return ""
    return f" (means of {f'{pairs[0]} to ' if len(pairs) > 1 else ''}{pairs[-1]} replicates)"


def _besides(effect: Effect, lever: str, data: StudyData) -> str:
    """`, with Expert parallelism on`: what the treatment changes besides `lever`."""
    others = [f"{data.titles[name]} {level}" for name, (level, _) in effect.changed.items() if name != lever]
    return f", with {joined(others)}" if others else ""


def refers_to(reference: MetricReference, effect: Effect) -> bool:
    """Whether the effect is in the metric, and at its load point where the reference names one."""
    wanted: LoadPoint | None = reference.load
    return (effect.metric, effect.statistic) == (reference.metric, reference.statistic) and (
        wanted is None or effect.load == str(wanted)
    )


def _values(effects: Sequence[Effect], lever: str, data: StudyData) -> tuple[dict[str, float], list[str]]:
    """Level → value, in the study's order, and the levels without a pair, whose value is the median of their own cells.

    That of the others is the mean over pairs; the baseline's is that of its pairs with the first level that has any. Without a pair
    are all levels where the baseline has nothing of the kind.
    """
    found = {effect.changed[lever][0]: effect.value for effect in effects}
    paired = [effect for effect in effects if effect.baseline is not None]
    one = effects[0]
    alone = len(one.changed) == 1  # otherwise the baseline has not what the treatments change besides
    found |= {effect.changed[lever][1]: effect.baseline for effect in paired[:1] if alone}
    cells = data.of_context(one.context)
    cells = cells[cells["load"] == one.load]
    treatments = {"baseline": one.changed[lever][1]} if alone else {}
    treatments |= {effect.treatment: effect.changed[lever][0] for effect in effects}
    unpaired = []
    for treatment, level in treatments.items():
        if found.get(level) is None:
            unpaired.append(level)
            own = cells[cells["treatment"] == treatment][metric_column(one.metric, one.statistic)].dropna()
            found[level] = float(own.median()) if len(own) else None
    values = {level: value for level in data.study.levers[lever] if (value := found.get(level)) is not None}
    return values, [level for level in values if level in unpaired]


def _found(
    effects: Sequence[Effect], lever: str, values: Mapping[str, float], better: str, data: StudyData
) -> Iterator[str]:
    """What differs from the baseline's level, and at which levels there is nothing to compare."""
    baseline = data.study.baseline[lever]
    others = [level for level in data.study.levers[lever] if level != baseline]
    compared = [effect for effect in effects if effect.changed[lever][0] in values] if baseline in values else []
    alike = [effect.changed[lever][0] for effect in compared if effect.verdict == "no difference found"]
    if decided := [effect for effect in compared if effect.decided]:
        yield _moved(decided, lever, better, baseline)
    if alike == others:
        yield f"No difference from {baseline} was found at any level."
    elif alike:
        yield f"At {joined(alike)} no difference was found."
    unjudged = [effect for effect in compared if not effect.decided and effect.verdict != "no difference found"]
    yield from _unjudged(unjudged, lever, baseline)
    yield from _left_out(compared, lever)
    yield from _silent(effects, lever, values, data)


def _left_out(effects: Sequence[Effect], lever: str) -> Iterator[str]:
    """Which replicates a level's pairs lack, and why; levels for which that is the same together."""
    said: dict[str, list[str]] = {}
    for effect in effects:
        if left_out := effect.reason.partition(LEFT_OUT)[2]:
            said.setdefault(left_out, []).append(effect.changed[lever][0])
    yield from (f"Left out at {joined(levels)}: {left_out.rstrip('.')}." for left_out, levels in said.items())


def _silent(effects: Sequence[Effect], lever: str, values: Mapping[str, float], data: StudyData) -> Iterator[str]:
    """Levels without a value, with the reason where there is no valid cell of them at all."""
    cells = data.of_context(effects[0].context)
    there = set(cells[cells["load"] == effects[0].load]["treatment"])
    why = {e.changed[lever][0]: e.reason for e in effects if e.treatment not in there and there}
    said: dict[str, list[str]] = {}
    for level in data.study.levers[lever]:
        if level not in values:
            reason = f" ({why[level]})" if why.get(level) else ""
            said.setdefault(f"At {{}} no valid cell tells it{reason}.", []).append(level)
    yield from (form.format(joined(levels)) for form, levels in said.items())


def _moved(decided: Sequence[Effect], lever: str, better: str, baseline: str) -> str:
    names = {
        verb: [e.changed[lever][0] for e in decided if e.raises == (verb == "raises")] for verb in ("raises", "lowers")
    }
    moved = joined([f"{joined(levels)} {_verb(verb, levels)} it" for verb, levels in names.items() if levels])
    improving = [effect for effect in decided if effect.verdict == "improves" and effect.estimate is not None]
    most = max(map(_gain, improving), default=0.0)
    best = [effect.changed[lever][0] for effect in improving if _gain(effect) == most]
    if better == "neither":
        return f"Against {baseline}, {moved}."
    ending = f"no level was found to be better than {baseline}"
    if best and len(decided) == 1:
        ending = "that is better"
    elif best:
        ending = f"of those the best {'is' if len(best) == 1 else 'are'} {joined(best)}"
    return f"Against {baseline}, {moved}; {ending}."


def _unjudged(effects: Sequence[Effect], lever: str, baseline: str) -> Iterator[str]:
    """Levels without a verdict: those that differ all the same, and those of which it is not known, with the reasons."""
    said: dict[str, list[str]] = {}
    differs: list[str] = []
    exactly: list[str] = []
    for effect in effects:
        why = capital(effect.reason) or "There are too few pairs of replicates"
        form = f"Whether it differs from {baseline} at {{}} is not resolved. {why}."
        level = effect.changed[lever][0]
        judged = effect.pairs >= LEAST_PAIRS
        if judged and effect.low is None and effect.estimate not in (None, effect.neutral):
            exactly.append(level)
        elif not judged or effect.low is None or effect.high is None or effect.low <= effect.neutral <= effect.high:
            said.setdefault(form, []).append(level)
            continue
        differs.append(level)
    if differs:
        alike = ", in each pair by exactly the same" if exactly == differs else ""
        some = f" (at {joined(exactly)} in each pair by exactly the same)" if exactly and not alike else ""
        yield f"At {joined(differs)} it differs from {baseline}{alike}{some}."
    yield from (form.format(joined(levels)) for form, levels in said.items())


def _verb(verb: str, levels: Sequence[str]) -> str:
    return verb if len(levels) == 1 else verb.removesuffix("s")


def _gain(effect: Effect) -> float:
    """How far a metric moved in its better direction: a ratio or a difference, larger for more."""
    assert effect.estimate is not None
    distance = abs(effect.estimate - effect.neutral)
    return max(effect.estimate, 1 / effect.estimate) if effect.by_ratio and effect.estimate else distance
