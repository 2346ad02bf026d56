"""The course's questions, answered from the study's data: sentences that change with it, or say what is missing."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from leverlab.aggregate.comparisons import simple_effect_name
from leverlab.aggregate.schema import metric_column
from leverlab.config.course import (
    AccuracyAnswer,
    Answer,
    EffectAnswer,
    ExpectedAnswer,
    LevelsAnswer,
    LoadAnswer,
    ProfileAnswer,
    Question,
    RangeAnswer,
    ReadingAnswer,
    SaturationAnswer,
    StackingAnswer,
    TheoryAnswer,
)
from leverlab.load_point import LoadPoint
from leverlab.metrics import METRICS, MetricReference, parse_metric_reference
from leverlab.report.accuracy import lever_sentences
from leverlab.report.beside_theory import is_measured, theory_sentences
from leverlab.report.effect import Effect
from leverlab.report.expected import expected_sentences
from leverlab.report.explained import explained_sentences
from leverlab.report.knees import knee_sentence, not_judged, not_judged_sentence, otherwise_marked
from leverlab.report.over_loads import effects_over_loads
from leverlab.report.phrases import context_phrase, joined, load_order, load_phrase, metric_phrase, value_phrase
from leverlab.report.ranges import range_sentences
from leverlab.report.sentences import capital
from leverlab.report.source import StudyData
from leverlab.report.stacking import stacking_sentences
from leverlab.report.theory_values import TheoryValues
from leverlab.report.view import Link
from leverlab.report.why import first_profile_question, recorded_sentences

_LIMIT: Final = 12
"""Sentences of one answer that a reader takes in; the tables hold the others."""

_UNANSWERED: Final = "Not answered"

_REFERRED: Final = "From profiles: what twins say of it stands at the first question that they answer."

_REPOSITORIES: Final = {
    "vllm": "https://github.com/vllm-project/vllm/blob/v0.26.0",
    "sglang": "https://github.com/sgl-project/sglang/blob/v0.5.17",
    "lmcache": "https://github.com/LMCache/LMCache/blob/v0.5.6",
    "transformers": "https://github.com/huggingface/transformers/blob/main",
}


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and the sentences that answer it; `measured` is false where no data does."""

    ask: str
    sentences: tuple[str, ...]
    measured: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """A file to read, and why."""

    link: Link
    why: str


def questions(data: StudyData, values: TheoryValues) -> list[Answered]:
    """Every question of the study with its answer; `values` is what theory says of the study."""
    return [_answered(question, data, values) for question in data.study.questions]


def readings(data: StudyData) -> list[Reading]:
    """The files of the engines that explain what is seen, at today's places."""
    return [
        Reading(Link(f"{_REPOSITORIES[source.package]}/{source.path}", source.path), source.why)
        for source in data.study.reads
    ]


def _answered(question: Question, data: StudyData, values: TheoryValues) -> Answered:
    said: list[str] = []
    measured = False
    for answer in question.answers:
        if isinstance(answer, TheoryAnswer):
            found = list(theory_sentences(answer, data, values))
            measured = measured or is_measured(answer, values)
        else:
            refers = isinstance(answer, ProfileAnswer) and question is not first_profile_question(data)
            found = [_REFERRED] if refers and _is_profiled(data) else list(_ANSWERS[type(answer)](answer, data))
            told = not isinstance(answer, ReadingAnswer) and (
                not isinstance(answer, ProfileAnswer) or _is_profiled(data)
            )
            answered = any(not sentence.startswith(_UNANSWERED) for sentence in found)
            measured = measured or (answered and told)
        more = len(found) - _LIMIT
        said += [*found[:_LIMIT], *([f"{more} more stand in the tables below."] if more > 0 else [])]
    return Answered(question.ask, tuple(said) or ("Not answered yet: nothing that tells it is measured.",), measured)


def _effects(answer: EffectAnswer, data: StudyData) -> Iterator[str]:
    """What a lever does, against the baseline or at each level of another lever."""
    left_out = [lever for lever in answer.names() if lever not in data.study.levers]
    if left_out:
        yield from _left_out(left_out[0], data)
    elif answer.each is not None:
        yield from _effects_at_each(answer, answer.each, data)
    else:
        yield from _effects_alone(answer, data)


def _effects_alone(answer: EffectAnswer, data: StudyData) -> Iterator[str]:
    """A sentence for each treatment that changes the lever alone; for all that change it, in a design without such."""
    for reference in map(parse_metric_reference, answer.metrics):
        changing = [effect for effect in data.effects if answer.lever in effect.changed and _is(effect, reference)]
        alone = [effect for effect in changing if len(effect.changed) == 1]
        told = [effect for effect in alone or changing if effect.estimate is not None or effect.primary]
        for own in _by_treatment(told):
            yield from effects_over_loads(own, data.telling)


