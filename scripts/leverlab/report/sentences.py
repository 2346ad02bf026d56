"""The report's findings in words: pure functions from effects to sentences.

A sentence names the treatment, what it is compared with, the direction and the values, so that with baseline and
treatment swapped every one of them reads differently. All of them are plain text; the page escapes and marks them up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, floor, inf, log, log10
from typing import Final, Literal

from leverlab.config.lever import Expectation, Lever
from leverlab.report.effect import Effect
from leverlab.report.phrases import (
    bare_change,
    change_phrase,
    context_phrase,
    joined,
    levels_phrase,
    load_phrase,
    metric_phrase,
    treatments_phrase,
    value_phrase,
)
from leverlab.stats.intervals import LEVEL
from leverlab.stats.verdict import LEAST_PAIRS
from leverlab.units import format_number, format_percent

Outcome = Literal["confirmed", "contradicted", "not resolved", "simulated", "not stated for this comparison"]

_PERCENT_UNTIL: Final = 1.5
"""Ratios nearer to 1 than this are told in percent, others as a factor."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What every sentence of a report depends on besides its effect."""

    titles: Mapping[str, str]
    """Lever → title."""
    several_contexts: bool
    """Whether a sentence has to say on which model, GPU and engine."""
    simulated: bool
    comparisons: int
    """Primary comparisons, for whose number the verdicts are corrected."""
    of_the_load: frozenset[str] = frozenset()
    """Levers that change who asks or what is asked, and nothing of the server."""


def verdict_sentence(effect: Effect, telling: Telling) -> str:
    """What the treatment did to the metric, with its interval, the values it rests on and the number of replicates."""
    subject = f"{'Simulated: ' if telling.simulated else ''}{_subject(effect, telling)}"
    what = f"{metric_phrase(effect.metric, effect.statistic)} {load_phrase(effect.load)}{where_phrase(effect, telling)}"
    moved = f"{subject} {'raises' if effect.raises else 'lowers'} {what}"
    alike, otherwise = f"{subject}: no difference found in {what}", f"{subject}: the effect on {what} is"
    return _verdict(effect, telling, moved, alike, otherwise)


def found_sentence(effect: Effect, telling: Telling) -> str:
    """The same behind what was expected, which has named the treatment and the metric, and whether they are simulated."""
    where = f"{load_phrase(effect.load)}{where_phrase(effect, telling)}"
    moved = f"{'raised' if effect.raises else 'lowered'} {where}"
    return f"Found: {_verdict(effect, telling, moved, f'no difference {where}', f'the effect {where} is')}"


def _verdict(effect: Effect, telling: Telling, moved: str, alike: str, otherwise: str) -> str:
    """The sentence of a verdict: how it begins for an effect that was found, for no difference, and for any other."""
    if effect.verdict == "invalid":
        return f"{otherwise} invalid. {capital(effect.reason) or 'A check failed'}."
    if effect.estimate is None:
        return f"{otherwise} not judgeable. {capital(effect.reason) or 'There is no pair of measured cells'}."
    values = f"from {value_phrase(effect.metric, effect.baseline)} to {value_phrase(effect.metric, effect.value)}"
    if effect.decided:
        good = "better" if effect.verdict == "improves" else "worse"
        return f"{moved} by {size_phrase(effect)}: {values}, in {replicates_phrase(effect.pairs)}. That is {good}.{_remark(effect)}"
    if effect.verdict == "no difference found":
        return f"{alike}: {values}, {estimate_phrase(effect)}, in {replicates_phrase(effect.pairs)}. {_detectable(effect)}{correction(effect, telling)}{_remark(effect)}"
    why = capital(effect.reason) or ("One replicate gives no interval" if effect.pairs == 1 else "There is no interval")
    return f"{otherwise} not judgeable: {values}, in {replicates_phrase(effect.pairs)}. {why}."


def copy_sentence(effect: Effect, telling: Telling) -> str:
    """What the baseline's copy showed: whether the instrument sees a difference where there is none, and its noise floor."""
    prefix = "Simulated: the" if telling.simulated else "The"
    what = f"{metric_phrase(effect.metric, effect.statistic)} {load_phrase(effect.load)}{where_phrase(effect, telling)}"
    if effect.estimate is None or not (effect.decided or effect.verdict == "no difference found"):
        why = capital(effect.reason) or "There is no pair of measured cells"
        return f"{prefix} baseline against its own copy, {what}: not judgeable. {why}."
    if effect.decided:
        return (
            f"{prefix} baseline differs from its own copy in {what}: {estimate_phrase(effect)}, in {replicates_phrase(effect.pairs)}. "
            "Something besides the levers moved it, and every verdict on it is in doubt."
        )
    floor = (
        f" Two equal servers stay within {_width(effect, effect.noise_floor)} of each other."
        if effect.noise_floor
        else ""
    )
    return (
        f"{prefix} baseline against its own copy: no difference found in {what}: {estimate_phrase(effect)}, "
        f"in {replicates_phrase(effect.pairs)}.{floor}"
    )


