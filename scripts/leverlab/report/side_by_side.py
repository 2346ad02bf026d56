"""Answers at temperature 0 under one another, what differs from the baseline's shown word by word."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup, escape

from leverlab.accuracy.samples import PromptAnswer
from leverlab.report.source import StudyData
from leverlab.report.view import Cell, Column, Group, Row, Table

_WORDS: Final = re.compile(r"\s*\S+|\s+$")


def side_by_side(data: StudyData, entries: Sequence[Mapping[str, Any]]) -> Table | None:
    """The answers of every server to the study's own prompts; None where none are on this machine.

    `entries`: label, context, whether it is the baseline, answers, and how many are the baseline's own (same, of).
    """
    groups = []
    baselines = {entry["context"]: entry for entry in entries if entry["baseline"]}
    prompts = dict.fromkeys(answer.prompt for entry in entries for answer in entry["answers"])
    for prompt in prompts:
        rows = []
        for entry in entries:
            own = _to(prompt, entry["answers"])
            base = _to(prompt, baselines[entry["context"]]["answers"]) if entry["context"] in baselines else None
            if own is not None:
                rows.append(_row(entry, own, None if entry["baseline"] else base))
        groups.append(Group(tuple(rows), prompt.strip()))
    if not groups:
        return None
    told = [
        f"{entry['label']}: {entry['same'][0]} of {entry['same'][1]} answers are the baseline's"
        for entry in entries
        if entry["same"][1]
    ]
    note = (
        "One prompt at a time, so that no other request decides which additions come first. Struck out is what only the baseline says, underlined "
        f"what only this treatment says. {'; '.join(told)}{'.' if told else ''} The first differing word changes all that follow: a different "
        "answer need not be a worse one."
    )
    columns = (Column("Treatment"), Column("Answer", "prose"))
    caption = f"{'Simulated: a' if data.simulated else 'A'}nswers at temperature 0, side by side"
    return Table("side-by-side-answers", caption, columns, tuple(groups), note)


def _to(prompt: str, answers: Sequence[PromptAnswer]) -> str | None:
    return next((answer.text for answer in answers if answer.prompt == prompt), None)


def _row(entry: Mapping[str, Any], own: str, base: str | None) -> Row:
    text = marked(own if base is None else base, own)
    note = "the same as the baseline's" if own == base else ""
    # The answer's own lines are part of it.
    return Row((Cell(entry["label"]), Cell(Markup('<span class="answer">{}</span>').format(text), note=note)))


def marked(before: str, after: str) -> Markup:
    """`after` as HTML: words that only it has in `<ins>`, words that only `before` has in `<del>`, in their places."""
    one, other = _WORDS.findall(before), _WORDS.findall(after)
    parts: list[Markup] = []
    for kind, low, high, begin, end in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        gone, come = "".join(one[low:high]), "".join(other[begin:end])
        if kind == "equal":
            parts.append(escape(come))
            continue
        parts += [Markup("<del>{}</del>").format(gone)] if gone else []
        parts += [Markup("<ins>{}</ins>").format(come)] if come else []
    return Markup("").join(parts)