def _by_treatment(effects: Sequence[Effect]) -> Iterator[list[Effect]]:
    """Those of each treatment and context together, in the order in which these first stand."""
    found: dict[tuple[object, ...], list[Effect]] = {}
    for effect in effects:
        found.setdefault((effect.treatment, effect.context), []).append(effect)
    yield from found.values()


def _effects_at_each(answer: EffectAnswer, each: str, data: StudyData) -> Iterator[str]:
    """A sentence for each level of the lever `each`: the effect between two servers that differ in the answer's lever alone."""
    for reference in map(parse_metric_reference, answer.metrics):
        for place, level in itertools.product(data.study.levers[each], data.study.levers[answer.lever]):
            at_baseline = place == data.study.baseline[each]
            name = simple_effect_name(answer.lever, level, each, place)
            alone = [effect for effect in data.effects if list(effect.changed) == [answer.lever]]
            own = (
                [effect for effect in alone if effect.changed[answer.lever][0] == level] if at_baseline else data.simple
            )
            told = [
                effect
                for effect in own
                if _is(effect, reference) and effect.estimate is not None and (at_baseline or effect.treatment == name)
            ]
            for one in _by_treatment(told):
                # Simulated is said once, in front of where it was.
                for said in effects_over_loads(one, replace(data.telling, simulated=False)):
                    yield f"{_prefix(data)}{data.titles[each]} {place}: {said}"


def _levels(answer: LevelsAnswer, data: StudyData) -> Iterator[str]:
    """A sentence for each context and load point: the metric at every level, and what of it is a difference."""
    if answer.lever not in data.study.levers:
        yield from _left_out(answer.lever, data)
    for reference in map(parse_metric_reference, answer.metrics):
        metric = METRICS[reference.metric]
        alone = [e for e in data.effects if list(e.changed) == [answer.lever] and _is(e, reference)]
        places = dict.fromkeys((effect.context, effect.load) for effect in alone)
        for context, load in sorted(places, key=lambda place: (data.contexts.index(place[0]), load_order(place[1]))):
            own = [effect for effect in alone if (effect.context, effect.load) == (context, load)]
            values = _values_by_level(own, answer.lever, data)
            if not values:
                continue
            told = joined([f"{value_phrase(metric.name, value)} at {level}" for level, value in values.items()])
            where = f" ({context_phrase(*context)})" if len(data.contexts) > 1 else ""
            what = f"{metric_phrase(metric.name, reference.statistic)} {load_phrase(load)}{where}"
            title = data.titles[answer.lever]
            yield f"{_prefix(data)}{title}: {what} is {told}. {_best(own, answer.lever, metric.better, data)}"


def _range(answer: RangeAnswer, data: StudyData) -> Iterator[str]:
    if answer.lever not in data.study.levers:
        return _left_out(answer.lever, data)
    return range_sentences(answer, data)


def _expected(answer: ExpectedAnswer, data: StudyData) -> Iterator[str]:
    for lever, levels in answer.names().items():
        if not set(levels) <= set(data.study.levers.get(lever, ())):
            return _left_out(lever, data)
    return expected_sentences(answer, data)


def _left_out(lever: str, data: StudyData) -> Iterator[str]:
    """Of a lever, or a level, that only the full size of the study has."""
    title = data.configuration.levers[lever].title
    yield f"Not answered in this size: {title} is varied in {data.configuration.full_name(data.name)} alone."


def _values_by_level(effects: list[Effect], lever: str, data: StudyData) -> dict[str, float]:
    """Level → value, in the study's order; the baseline's is that of its pairs with the first level that has any."""
    found = {effect.changed[lever][0]: effect.value for effect in effects}
    paired = [effect for effect in effects if effect.baseline is not None]
    found |= {effect.changed[lever][1]: effect.baseline for effect in paired[:1]}
    return {level: value for level in data.study.levers[lever] if (value := found.get(level)) is not None}


def _best(effects: list[Effect], lever: str, better: str, data: StudyData) -> str:
    baseline = data.study.baseline[lever]
    decided = [effect for effect in effects if effect.decided]
    unresolved = [effect for effect in effects if not effect.decided and effect.verdict != "no difference found"]
    reasons: dict[str, list[str]] = {}
    for effect in unresolved:
        why = capital(effect.reason) or "There are too few pairs of replicates"
        reasons.setdefault(why, []).append(effect.changed[lever][0])
    left = " ".join(
        f"Whether it differs from {baseline} at {joined(levels)} is not resolved. {why}."
        for why, levels in reasons.items()
    )
    if not decided:
        return left or f"No difference from {baseline} was found at any level."
    names = {
        verb: [e.changed[lever][0] for e in decided if e.raises == (verb == "raises")] for verb in ("raises", "lowers")
    }
    moved = joined([f"{joined(levels)} {_verb(verb, levels)} it" for verb, levels in names.items() if levels])
    improving = [effect for effect in decided if effect.verdict == "improves" and effect.estimate is not None]
    most = max(map(_gain, improving), default=0.0)
    best = [effect.changed[lever][0] for effect in improving if _gain(effect) == most]
    alike = [effect.changed[lever][0] for effect in effects if effect.verdict == "no difference found"]
    same = f"At {joined(alike)} no difference was found." if alike else ""
    left = "".join(f" {part}" for part in (same, left) if part)
    if better == "neither":
        return f"Against {baseline}, {moved}.{left}"
    ending = f"no level was found to be better than {baseline}"
    if best and len(decided) == 1:
        ending = "that is better"
    elif best:
        ending = f"of those the best {'is' if len(best) == 1 else 'are'} {joined(best)}"
    return f"Against {baseline}, {moved}; {ending}.{left}"


