"""What may be believed, at a glance: every cell and replicate as one mark, each leading to why it has it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from leverlab.report.knees import otherwise_marked
from leverlab.report.ledger import Trouble
from leverlab.report.marked import FINDING_ANCHOR, Marked, Place, codes_of, common_marks, finding_numbers, words
from leverlab.report.phrases import context_phrase, load_heading, load_order
from leverlab.report.source import StudyData, in_context, rows_of, text_of
from leverlab.report.view import Glance, GlanceMark, GlanceRow, Mark, severity_mark, status_mark

GLANCE_LIMIT: Final = 160
"""Rows of the overview; beyond it those in which every cell is sound are told by their number alone."""

_MARKS_NAMED: Final = 3
_WORDS: Final = {"ok": "sound", "caution": "with a caution", "invalid": "invalid"}
_ORDER: Final = ("sound", "with a caution", "invalid", "failed", "infeasible", "skipped", "missing")


def believable(data: StudyData) -> str:
    """How many cells may be believed: `18 cells: 15 sound, 2 with a caution (send lag), 1 invalid (cache state)`."""
    states: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows_of(data.cells):
        states.setdefault(_state(row), []).append(row)
    said = ", ".join(f"{len(states[state])} {state}{_marks(states[state])}" for state in _ORDER if state in states)
    return f"{len(data.cells)} cells, counting each replicate: {said}."


def _marks(rows: Sequence[Mapping[str, Any]]) -> str:
    """What marks measured cells of one state, the most frequent first: ` (foreign load 28, drift 3)`."""
    counts = Counter(code for row in rows if row["status"] == "measured" for code in codes_of(row))
    named = [words(code) + (f" {count}" if len(rows) > 1 else "") for code, count in counts.most_common(_MARKS_NAMED)]
    more = len(counts) - len(named)
    return f" ({', '.join(named)}{f' and {more} more' if more > 0 else ''})" if named else ""


def glance(data: StudyData, found: Sequence[Marked], troubles: Sequence[Trouble]) -> Glance:
    """A row a treatment and load point (in each context), a column a replicate; marks lead to `found` and to `troubles`."""
    numbers = finding_numbers(found)
    reasons = {place: trouble.id for trouble in troubles for place in trouble.cells}
    names = [name for name in data.treatments if name in set(data.cells["treatment"])]
    replicates = sorted({_number(row["replicate"]) for row in rows_of(data.cells)})
    groups: list[tuple[str, list[GlanceRow]]] = []
    for context in data.contexts:
        own = in_context(data.cells, context)
        rows: list[GlanceRow] = []
        for name in names:
            of_treatment = own[own["treatment"] == name]
            for load in sorted(of_treatment["load"].unique(), key=load_order):
                cells = {_number(row["replicate"]): row for row in rows_of(of_treatment[of_treatment["load"] == load])}
                marks = tuple(_mark(cells[key], numbers, reasons) if key in cells else None for key in replicates)
                rows.append(GlanceRow(data.label(name), load_heading(load), marks))
        groups.append((context_phrase(*context) if len(data.contexts) > 1 else "", rows))
    total = sum(len(rows) for _, rows in groups)
    note = ""
    if total > GLANCE_LIMIT:
        kept = [(title, [row for row in rows if not row.sound]) for title, rows in groups]
        left_out = total - sum(len(rows) for _, rows in kept)
        groups = [(title, rows[:GLANCE_LIMIT]) for title, rows in kept if rows]
        note = f"{left_out} of {total} rows, in which every cell is sound, are not shown. "
    return Glance(
        tuple(f"r{key}" for key in replicates),
        tuple((title, tuple(rows)) for title, rows in groups),
        common_marks(data, found),
        f"{note}{otherwise_marked(data)}".rstrip(),
    )


def _mark(row: Mapping[str, Any], numbers: Mapping[Place, int], reasons: Mapping[tuple[str, str], str]) -> GlanceMark:
    state, own = _state(row), (row["cell"], row["replicate"])
    if row["status"] != "measured":
        # Of very many cells without numbers the page tells the first.
        return GlanceMark(
            status_mark(row["status"]), text_of(row["reason"]) or state, f"#{reasons.get(own, 'troubles')}"
        )
    mark = severity_mark(row["checks"] or "ok")
    shown = Mark(mark.symbol, state, mark.tone)
    if state == "sound":
        return GlanceMark(shown, state, "")
    codes = codes_of(row)
    # The severest findings have the lowest numbers.
    number = min((numbers[(*own, code)] for code in codes if (*own, code) in numbers), default=None)
    told = ", ".join(map(words, codes))
    return GlanceMark(shown, f"{state}: {told}", f"#{FINDING_ANCHOR}{number}" if number is not None else "")


def _state(row: Mapping[str, Any]) -> str:
    if row["status"] != "measured":
        return str(row["status"])
    return _WORDS.get(row["checks"] or "ok", str(row["checks"]))


def _number(replicate: str) -> int:
    """A copy's cells have rows of their own; their column is that of the replicate."""
    return int(replicate.lstrip("rx").partition("c")[0])
