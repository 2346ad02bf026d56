"""What a study expects of single effects, and whether each was seen: confirmed, contradicted or not resolved."""

from collections.abc import Iterator

from leverlab.aggregate.comparisons import expected_effects
from leverlab.config.course import ExpectedAnswer
from leverlab.metrics import parse_metric_reference
from leverlab.report.doubts import marked_effects
from leverlab.report.levels import refers_to
from leverlab.report.sentences import capital, found_sentence, outcome_sentence
from leverlab.report.source import StudyData


def expected_sentences(answer: ExpectedAnswer, data: StudyData) -> Iterator[str]:
    """The outcome, what was expected and what was found, for each context and load point; nothing where it is not measured."""
    reference = parse_metric_reference(answer.metric)
    place = "".join(f"{data.titles[lever]} {level}: " for lever, level in answer.where.items())
    kind, names = expected_effects(answer, data.study)
    for effect in data.effects if kind == "treatment" else data.simple:
        if effect.treatment not in names or effect.estimate is None or not refers_to(reference, effect):
            continue
        told = outcome_sentence(effect, answer, data.telling)
        if told is not None:
            outcome, expected = told
            found = found_sentence(effect, data.telling)
            yield f"{capital(outcome)}: {place}{expected} {found}{marked_effects([effect], data)}"
