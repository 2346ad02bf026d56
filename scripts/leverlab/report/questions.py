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
    LineAnswer,
    LoadAnswer,
    ProfileAnswer,
    Question,
    RangeAnswer,
    RankingAnswer,
    ReadingAnswer,
    SaturationAnswer,
    StackingAnswer,
    TheoryAnswer,
)
from leverlab.metrics import parse_metric_reference
from leverlab.report.accuracy import lever_sentences
from leverlab.report.at_levels import AtLevels, at_levels
from leverlab.report.beside_theory import is_measured, theory_sentences
from leverlab.report.doubts import marked_cells, marked_effects
from leverlab.report.effect import Effect
from leverlab.report.expected import expected_sentences
from leverlab.report.explained import explained_sentences
from leverlab.report.knees import context_of, knee_sentence, not_judged, not_judged_sentence, otherwise_marked
from leverlab.report.level_figures import level_figure
from leverlab.report.levels import level_sentences, refers_to
from leverlab.report.lines import line_sentences
from leverlab.report.over_loads import effects_over_loads
from leverlab.report.phrases import context_phrase, joined, load_order, load_phrase, metric_phrase, value_phrase
from leverlab.report.ranges import range_sentences
from leverlab.report.ranking import ranking, ranking_sentences
from leverlab.report.source import StudyData
from leverlab.report.stacking import stacking_sentences
from leverlab.report.theory_values import TheoryValues
from leverlab.report.view import FigureBlock
from leverlab.report.why import first_profile_question, recorded_sentences

_LIMIT: Final = 12
"""Sentences of one answer that a reader takes in; the tables hold the others."""

_UNANSWERED: Final = "Not answered"