def expectation_sentence(effect: Effect, lever: Lever | None, telling: Telling) -> tuple[Outcome, str]:
    """What the lever's entry expected of this comparison, and whether it came so."""
    expectation = lever.expectation if lever else None
    changed = effect.changed.get(effect.lever or "")
    indicator = " ".join(part for part in (effect.metric, effect.statistic) if part)
    title = _subject(effect, telling)
    if (
        lever is None
        or expectation is None
        or changed is None
        or len(effect.changed) > 1
        or indicator != lever.indicator.metric
    ):
        return (
            "not stated for this comparison",
            f"{title}: config/levers.yaml states no expectation for {metric_phrase(effect.metric, effect.statistic)}.",
        )
    told = outcome_sentence(effect, expectation, telling)
    return told or (
        "not stated for this comparison",
        f"{title}: the expectation of config/levers.yaml is stated for {expectation.of} instead of {expectation.against}, which is not this comparison.",
    )


def outcome_sentence(effect: Effect, expectation: Expectation, telling: Telling) -> tuple[Outcome, str] | None:
    """What was expected of an effect that changes one lever, and whether it came so; None where other levels are spoken of."""
    [(level, against)] = effect.changed.values()
    sign = expectation.turned(level, against)
    if sign is None:
        return None
    exactly = {level, against} == {expectation.of, expectation.against}
    factor = expectation.factor if exactly else None
    if factor and sign < 0:
        factor = 1 / factor
    title = _subject(effect, telling)
    direction = sign * {"increases": 1, "decreases": -1, "unchanged": 0}[expectation.direction]
    verb = {1: "to raise", -1: "to lower", 0: "not to move"}[direction]
    size = f" to {_times(factor)} of its value" if factor else ""
    reason = (
        expectation.because
        if sign > 0
        else f"The reason is stated for {expectation.of} instead of {expectation.against}: {expectation.because}"
    )
    expected = (
        f"{title} was expected {verb} {metric_phrase(effect.metric, effect.statistic)}{size}. {reason.rstrip('.')}."
    )
    outcome = _outcome(effect, direction, telling)
    verdict = {
        "contradicted": " Look for the cause before believing either.",
        "simulated": " The engine is simulated, so that nothing here speaks for or against that.",
    }.get(outcome, "")
    inside = ""
    if factor and outcome == "confirmed" and effect.low is not None and effect.high is not None:
        inside = (
            f" The expected size lies {'inside' if effect.low <= factor <= effect.high else 'outside'} the interval."
        )
    return outcome, f"{expected}{verdict}{inside}"


def limit_kind(effect: Effect) -> tuple[object, ...]:
    """What effects have in common whose limits are one sentence."""
    return effect.place, effect.pairs, effect.pairs >= LEAST_PAIRS and smallest_phrase(effect) is None


def limit_sentence(effects: Sequence[Effect], telling: Telling, machines: str) -> str:
    """What so many replicates cannot say about these effects, which are of one kind (`limit_kind`).

    `machines`: where they ran, as `leverlab.report.provenance.machines_phrase` tells it.
    """
    first = effects[0]
    what = f"{metric_phrase(first.metric, first.statistic)} {load_phrase(first.load)}{where_phrase(first, telling)}"
    subject = treatments_phrase([effect.changed for effect in effects], telling.titles, "and")
    if first.pairs < LEAST_PAIRS:
        few = replicates_phrase(first.pairs) if first.pairs else "no pair of replicates"
        return f"{subject}: with {few} nothing tells the effect on {what} from the difference between any two runs."
    sizes = {effect.level_names: size for effect in effects if (size := smallest_phrase(effect)) is not None}
    if not sizes:
        return f"{subject}: how small a change in {what} could have been seen is not known."
    each = [f"{size} at {level}" for level, size in sizes.items()]
    smallest = joined(each, "or") if len(set(sizes.values())) > 1 else next(iter(sizes.values()))
    return f"{subject}: with {replicates_phrase(first.pairs)}{machines}, a change by less than {smallest} in {what} could easily have gone unseen."


