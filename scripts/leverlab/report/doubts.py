"""What is held against an effect: in full where it is reported, in a few words where another sentence rests on it."""

from collections.abc import Sequence
from typing import Final

import pandas as pd

from leverlab.report.effect import Doubts, Effect
from leverlab.report.phrases import unique
from leverlab.report.sentences import capital
from leverlab.report.source import StudyData

IN_SHORT: Final = {
    "cards_confounded": "its sides shared no GPU",
    "provenance_differs": "its sides were measured under other conditions",
    "baseline_differs_from_itself": "the baseline differs from its own copy",
    "within_noise_floor": "no more than what two equal servers differ by",
    "replicates_disagree": "its replicates disagree",
    "answers_changed": "its answers changed",
}
"""Code of a caution → the same where it is no subject. `requests_queued` is none of them: the interval is as wide as that asks for."""

_CODES: Final = 3
"""Codes of checks that are named; of more their number says enough."""


def held_against(effect: Effect, data: StudyData) -> str:
    """Which checks marked the cells that the effect rests on, and what else speaks against it; empty where nothing does."""
    said = [f"{capital(caution.message)}." for caution in effect.cautions]
    cells, marked, codes = _marked(effect, data)
    if count := len(marked):
        named = ", ".join(code.replace("_", " ") for code in codes)
        every = "Both" if count == 2 else f"All {count}"
        whose = f"{every} valid cells" if 1 < count == len(cells) else f"{count} of the {len(cells)} valid cells"
        said.append(f"{whose} {'carries' if count == 1 else 'carry'} a caution: {named}.")
    return " ".join(said)


def doubts_in(data: StudyData) -> Doubts:
    """The same in a few words each."""

    def doubts(effect: Effect) -> tuple[str, ...]:
        said = [IN_SHORT[caution.code] for caution in effect.cautions if caution.code in IN_SHORT]
        cells, marked, codes = _marked(effect, data)
        if count := len(marked):
            named = f": {', '.join(code.replace('_', ' ') for code in codes)}" if len(codes) <= _CODES else ""
            said.append(f"{count} of its {len(cells)} cells {'carries' if count == 1 else 'carry'} a caution{named}")
        return tuple(said)

    return doubts


def mark_phrase(doubts: Sequence[str]) -> str:
    """For the end of a sentence: ` (marked: its sides shared no GPU)`; empty without doubts."""
    return f" (marked: {'; '.join(doubts)})" if doubts else ""


def marks_phrase(effects: Sequence[Effect], doubts: Doubts) -> str:
    """The same of several effects on which a sentence rests: how many are marked, where not all are, and with what."""
    marked = [held for effect in effects if (held := doubts(effect))]
    each = "; ".join(unique([doubt for held in marked for doubt in held]))
    if not marked:
        return ""
    return (
        f" (marked: {each})"
        if len(marked) == len(effects)
        else f" ({len(marked)} of {len(effects)} comparisons are marked: {each})"
    )


def _marked(effect: Effect, data: StudyData) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The valid cells that the effect rests on, those of them with a caution, and the codes of these."""
    cells = pd.concat(data.sides_of(effect))
    marked = cells[cells["checks"] == "caution"]
    return cells, marked, list(dict.fromkeys(code for codes in marked["check_codes"] for code in codes.split(",")))
