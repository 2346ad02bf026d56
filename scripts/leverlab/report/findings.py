"""The page's first part: a finding for each primary effect, and what the replicates cannot say."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import pandas as pd

from leverlab.aggregate.schema import metric_column
from leverlab.report.doubts import held_against
from leverlab.report.effect import Effect
from leverlab.report.figures.forest import forest
from leverlab.report.phrases import (
    context_phrase,
    levels_phrase,
    load_phrase,
    metric_heading,
    short_levels,
    treatments_phrase,
)
from leverlab.report.provenance import machines_phrase
from leverlab.report.sentences import (
    copy_sentence,
    expectation_sentence,
    limit_kind,
    limit_sentence,
    spread_sentence,
    verdict_sentence,
)
from leverlab.report.source import StudyData
from leverlab.report.view import FigureBlock, Mark, verdict_mark

_OUTCOMES: Final = {
    "confirmed": Mark("✓", "expectation confirmed", "confirmed"),
    "contradicted": Mark("✕", "expectation contradicted", "contradicted"),
    "not resolved": Mark("?", "expectation not resolved", ""),
    "simulated": Mark("–", "simulated", "caution"),
    "not stated for this comparison": Mark("–", "no expectation", ""),
}


_LABEL_CHARACTERS: Final = 56
"""As many lie beside each other in the figure of the primary effects."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A primary effect as it is printed; its sentence stresses `subject`, the treatment."""

    mark: Mark
    subject: str
    sentence: str
    outcome: Mark
    expectation: str
    caution: str
    """Which checks marked the cells that it rests on, and what else speaks against it; empty where nothing does."""


def primary_effects(data: StudyData) -> list[Effect]:
    """The primary effects in the order of the study's levers, treatments and contexts."""
    levers, treatments = list(data.study.levers), list(data.treatments)
    own = [effect for effect in data.effects if effect.primary]
    return sorted(
        own, key=lambda e: (levers.index(e.lever) if e.lever in levers else len(levers), treatments.index(e.treatment))
    )


def findings(data: StudyData) -> list[Finding]:
    """A finding for each primary effect."""
    found: list[Finding] = []
    said = ""
    for effect in primary_effects(data):
        lever = data.configuration.levers[effect.lever] if effect.lever else None
        outcome, expectation = expectation_sentence(effect, lever, data.telling)
        # Over models and GPUs the same expectation would stand under each of them.
        shown = "" if expectation == said else expectation
        found.append(
            Finding(
                verdict_mark(effect.verdict, data.simulated),
                levels_phrase(effect.changed, data.titles),
                verdict_sentence(effect, data.telling),
                _OUTCOMES[outcome],
                shown,
                held_against(effect, data),
            )
        )
        said = expectation
    return found


def _values(data: StudyData, effect: Effect) -> tuple[list[float], list[float]]:
    column = metric_column(effect.metric, effect.statistic)
    baseline, treatment = (side[column].dropna().tolist() for side in data.sides_of(effect))
    return baseline, treatment


def noise_floor_sentences(data: StudyData) -> list[str]:
    """What the baseline's copy showed in each primary metric and load point; nothing where it was not measured."""
    return [copy_sentence(effect, data.telling) for effect in data.copies if effect.lever is not None]


def limits(data: StudyData) -> list[str]:
    """What the study's replicates cannot say: of each primary effect, and in general."""
    primary = primary_effects(data)
    said = [_limit(list(own), data) for _, own in groupby(primary, key=limit_kind)]
    changes = treatments_phrase([effect.changed for effect in primary], data.titles, "and")
    if not any(effect.low is not None for effect in data.effects):
        return said  # and there is no interval that could cover too little
    where = "; ".join(context_phrase(*context) for context in data.contexts)
    said.append(
        f"The intervals cover what differed between these replicates, on {where}. They cover no other machine, model or workload, "
        f"where {changes or 'every lever'} may act differently, and no disturbance that lasted through all replicates."
    )
    return said


def _limit(effects: Sequence[Effect], data: StudyData) -> str:
    values = {effect.level_names: _values(data, effect) for effect in effects}
    cells = pd.concat([side for effect in effects for side in data.sides_of(effect)])
    baseline = next(iter(values.values()))[0]
    treatments = {levels: own for levels, (_, own) in values.items()}
    return limit_sentence(effects, data.telling, machines_phrase(cells)) + spread_sentence(
        effects[0].metric, baseline, treatments
    )


def forest_block(data: StudyData) -> FigureBlock:
    """All primary effects under one another."""
    rows = []
    for effect in primary_effects(data):
        where = f", {context_phrase(*effect.context)}" if len(data.contexts) > 1 else ""
        rows.append(
            (
                f"{short_levels(effect.changed, data.titles, _LABEL_CHARACTERS - len(where))}{where}\n{metric_heading(effect.metric, effect.statistic)} {load_phrase(effect.load)}",
                effect,
            )
        )
    drawn = forest(rows, "forest")
    return FigureBlock(
        (drawn,) if drawn else (),
        "how large each primary effect is beside the others, and how far its interval stays away from 1, where nothing changes. "
        "A triangle that points up is an improvement, one that points down a worsening, a circle no difference found, a cross not judgeable."
        + (
            " The band behind each is the noise floor: what two equal servers differ by, from the baseline and its copy."
            if data.copies
            else ""
        ),
        "whether an effect matters to users: that depends on the values themselves, in the tables below.",
        "No primary effect is a ratio that could be drawn; the sentences above hold what there is.",
        arrangement="single",
    )
