"""What the checks hold against cells: findings with numbers, by which every mark on the page leads to what was seen."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from leverlab.aggregate.measured import KEEPING_QUESTIONS
from leverlab.checks import CHECKS
from leverlab.report.source import StudyData, rows_of, text_of
from leverlab.report.view import Common

FINDING_ANCHOR: Final = "finding-"
"""Id on the page of a row of the ledger, followed by its number."""

FINDINGS_LIMIT: Final = 200
"""Rows of the ledger; beyond it the findings of a code share one, those of which there are most first."""

QUESTIONS: Final[Mapping[str, str]] = {check.code: check.question for check in CHECKS} | dict(KEEPING_QUESTIONS)
"""Code → the question that its check asks of a cell."""

_SEVERITIES: Final = ("ok", "caution", "invalid")
_COMMON_SHARE: Final = 0.5

Place = tuple[str, str, str]
"""Cell, replicate and code."""


@dataclass(frozen=True, slots=True)
class Marked:
    """The same finding against one or more cells; `codes` has several only where nobody kept what each of them saw."""

    codes: tuple[str, ...]
    severity: str
    saw: str
    expected: str
    remedy: str
    cells: tuple[Mapping[str, Any], ...]

    @property
    def words(self) -> str:
        """The codes as words."""
        return ", ".join(words(code) for code in self.codes)


def words(code: str) -> str:
    """A code to be read: `send late`."""
    return code.replace("_", " ")


def codes_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The codes that mark a row of the cells, severest first."""
    return tuple(code for code in text_of(row["check_codes"]).split(",") if code)


def findings(data: StudyData) -> tuple[Marked, ...]:
    """What is held against measured cells, severest first; a cell of which the same was seen stands with the others.

    Each code of each cell is in exactly one of them, also where the cell's records are not on this machine.
    """
    alike: dict[tuple[tuple[str, ...], str, str, str, str], list[Mapping[str, Any]]] = {}
    for row, marked in _each(data):
        key = (marked.codes, marked.severity, marked.saw, marked.expected, marked.remedy)
        alike.setdefault(key, []).append(row)
    found = [Marked(*key, tuple(rows)) for key, rows in alike.items()]
    found.sort(key=lambda marked: -_SEVERITIES.index(marked.severity))
    return tuple(_folded(found))


def finding_numbers(found: Sequence[Marked]) -> dict[Place, int]:
    """Cell, replicate and code → number of the finding that tells of them."""
    return {
        (row["cell"], row["replicate"], code): number
        for number, marked in enumerate(found)
        for row in marked.cells
        for code in marked.codes
    }


def common_marks(data: StudyData, found: Sequence[Marked]) -> tuple[Common, ...]:
    """What marks more than half of the measured cells, each said once."""
    measured = rows_of(data.cells[data.cells["status"] == "measured"])
    counts = Counter(code for row in measured for code in codes_of(row))
    told = []
    for code, count in counts.most_common():
        if count < 2 or count <= _COMMON_SHARE * len(measured):
            break
        number, marked = next((number, marked) for number, marked in enumerate(found) if code in marked.codes)
        question = f" ({QUESTIONS[code]})" if code in QUESTIONS else ""
        seen = f" Seen in one of them: {marked.saw}." if len(marked.codes) == 1 else ""
        remedy = f" {marked.remedy[:1].upper()}{marked.remedy[1:]}." if marked.remedy else ""
        text = f"{count} of {len(measured)} measured cells are marked “{words(code)}”{question}.{seen}{remedy}"
        told.append(Common(text, f"#{FINDING_ANCHOR}{number}"))
    return tuple(told)


def _each(data: StudyData) -> Iterator[tuple[Mapping[str, Any], Marked]]:
    seen: set[Place] = set()
    for row, check in data.checks:
        if check.severity != "ok":
            seen.add((row["cell"], row["replicate"], check.code))
            yield row, Marked((check.code,), check.severity, check.saw, check.expected, check.remedy, ())
    for row in rows_of(data.cells[data.cells["status"] == "measured"]):
        untold = tuple(code for code in codes_of(row) if (row["cell"], row["replicate"], code) not in seen)
        if untold:
            yield (
                row,
                Marked(
                    untold,
                    row["checks"],
                    "not on this machine: the tables name the code alone",
                    "; ".join(QUESTIONS.get(code, words(code)) for code in untold),
                    "copy the cell's folder from where it was measured, or make the study's tables again",
                    (),
                ),
            )


def _folded(found: Sequence[Marked]) -> Iterator[Marked]:
    """`found`, or where they are too many, one for all of a code and severity, largest groups first."""
    groups: dict[tuple[tuple[str, ...], str], list[Marked]] = {}
    for marked in found:
        groups.setdefault((marked.codes, marked.severity), []).append(marked)
    total = len(found)
    for key in sorted(groups, key=lambda key: -len(groups[key])):
        if total <= FINDINGS_LIMIT:
            break
        first, *others = groups[key]
        total -= len(others)
        cells = tuple(row for marked in groups[key] for row in marked.cells)
        saw = f"{first.saw}; and {len(others)} findings more like it" if others else first.saw
        groups[key] = [replace(first, saw=saw, cells=cells)]
    for group in groups.values():
        yield from group
