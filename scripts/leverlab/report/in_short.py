"""The study's answer in short, which stands at the top of its page."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import inf, log
from typing import Final

from leverlab.report.doubts import mark_phrase, marks_phrase
from leverlab.report.effect import Doubts, Effect
from leverlab.report.phrases import joined, levels_phrase, load_phrase, metric_phrase, treatments_phrase, value_phrase
from leverlab.report.sentences import Telling, factor_phrase, where_phrase

_LIMIT: Final = 8
"""Lines that a reader takes in at a glance."""

_NAMED: Final = 3
"""Treatments from which on their number is told and not their names."""

_VERDICTS: Final = {
    "improves": "better",
    "worsens": "worse",
    "no difference found": "no difference found",
    "not judgeable": "not judgeable",
    "invalid": "invalid",
}


def headline(effects: Sequence[Effect], telling: Telling, doubts: Doubts) -> str:
    """Which lever moved its primary metric most, over all contexts; what was not found where none did.

    A lever of the load is named only where no lever of the server moved anything: a shorter prompt is no answer. What is held against an
    effect that it rests on stands in the same sentence.
    """
    prefix = "Simulated: " if telling.simulated else ""
    primary = [effect for effect in effects if effect.primary]
    moved = [effect for effect in primary if effect.decided and effect.by_ratio and _usable(effect)]
    if moved:
        of_server = [effect for effect in moved if not telling.of_the_load & effect.changed.keys()]
        most = max(of_server or moved, key=lambda effect: abs(log(effect.estimate or 1)))
        several = len({lever for effect in primary for lever in effect.changed}) > 1
        titles = joined([telling.titles.get(name, name) for name in most.changed])
        levels = joined([f"{new} instead of {old}" for new, old in most.changed.values()])
        start = f"{titles} moved its primary metric most: {levels}" if several else _subject(most, telling)
        return (
            f"{prefix}{start} {'raises' if most.raises else 'lowers'} {metric_phrase(most.metric, most.statistic)} "
            f"{load_phrase(most.load)} {factor_phrase(most)}, from {value_phrase(most.metric, most.baseline)} to "
            f"{value_phrase(most.metric, most.value)}{where_phrase(most, telling)}{mark_phrase(doubts(most))}."
        )
    differing = [effect for effect in primary if effect.decided]
    if differing:
        moves = [
            f"{_subject(e, telling)} moved {metric_phrase(e.metric, e.statistic)}{mark_phrase(doubts(e))}"
            for e in differing
        ]
        return f"{prefix}{joined(moves)}."
    subjects = list(dict.fromkeys(_subject(effect, telling) for effect in primary))
    if not subjects:
        return f"{prefix}Nothing was compared: no primary metric has a treatment to judge."
    if all(effect.verdict == "no difference found" for effect in primary):
        return f"{prefix}No difference was found {_nowhere(primary, telling)}{marks_phrase(primary, doubts)}."
    what = joined(subjects) if len(subjects) < _NAMED else f"{len(subjects)} treatments"
    return f"{prefix}No verdict yet: what was measured of {what} is not enough to judge any primary metric."


def in_short(effects: Sequence[Effect], telling: Telling, doubts: Doubts) -> list[str]:
    """A line for each lever, primary metric, load point and context: its value at every level, what that is, and whether it is marked.

    Nothing where the headline has told all there is. `effects` in the order in which they are to stand.
    """
    primary = [effect for effect in effects if effect.primary]
    if sum(effect.baseline is not None for effect in primary) < 2:
        return []
    places = [list(own) for _, own in groupby(primary, key=lambda effect: effect.place)]
    lines = [_line(own, telling, doubts) for own in places if any(effect.baseline is not None for effect in own)]
    more = len(lines) - _LIMIT
    return [*lines[:_LIMIT], *([f"{more} more stand below."] if more > 0 else [])]


def _line(effects: Sequence[Effect], telling: Telling, doubts: Doubts) -> str:
    first = next(effect for effect in effects if effect.baseline is not None)
    what = f"{metric_phrase(first.metric, first.statistic)} {load_phrase(first.load)}{where_phrase(first, telling)}"
    titles = " and ".join(telling.titles.get(name, name) for name in first.changed)
    before = f"{value_phrase(first.metric, first.baseline)} at {joined([old for _, old in first.changed.values()])}"
    told = [effect for effect in effects if effect.baseline is not None]
    untold = [f"{effect.level_names} ({_VERDICTS[effect.verdict]})" for effect in effects if effect.baseline is None]
    without = f"; nothing is known at {joined(untold)}" if untold else ""
    return f"{titles}: {what} is {joined([before, *_levels(told, doubts)])}{without}."


def _levels(effects: Sequence[Effect], doubts: Doubts) -> Iterator[str]:
    for effect in effects:
        marked = ", marked" if doubts(effect) else ""
        yield f"{value_phrase(effect.metric, effect.value)} at {effect.level_names} ({_VERDICTS[effect.verdict]}{marked})"


def _nowhere(effects: Sequence[Effect], telling: Telling) -> str:
    """In which metrics, and with what; how many treatments there are where that is more than a headline holds."""
    wheres: dict[str, list[Mapping[str, tuple[str, str]]]] = {}
    for effect in effects:
        what = f"in {metric_phrase(effect.metric, effect.statistic)} {load_phrase(effect.load)}"
        wheres.setdefault(what, []).append(effect.changed)
    if len(wheres) >= _NAMED:
        return f"in any primary metric, with any of {len({effect.treatment for effect in effects})} treatments"
    told = [f"{what} with {treatments_phrase(changes, telling.titles, 'or')}" for what, changes in wheres.items()]
    return ", or ".join(told)


def _subject(effect: Effect, telling: Telling) -> str:
    return levels_phrase(effect.changed, telling.titles)


def _usable(effect: Effect) -> bool:
    return effect.estimate is not None and 0 < effect.estimate < inf
