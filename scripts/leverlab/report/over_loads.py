"""What a treatment does to a metric at several load points, in one sentence: what is the same at all of them stands once."""

from collections.abc import Callable, Iterator, Sequence

from leverlab.report.effect import Effect
from leverlab.report.phrases import levels_phrase, load_order, load_phrase, metric_phrase, value_phrase
from leverlab.report.sentences import (
    Telling,
    capital,
    correction,
    estimate_phrase,
    is_far,
    level_phrase,
    replicates_phrase,
    size_phrase,
    smallest_phrase,
    verdict_sentence,
    where_phrase,
)


def effects_over_loads(
    effects: Sequence[Effect], telling: Telling, marked: Callable[[Sequence[Effect]], str]
) -> Iterator[str]:
    """Sentences on `effects`, which are of one treatment, context, metric and statistic.

    One for the load points at which the metric rises, one for those at which it falls, one for those at which no difference
    was found, one for those of which the same reason leaves it open. Of a single load point, and of what is invalid, it is the sentence of
    its verdict. `marked` says what is held against those that a sentence rests on, and stands behind it.
    """
    ordered = sorted(effects, key=lambda effect: load_order(effect.load))
    kinds: dict[tuple[str, bool, str], list[Effect]] = {}
    for effect in ordered:
        reason = effect.reason if effect.verdict == "not judgeable" else ""
        kinds.setdefault((effect.verdict, effect.decided and effect.raises, reason), []).append(effect)
    for own in kinds.values():
        if len(own) == 1 or own[0].verdict == "invalid" or any(effect.estimate is None for effect in own):
            yield from (f"{verdict_sentence(effect, telling)}{marked([effect])}" for effect in own)
        else:
            yield f"{_together(own, telling)}{marked(own)}"


def _together(effects: Sequence[Effect], telling: Telling) -> str:
    first = effects[0]
    start = f"{'Simulated: ' if telling.simulated else ''}{levels_phrase(first.changed, telling.titles)}"
    what = f"{metric_phrase(first.metric, first.statistic)}{where_phrase(first, telling)}"
    alike = len({effect.pairs for effect in effects}) == 1
    in_percent = not all(is_far(effect) for effect in effects)
    parts, stated = [], ""
    for effect in effects:
        parts.append(_part(effect, stated, in_percent, alike, telling))
        stated = level_phrase(effect)
    ending = f", each in {replicates_phrase(first.pairs)}." if alike else "."
    said = "; ".join(parts) + ending
    if first.verdict == "not judgeable":
        why = f" {capital(first.reason)}." if first.reason else ""
        return f"{start}: the effect on {what} is not judgeable: {said}{why}"
    if not first.decided:
        return f"{start}: no difference found in {what}: {said}"
    verb, good = ("raises" if first.raises else "lowers"), ("better" if first.verdict == "improves" else "worse")
    return f"{start} {verb} {what} {said} That is {good}."


def _part(effect: Effect, stated: str, in_percent: bool, alike: bool, telling: Telling) -> str:
    """`at 4 requests/s by 33 % (31 % to 35 %), from 6.52 ms to 4.37 ms`, and what else is to be said of this one alone."""
    values = f"from {value_phrase(effect.metric, effect.baseline)} to {value_phrase(effect.metric, effect.value)}"
    if effect.verdict == "not judgeable":
        told = [values]
    elif effect.decided:
        told = [f"by {size_phrase(effect, stated, in_percent=in_percent)}", values]
    else:
        smallest = smallest_phrase(effect)
        told = [
            values,
            estimate_phrase(effect, stated),
            *([f"where {smallest} would have been seen"] if smallest else []),
        ]
        told[-1] += correction(effect, telling)
    told += [] if alike else [f"in {replicates_phrase(effect.pairs)}"]
    left = f" ({effect.reason.rstrip('.')})" if effect.reason and effect.verdict != "not judgeable" else ""
    return f"{load_phrase(effect.load)} {', '.join(told)}{left}"
