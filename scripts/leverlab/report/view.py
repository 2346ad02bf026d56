"""What the templates are given: tables, figures and marks, ready to be printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Mark:
    """A word with a symbol and a tone (a class of style.css): never a colour alone."""

    symbol: str
    word: str
    tone: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a file of this repository, relative to reports/."""

    href: str
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell: a mark, then text or code to copy, then links; `note` stands below, smaller."""

    text: str = ""
    mark: Mark | None = None
    code: str = ""
    links: tuple[Link, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column. `kind` is a class of style.css: numbers stand at the right, `short` stays in one line, `prose` gets room."""

    title: str
    kind: Literal["", "number", "short", "prose"] = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A table's row; its first cell is its heading. `tone` is a class of style.css: `out` for what is in no effect."""

    cells: tuple[Cell, ...]
    primary: bool = False
    id: str = ""
    tone: Literal["", "out"] = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under a common heading."""

    rows: tuple[Row, ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `id` is unique on the page."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class GlanceMark:
    """One cell of the overview: its mark, why it has it, and where that is told (`href` may be empty)."""

    mark: Mark
    why: str
    href: str


@dataclass(frozen=True, slots=True)
class GlanceRow:
    """A treatment at a load point: a mark a replicate, None where there is no such cell."""

    treatment: str
    load: str
    marks: tuple[GlanceMark | None, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing has to be known before its numbers are believed."""
        return all(mark is None or mark.why == "sound" for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Common:
    """What marks most cells, said once, and where it is told."""

    text: str
    href: str


@dataclass(frozen=True, slots=True)
class Glance:
    """What may be believed: rows in groups with a title each (empty where there is one), columns by replicate."""

    replicates: tuple[str, ...]
    groups: tuple[tuple[str, tuple[GlanceRow, ...]], ...]
    common: tuple[Common, ...]
    note: str


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A series' sample and its name."""

    key: Markup
    label: str


@dataclass(frozen=True, slots=True)
class FigureBlock:
    """Panels with a common legend, why one looks at them and what they cannot tell; `nothing` stands where there are none."""

    panels: tuple[Markup, ...]
    why: str
    cannot: str
    nothing: str
    legend: tuple[LegendEntry, ...] = ()
    arrangement: str = "panels"


_VERDICTS: Final = {
    "improves": Mark("▲", "improves", "improves"),
    "worsens": Mark("▼", "worsens", "worsens"),
    "no difference found": Mark("=", "no difference found", ""),
    "not judgeable": Mark("?", "not judgeable", "caution"),
    "invalid": Mark("✕", "invalid", "bad"),
}
_STATUSES: Final = {
    "measured": Mark("●", "measured", "quiet"),
    "failed": Mark("✕", "failed", "failed"),
    "infeasible": Mark("⊘", "infeasible", "infeasible"),
    "skipped": Mark("↷", "skipped", "quiet"),
    "missing": Mark("○", "missing", ""),
}
_SEVERITIES: Final = {
    "ok": Mark("✓", "ok", "quiet"),
    "caution": Mark("!", "caution", "caution"),
    "invalid": Mark("✕", "invalid", "bad"),
}


def verdict_mark(verdict: str, simulated: bool = False) -> Mark:
    """The mark of a verdict; one of a simulated engine says so."""
    mark = _VERDICTS.get(verdict, Mark("?", verdict, "caution"))
    return Mark(mark.symbol, f"{mark.word}, simulated", mark.tone) if simulated else mark


def status_mark(status: str) -> Mark:
    """The mark of a cell's status."""
    return _STATUSES.get(status, Mark("?", status, "caution"))


def severity_mark(severity: str) -> Mark:
    """The mark of a check's result."""
    return _SEVERITIES.get(severity, Mark("?", severity, "caution"))


def plain_table(
    identifier: str, caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> Table:
    """A table of text alone."""
    body = tuple(Row(tuple(Cell(text) for text in row)) for row in rows)
    return Table(identifier, caption, tuple(Column(title) for title in titles), (Group(body),), note)