def correction_sentence(effects: Sequence[Effect], telling: Telling) -> str:
    """What the intervals of the primary verdicts are corrected for; empty where there is nothing to correct, or no interval."""
    if telling.comparisons < 2 or not any(
        effect.primary and effect.low is not None and effect.pairs >= LEAST_PAIRS for effect in effects
    ):
        return ""
    return (
        f"Each interval above is the one that its verdict rests on. The study has {telling.comparisons} primary comparisons, "
        "so the intervals are wider than those of one comparison (Holm): the chance of calling any of them a difference "
        "where there is none stays below 5 %."
    )


def spread_sentence(metric: str, baseline: Sequence[float], treatments: Mapping[str, Sequence[float]]) -> str:
    """How far the replicates of the metric lay apart at the baseline and in each treatment; empty with fewer than two on one side.

    `treatments`: levels → values; the levels are named where there are several.
    """
    apart = {levels: values for levels, values in treatments.items() if len(values) > 1}
    if len(baseline) < 2 or not apart:
        return ""
    told = {
        "at the baseline": baseline,
        **{f"at {levels}" if len(treatments) > 1 else "with the treatment": values for levels, values in apart.items()},
    }
    sides = [
        f"{value_phrase(metric, min(side))} to {value_phrase(metric, max(side))} {where}"
        for where, side in told.items()
    ]
    return f" The replicates themselves gave {joined(sides)}."


def level_phrase(effect: Effect) -> str:
    """The interval that decided, by its level: `95 % interval`, `97.5 % interval`."""
    outside = 100 * (1 - (effect.level or LEVEL))
    # Two digits of what lies outside: among 500 comparisons it is 99.99 %, and never 100 %.
    told = f"{100 - outside:.{1 - floor(log10(outside))}f}".rstrip("0").rstrip(".")
    return f"{format_percent(told)} interval"


def row_sentence(effect: Effect) -> str:
    """An effect's estimate and the interval that decided, for a table: `×5.12 (4.30 to 6.10)`, `+75 points (+71 to +79)`."""
    interval = ""
    if effect.by_ratio and _has_interval(effect):
        interval = f" ({_times(effect.low)} to {_times(effect.high)})"
    elif _has_interval(effect):
        interval = f" ({_signed_bare(effect, effect.low)} to {_signed_bare(effect, effect.high)})"
    return "–" if effect.estimate is None else ratio_text(effect) + interval


def sure_phrase(effect: Effect) -> str:
    """Of a decided effect the end of its interval that is nearest to no change: `at least ×1.32`, `at most ×0.61`; else `nothing`."""
    if not effect.decided:
        return "nothing"
    if not _has_interval(effect):
        return "all of it"
    end = effect.low if effect.raises else effect.high
    size = f"×{_times(end)}" if effect.by_ratio else _signed(effect, end)
    return f"at {'least' if effect.raises else 'most'} {size}"


def _outcome(
    effect: Effect, direction: int, telling: Telling
) -> Literal["confirmed", "contradicted", "not resolved", "simulated"]:
    if telling.simulated:
        return "simulated"
    if not effect.decided:
        return "not resolved"
    return "confirmed" if direction == (1 if effect.raises else -1) else "contradicted"


def _subject(effect: Effect, telling: Telling) -> str:
    return levels_phrase(effect.changed, telling.titles)


def where_phrase(effect: Effect, telling: Telling) -> str:
    """The context in brackets, where a study has several."""
    return f" ({context_phrase(*effect.context)})" if telling.several_contexts else ""


def replicates_phrase(pairs: int) -> str:
    """`3 replicates`."""
    return "1 replicate" if pairs == 1 else f"{pairs} replicates"


def capital(text: str) -> str:
    """A clause as the beginning of a sentence, without its full stop."""
    return text[:1].upper() + text[1:].rstrip(".")


def _has_interval(effect: Effect) -> bool:
    return effect.low is not None and effect.high is not None


def is_far(effect: Effect) -> bool:
    """Whether a ratio is told as a factor, and not in percent."""
    return effect.by_ratio and exp(abs(log(effect.estimate or 1))) >= _PERCENT_UNTIL