def _verb(verb: str, levels: list[str]) -> str:
    return verb if len(levels) == 1 else verb.removesuffix("s")


def _gain(effect: Effect) -> float:
    """How far a metric moved in its better direction: a ratio or a difference, larger for more."""
    assert effect.estimate is not None
    distance = abs(effect.estimate - effect.neutral)
    return max(effect.estimate, 1 / effect.estimate) if effect.by_ratio and effect.estimate else distance


def _over_load(answer: LoadAnswer, data: StudyData) -> Iterator[str]:
    """A sentence for each metric, context and treatment: its value at every load point, from the lowest to the highest."""
    for reference in map(parse_metric_reference, answer.metrics):
        column = metric_column(reference.metric, reference.statistic)
        for context in data.contexts:
            cells = data.of_context(context)
            for treatment in data.treatments:
                own = cells[cells["treatment"] == treatment].dropna(subset=[column])
                means = own.groupby("load")[column].median()
                if len(means) < 2:
                    continue
                loads = sorted((str(load) for load in means.index), key=load_order)
                told = joined(
                    [f"{value_phrase(reference.metric, float(means[load]))} {load_phrase(load)}" for load in loads],
                    "and then",
                )
                where = f" ({context_phrase(*context)})" if len(data.contexts) > 1 else ""
                yield (
                    f"{_prefix(data)}{data.label(treatment)}{where}: {metric_phrase(reference.metric, reference.statistic)} is {told} "
                    f"(medians of {_replicates(own)})."
                )


def _replicates(cells: Any) -> str:  # noqa: ANN401 - a table
    """How many replicates a load point has, from the fewest to the most."""
    counts = cells.groupby("load")["replicate"].nunique()
    fewest, most = int(counts.min()), int(counts.max())
    if fewest != most:
        return f"{fewest} to {most} replicates"
    return "1 replicate" if most == 1 else f"{most} replicates"


def _saturation(_: SaturationAnswer, data: StudyData) -> Iterator[str]:
    for row in data.saturation:
        yield f"{_prefix(data)}{knee_sentence(data, row)}"
    if data.saturation and (otherwise := otherwise_marked(data)):
        yield otherwise
    for place in not_judged(data):
        yield not_judged_sentence(data, place)


def _accuracy(answer: AccuracyAnswer, data: StudyData) -> Iterator[str]:
    yield from lever_sentences(data, answer.lever)
    if data.study.accuracy is None:
        yield "Not answered: the study asks nothing about accuracy (key `accuracy`)."


def _reading(answer: ReadingAnswer, _: StudyData) -> Iterator[str]:
    yield f"Not measured, from the sources below: {answer.text}"


def _is_profiled(data: StudyData) -> bool:
    return any(True for _ in recorded_sentences(data)) or bool(data.explaining)


def _profile(answer: ProfileAnswer, data: StudyData) -> Iterator[str]:
    told = list(recorded_sentences(data))
    if told:
        yield from (f"From profiles: {sentence}" for sentence in told)
        yield "What a step of each twin is made of, with figures and tables, stands under “Why: what the profiles show”."
    elif data.explaining:
        yield from explained_sentences(data)
    else:
        others = [f"`{name}`" for name in data.study.explained_by]
        asks = f"; the twins of {joined(others, 'or')} would explain it too" if others else ""
        yield f"Not answered: it takes a profile that shows {answer.shows}, and none was taken beside this study{asks}."


_ANSWERS: Final[Mapping[type[Answer], Callable[[Any, StudyData], Iterator[str]]]] = {
    EffectAnswer: _effects,
    LevelsAnswer: _levels,
    LoadAnswer: _over_load,
    SaturationAnswer: _saturation,
    AccuracyAnswer: _accuracy,
    StackingAnswer: stacking_sentences,
    ReadingAnswer: _reading,
    ProfileAnswer: _profile,
    RangeAnswer: _range,
    ExpectedAnswer: _expected,
}


def _is(effect: Effect, reference: MetricReference) -> bool:
    """Whether the effect is in the metric, and at its load point where the reference names one."""
    wanted: LoadPoint | None = reference.load
    return (effect.metric, effect.statistic) == (reference.metric, reference.statistic) and (
        wanted is None or effect.load == str(wanted)
    )


def _prefix(data: StudyData) -> str:
    return "Simulated: " if data.simulated else ""
