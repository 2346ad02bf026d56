"""What is held against an effect: in full where it is reported, in a few words where another sentence rests on it."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import pandas as pd

from leverlab.report.effect import Doubts, Effect
from leverlab.report.marked import codes_of, words
from leverlab.report.phrases import unique
from leverlab.report.sentences import capital
from leverlab.report.source import StudyData, rows_of

IN_SHORT: Final = {
    "cards_confounded": "its sides shared no GPU",
    "provenance_differs": "its sides were measured under other conditions",
    "baseline_differs_from_itself": "the baseline differs from its own copy",
    "within_noise_floor": "no more than what two equal servers differ by",
    "replicates_disagree": "its replicates disagree",
    "answers_changed": "its answers changed",
}
"""Code of a caution → the same where it is no subject. `requests_queued` is none of them: the interval is as wide as that asks for."""

MARK: Final = re.compile(
    r"(?<= )(Marked: .+?\.(?= |$)|\((?:\d+ of \d+ comparisons are )?marked: (?:[^()]|\([^()]*\))+\))"
)
"""A mark in a sentence, as `mark_phrase`, `marks_phrase`, `marked_effects` and `marked_cells` write it: for the page, which sets it smaller."""

_CODES: Final = 3
"""Codes of checks that are named, those of most cells first; of the others their number says enough."""


def held_against(effect: Effect, data: StudyData) -> str:
    """Which checks marked the cells that the effect rests on, and what else speaks against it; empty where nothing does."""
    said = [f"{capital(caution.message)}." for caution in effect.cautions]
    cells = pd.concat(data.sides_of(effect))
    marked = cells[cells["checks"] == "caution"]
    if count := len(marked):
        every = "Both" if count == 2 else f"All {count}"
        whose = f"{every} valid cells" if 1 < count == len(cells) else f"{count} of the {len(cells)} valid cells"
        named = ", ".join(map(words, _codes(marked)))
        said.append(f"{whose} {'carries' if count == 1 else 'carry'} a caution: {named}.")
    return " ".join(said)


def doubts_in(data: StudyData) -> Doubts:
    """The same in a few words each."""
    return lambda effect: tuple(_in_short([effect], data))


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


def marked_effects(effects: Sequence[Effect], data: StudyData) -> str:
    """For behind an answer that rests on `effects`: ` Marked: its sides shared no GPU.`; empty where nothing is held against them.

    What is held against some of them says of how many; cells that several of them rest on count once.
    """
    return _sentence(_in_short(effects, data))


def marked_cells(cells: pd.DataFrame) -> str:
    """The same behind an answer that rests on rows of the cells and compares nothing."""
    return _sentence(_cells_in_short(cells))


def _in_short(effects: Sequence[Effect], data: StudyData) -> list[str]:
    """The cautions of effects and of the cells below them, each a clause."""
    counts = Counter(code for effect in effects for code in {caution.code for caution in effect.cautions})
    said = [
        held if counts[code] == len(effects) else f"{held} in {counts[code]} of {len(effects)} comparisons"
        for code, held in IN_SHORT.items()
        if counts[code]
    ]
    sides = [side for effect in effects for side in data.sides_of(effect)]
    return said + (_cells_in_short(pd.concat(sides)) if sides else [])


def _cells_in_short(cells: pd.DataFrame) -> list[str]:
    """One clause where any of these cells carries a caution, else none."""
    own = cells.drop_duplicates(["cell", "replicate"])
    marked = own[own["checks"] == "caution"]
    if not len(marked):
        return []
    codes = _codes(marked)
    more = f" and {len(codes) - _CODES} more" if len(codes) > _CODES else ""
    named = ", ".join(map(words, codes[:_CODES]))
    return [
        f"{len(marked)} of its {len(own)} cells {'carries' if len(marked) == 1 else 'carry'} a caution: {named}{more}"
    ]


def _codes(marked: pd.DataFrame) -> list[str]:
    """The codes that mark these cells, those of most cells first."""
    return [code for code, _ in Counter(code for row in rows_of(marked) for code in codes_of(row)).most_common()]


def _sentence(said: Sequence[str]) -> str:
    return f" Marked: {'; '.join(said)}." if said else ""