_REFERRED: Final = "From profiles: what twins say of it stands at the first question that they answer."


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and the sentences that answer it; `measured` is false where no data does."""

    ask: str
    sentences: tuple[str, ...]
    measured: bool
    figure: FigureBlock | None = None


def questions(data: StudyData, values: TheoryValues) -> list[Answered]:
    """Every question of the study with its answer; `values` is what theory says of the study."""
    return [_answered(question, place, data, values) for place, question in enumerate(data.study.questions)]


def _answered(question: Question, place: int, data: StudyData, values: TheoryValues) -> Answered:
    said: list[str] = []
    measured = False
    levels = at_levels(question, data)
    for answer in question.answers:
        if isinstance(answer, TheoryAnswer):
            found = list(theory_sentences(answer, data, values))
            measured = measured or is_measured(answer, values)
        else:
            refers = isinstance(answer, ProfileAnswer) and question is not first_profile_question(data)
            if isinstance(answer, LineAnswer):
                found = list(_line(answer, levels, data))
            else:
                found = [_REFERRED] if refers and _is_profiled(data) else list(_ANSWERS[type(answer)](answer, data))
            told = not isinstance(answer, ReadingAnswer) and (
                not isinstance(answer, ProfileAnswer) or _is_profiled(data)
            )
            answered = any(not sentence.startswith(_UNANSWERED) for sentence in found)
            measured = measured or (answered and told)
        more = len(found) - _LIMIT
        said += [*found[:_LIMIT], *([f"{more} more stand in the tables below."] if more > 0 else [])]
    sentences = tuple(said) or ("Not answered yet: nothing that tells it is measured.",)
    return Answered(question.ask, sentences, measured, level_figure(question, levels, place, data))


def _effects(answer: EffectAnswer, data: StudyData) -> Iterator[str]:
    """What a lever does, against the baseline or at each level of another lever."""
    left_out = [lever for lever in answer.names() if lever not in data.study.levers]
    if left_out:
        yield from _left_out(left_out[0], data)
        return
    yield from _effects_alone(answer, data) if answer.each is None else _effects_at_each(answer, answer.each, data)
    yield from _untold(answer.metrics, data)


def _effects_alone(answer: EffectAnswer, data: StudyData) -> Iterator[str]:
    """A sentence for each treatment that changes the lever alone; for all that change it, in a design without such."""
    for reference in map(parse_metric_reference, answer.metrics):
        changing = [
            effect for effect in data.effects if answer.lever in effect.changed and refers_to(reference, effect)
        ]
        alone = [effect for effect in changing if len(effect.changed) == 1]
        told = [effect for effect in alone or changing if effect.estimate is not None or effect.primary]
        for own in _by_treatment(told):
            yield from effects_over_loads(own, data.telling, _marked(data))
        if not any(effect.estimate is not None for effect in told):
            # The baseline has nothing of the kind, or nothing else has.
            yield from level_sentences(answer.lever, reference, data)


def _marked(data: StudyData) -> Callable[[Sequence[Effect]], str]:
    return lambda effects: marked_effects(effects, data)


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
                if refers_to(reference, effect)
                and effect.estimate is not None
                and (at_baseline or effect.treatment == name)
            ]
            for one in _by_treatment(told):
                # Simulated is said once, in front of where it was.
                for said in effects_over_loads(one, replace(data.telling, simulated=False), _marked(data)):
                    yield f"{_prefix(data)}{data.titles[each]} {place}: {said}"


def _levels(answer: LevelsAnswer, data: StudyData) -> Iterator[str]:
    if answer.lever not in data.study.levers:
        yield from _left_out(answer.lever, data)
    for reference in map(parse_metric_reference, answer.metrics):
        yield from level_sentences(answer.lever, reference, data)
    yield from _untold(answer.metrics, data)


def _line(answer: LineAnswer, levels: Sequence[AtLevels], data: StudyData) -> Iterator[str]:
    if answer.lever not in data.study.levers:
        yield from _left_out(answer.lever, data)
        return
    for reference in map(parse_metric_reference, answer.metrics):
        yield from line_sentences(answer.lever, reference, levels, data)
    yield from _untold(answer.metrics, data)


def _range(answer: RangeAnswer, data: StudyData) -> Iterator[str]:
    if answer.lever not in data.study.levers:
        return _left_out(answer.lever, data)
    return range_sentences(answer, data)


def _expected(answer: ExpectedAnswer, data: StudyData) -> Iterator[str]:
    for lever, levels in answer.names().items():
        if lever not in data.study.levers:
            return _left_out(lever, data)
        absent = [level for level in levels if level not in data.study.levers[lever]]
        if absent:
            return _left_out(lever, data, absent[0])
    return expected_sentences(answer, data)


def _left_out(lever: str, data: StudyData, level: str | None = None) -> Iterator[str]:
    """Of a lever, or of a level of one, that only the full size of the study has."""
    title = data.configuration.levers[lever].title
    what = f"{title} is varied in" if level is None else f"{title} {level} is a level in"
    yield f"Not answered in this size: {what} {data.configuration.full_name(data.name)} alone."


def _untold(metrics: Sequence[str], data: StudyData) -> Iterator[str]:
    """Of metrics that no valid cell tells, where there are such cells."""
    names = []
    for reference in map(parse_metric_reference, metrics):
        cells = data.valid if reference.load is None else data.valid[data.valid["load"] == str(reference.load)]
        if len(cells) and cells[metric_column(reference.metric, reference.statistic)].isna().all():
            names.append(metric_phrase(reference.metric, reference.statistic))
    if names:
        yield f"{_UNANSWERED}: no valid cell tells {joined(names, 'or')}."


def _over_load(answer: LoadAnswer, data: StudyData) -> Iterator[str]:
    """A sentence for each metric, context and treatment: its value at every load point, from the lowest to the highest."""
    yield from _untold(answer.metrics, data)
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
                    f"(medians of {_replicates(own)}).{marked_cells(own)}"
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
        cells = data.of_context(context_of(row))
        cells = cells[(cells["treatment"] == row["treatment"]) & (cells["load_kind"] == "rate")]
        yield f"{_prefix(data)}{knee_sentence(data, row)}{marked_cells(cells)}"
    if data.saturation and (otherwise := otherwise_marked(data)):
        yield otherwise
    for place in not_judged(data):
        yield not_judged_sentence(data, place)


def _accuracy(answer: AccuracyAnswer, data: StudyData) -> Iterator[str]:
    yield from lever_sentences(data, answer.lever)
    if data.study.accuracy is None:
        yield "Not answered: the study asks nothing about accuracy (key `accuracy`)."


def _ranking(answer: RankingAnswer, data: StudyData) -> Iterator[str]:
    yield from ranking_sentences(ranking(data), answer.most)


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
    RankingAnswer: _ranking,
    ReadingAnswer: _reading,
    ProfileAnswer: _profile,
    RangeAnswer: _range,
    ExpectedAnswer: _expected,
}


def _prefix(data: StudyData) -> str:
    return "Simulated: " if data.simulated else ""