def size_phrase(effect: Effect, stated: str = "", *, in_percent: bool = False) -> str:
    """`a factor of 5.1 (95 % interval 4.3 to 6.0)`, `12 % (…)`, `0.75 (…)`: always positive, read with the verb.

    A factor is told `in_percent` where it stands beside sizes that are. The level is left out where it is the one that was `stated` before: `a factor of 5.1 (4.3 to 6.0)`.
    """
    interval, level = "", _level(effect, stated)
    if effect.by_ratio:
        assert effect.estimate is not None
        upside = effect.estimate >= 1
        far = is_far(effect) and not in_percent
        if _has_interval(effect):
            low, high = sorted((effect.low or 0, effect.high or 0), reverse=not upside)
            interval = f" ({level}{_ratio_size(low, upside, far)} to {_ratio_size(high, upside, far)})"
        return f"{'a factor of ' if far else ''}{_ratio_size(effect.estimate, upside, far)}{interval}"
    if _has_interval(effect):
        interval = f" ({level}{'of the change ' if level else ''}{_signed(effect, effect.low)} to {_signed(effect, effect.high)})"
    return change_phrase(effect.metric, effect.estimate or 0) + interval


def _ratio_size(ratio: float, upside: bool, far: bool) -> str:
    if far:
        return _times(ratio if upside else 1 / ratio if ratio else inf)
    percent = 100 * (ratio - 1 if upside else 1 - ratio)
    return format_percent(format_number(percent, 2))


def _level(effect: Effect, stated: str) -> str:
    told = level_phrase(effect)
    return "" if told == stated else f"{told} "


def factor_phrase(effect: Effect) -> str:
    """`5.00-fold`, `by 12 %`."""
    estimate = effect.estimate or 1
    far = max(estimate, 1 / estimate) >= _PERCENT_UNTIL
    return f"{_times(max(estimate, 1 / estimate))}-fold" if far else f"by {_ratio_size(estimate, estimate >= 1, far)}"


def estimate_phrase(effect: Effect, stated: str = "") -> str:
    """`a ratio of 1.02 (95 % interval 0.95 to 1.10)`, without the level where it was `stated` before."""
    level = _level(effect, stated)
    if effect.by_ratio:
        interval = f" ({level}{_times(effect.low)} to {_times(effect.high)})" if _has_interval(effect) else ""
        return f"a ratio of {_times(effect.estimate)}{interval}"
    interval = (
        f" ({level}{_signed(effect, effect.low)} to {_signed(effect, effect.high)})" if _has_interval(effect) else ""
    )
    return f"a change of {_signed(effect, effect.estimate)}{interval}"


def _detectable(effect: Effect) -> str:
    smallest = smallest_phrase(effect)
    if smallest:
        return f"A change by {smallest} or more would have been seen in four of five such studies."
    return "How small a change would have been seen is not known."


def _remark(effect: Effect) -> str:
    return f" {capital(effect.reason)}." if effect.reason else ""


def correction(effect: Effect, telling: Telling) -> str:
    """That it would count as a difference if it were the only primary comparison; nothing where it would not."""
    if not effect.primary or effect.alone is None or effect.alone[0] <= effect.neutral <= effect.alone[1]:
        return ""
    return (
        f" (Alone it would count as a difference; corrected for {telling.comparisons} primary comparisons it does not.)"
    )


def smallest_phrase(effect: Effect) -> str | None:
    """The change that would have been seen in four of five such studies; None where it is not known."""
    return _width(effect, effect.minimum_detectable)


def _width(effect: Effect, width: float | None) -> str | None:
    """A factor above 1, or a difference, that says how far apart two values lie."""
    if width is None or width == inf:
        return None
    if not effect.by_ratio:
        return change_phrase(effect.metric, width)
    return format_percent(format_number(100 * (width - 1), 2)) if width < 2 else f"a factor of {_times(width)}"


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    if 0.2 <= ratio < 10:
        return f"{ratio:.2f}"
    return f"{ratio:.3f}" if 0.01 <= ratio < 0.2 else format_number(ratio)


def _signed(effect: Effect, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{_sign(value)}{change_phrase(effect.metric, value)}"


def _signed_bare(effect: Effect, value: float | None) -> str:
    return "–" if value is None else f"{_sign(value)}{bare_change(effect.metric, value)}"


def _sign(value: float) -> str:
    return "−" if value < 0 else "+" if value > 0 else "±"


def ratio_text(effect: Effect) -> str:
    """The estimate alone: `×5.12`."""
    return f"×{_times(effect.estimate)}" if effect.by_ratio else _signed(effect, effect.estimate)
