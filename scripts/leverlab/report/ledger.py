"""The cells with their outcomes, what the checks saw and expected, and why some cells have no numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from leverlab.aggregate.measured import KEEPING_QUESTIONS
from leverlab.records import CheckResult
from leverlab.report.marked import FINDING_ANCHOR, FINDINGS_LIMIT, QUESTIONS, Marked, words
from leverlab.report.phrases import context_phrase, load_heading, load_order, value_phrase
from leverlab.report.source import CONTEXT, StudyData, in_context, rows_of, text_of
from leverlab.report.view import Cell, Column, Group, Link, Mark, Row, Table, severity_mark, status_mark
from leverlab.trial.cell_files import read_cell

CELLS_LIMIT: Final = 300
"""Rows of the cell table, troubled cells first: a page stays below 3 MB for a study of 10,000 cells."""

TROUBLE_ANCHOR: Final = "trouble-"
"""Id on the page of why cells have no numbers, followed by its number."""

_NAMED: Final = 6
_SEVERITIES: Final = ("ok", "caution", "invalid")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Cells without numbers, why, and the lines of the server's log that show it; `id` is unique on the page."""

    id: str
    cells: frozenset[tuple[str, str]]
    """Cell and replicate of each."""
    mark: Mark
    what: str
    reason: str
    log: str


def cell_table(data: StudyData) -> Table:
    """A row a cell and replicate: status, checks, the numbers looked at first, and its files."""
    shown = _worst_first(data.cells).head(CELLS_LIMIT)
    columns = (
        Column("Treatment"), Column("Load", "short"), Column("Replicate", "short"), Column("Status", "short"), Column("Checks"),
        Column("TTFT, median", "number"), Column("TPOT, median", "number"), Column("Throughput", "number"), Column("Data"),
    )  # fmt: skip
    groups = []
    several = len(data.contexts) > 1
    for context in data.contexts:
        own = in_context(_in_order(shown, data), context)
        rows = tuple(_cell_row(data, row) for row in rows_of(own))
        groups.append(Group(rows, context_phrase(*context) if several else ""))
    return Table(
        "cell-table",
        "Every cell and replicate",
        columns,
        tuple(groups),
        "Links lead to the files of the cell, relative to this page." if data.published is None else "",
    )


def cells_note(data: StudyData) -> str:
    """How many cells there are of each status, and how many of them are shown."""
    counts = Counter(data.cells["status"])
    said = ", ".join(
        f"{counts[status]} {status}"
        for status in ("measured", "failed", "infeasible", "skipped", "missing")
        if counts[status]
    )
    invalid = int((data.cells["checks"] == "invalid").sum())
    text = f"{len(data.cells)} cells, counting each replicate: {said}."
    if invalid:
        text += f" {invalid} of those measured are invalid by a check: their numbers stand here, and in no effect and no figure."
    if len(data.cells) > CELLS_LIMIT:
        text += f" The table shows {CELLS_LIMIT} of them, those with trouble first; cells.parquet holds all."
    return text


def command_table(data: StudyData) -> Table:
    """The command that reproduces each cell."""
    unique = _in_order(_worst_first(data.cells).drop_duplicates("cell").head(CELLS_LIMIT), data)
    several = len(data.contexts) > 1
    rows = tuple(
        Row((
            Cell(data.label(row["treatment"]), note=context_phrase(row["engine"], row["model"], row["gpu"], row["gpu_count"]) if several else ""),
            Cell(load_heading(row["load"])),
            Cell(code=f"snakemake -c1 results/reproductions/{row['cell']}/1/verdict.html"),
        ))
        for row in rows_of(unique)
    )  # fmt: skip
    columns = (Column("Treatment"), Column("Load", "short"), Column("Command"))
    return Table("commands", "A command for each cell", columns, (Group(rows),), "A click selects a whole command.")


def troubles(data: StudyData) -> list[Trouble]:
    """Failed, infeasible, skipped and missing cells with their reasons; those of one server and reason together."""
    found: dict[tuple[str, str, str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows_of(_in_order(data.cells[data.cells["status"] != "measured"], data)):
        reason = text_of(row["reason"]) or "no trial has reached it yet"
        found.setdefault((row["server"], row["treatment"], row["status"], reason, _log_of(data, row)), []).append(row)
    told: list[Trouble] = []
    for (_, treatment, status, reason, log), rows in found.items():
        loads = sorted({load_heading(row["load"]) for row in rows})
        replicates = sorted({str(row["replicate"]) for row in rows})
        told.append(
            Trouble(
                f"{TROUBLE_ANCHOR}{len(told)}",
                frozenset((row["cell"], row["replicate"]) for row in rows),
                status_mark(status),
                f"{data.label(treatment)}, {', '.join(loads)} ({', '.join(replicates)})",
                reason,
                log,
            )
        )
    return told[:CELLS_LIMIT]


def check_tables(data: StudyData, found: Sequence[Marked]) -> tuple[str, Table | None, Table | None]:
    """A sentence, the checks with how often each passed, and the ledger of those that did not: what was seen and expected."""
    measured = data.cells[data.cells["status"] == "measured"]
    counts = Counter(measured["checks"])
    note = (
        f"Every measured cell passes a series of checks. One that is invalid is left out of every effect; a caution marks numbers and lets them stand. "
        f"Of {len(measured)} measured cells: {counts['ok']} passed all, {counts['caution']} with a caution, {counts['invalid']} invalid."
    )
    ledger = _failures(data, found) if found else None
    if not data.checks:
        return f"{note} The checks' own records are not on this machine; cells.parquet names the codes.", None, ledger
    absent = len(measured) - len({(row["cell"], row["replicate"]) for row, _ in data.checks})
    if absent:
        note += f" The records of {absent} of them are not on this machine; cells.parquet names the codes."
    return note, _summary(data.checks, len(measured)), ledger


def _summary(found: list[tuple[dict[str, Any], CheckResult]], measured: int) -> Table:
    by_code: dict[str, list[CheckResult]] = {}
    for _, check in found:
        by_code.setdefault(check.code, []).append(check)
    rows = []
    for code, checks in by_code.items():
        # How a cell is kept is told of those alone in which something is wrong.
        asked = measured if code in KEEPING_QUESTIONS else len(checks)
        passed = asked - sum(check.severity != "ok" for check in checks)
        worst = max(checks, key=lambda check: _SEVERITIES.index(check.severity))
        rows.append(
            Row((
                Cell(QUESTIONS.get(code, words(code)), note=code),
                Cell(mark=severity_mark(worst.severity)),
                Cell(f"{passed} of {asked}"),
                Cell(worst.saw),
                Cell(worst.expected),
            ))
        )  # fmt: skip
    columns = (
        Column("Check", "prose"), Column("Worst", "short"), Column("Passed", "number"), Column("Seen in the worst cell", "prose"),
        Column("Expected", "prose"),
    )  # fmt: skip
    return Table("check-summary", "What was checked", columns, (Group(tuple(rows)),))


def _failures(data: StudyData, found: Sequence[Marked]) -> Table:
    """The findings, a row each that marks lead to by its number."""
    measured = int((data.cells["status"] == "measured").sum())
    rows = tuple(
        Row((
            Cell(marked.words),
            Cell(mark=severity_mark(marked.severity)),
            Cell(marked.saw),
            Cell(marked.expected),
            Cell(_places(data, marked.cells, measured)),
            Cell(marked.remedy or "–"),
        ), id=f"{FINDING_ANCHOR}{number}")
        for number, marked in enumerate(found)
    )  # fmt: skip
    columns = (
        Column("Check"), Column("Finding", "short"), Column("Seen", "prose"), Column("Expected", "prose"), Column("Where", "prose"),
        Column("What to do", "prose"),
    )  # fmt: skip
    folded = sum(len(marked.cells) for marked in found) > FINDINGS_LIMIT
    more = (
        "Where there are very many, one stands for all of its kind; checks.json of each cell holds its own."
        if folded
        else ""
    )
    return Table("check-ledger", "Checks that did not pass", columns, (Group(rows),), more)


def _places(data: StudyData, cells: Sequence[Mapping[str, Any]], measured: int) -> str:
    if len(cells) == measured:
        return f"all {measured} measured cells" if measured > 1 else "the one measured cell"
    several = len(data.contexts) > 1
    named = [
        f"{data.label(row['treatment'])}, {load_heading(row['load'])}, {row['replicate']}"
        + (f" ({context_phrase(row['engine'], row['model'], row['gpu'], row['gpu_count'])})" if several else "")
        for row in cells
    ]
    more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return "; ".join(named[:_NAMED]) + more


def _cell_row(data: StudyData, row: Mapping[str, Any]) -> Row:
    folder = data.cell_folder(row)
    codes = text_of(row["check_codes"]).replace(",", ", ").replace("_", " ")
    checked = (
        Cell(mark=severity_mark(row["checks"]), note=codes)
        if row["status"] == "measured" and text_of(row["checks"])
        else Cell("–")
    )
    return Row((
        Cell(data.label(row["treatment"])),
        Cell(load_heading(row["load"]), note="beyond the knee" if row["beyond_knee"] is True else ""),
        Cell(str(row["replicate"])),
        Cell(mark=status_mark(row["status"])),
        checked,
        Cell(value_phrase("ttft_s", row.get("ttft_s_p50"))),
        Cell(value_phrase("tpot_s", row.get("tpot_s_p50"))),
        Cell(value_phrase("throughput", row.get("throughput"))),
        Cell(links=_links(data, folder)) if row["status"] != "missing" else Cell("–"),
    ), tone="out" if row["checks"] == "invalid" else "")  # fmt: skip


def _links(data: StudyData, folder: Path) -> tuple[Link, ...]:
    names = {"cell.json": "record", "requests.parquet": "requests", "chunks.parquet": "chunks", "checks.json": "checks"}
    addresses = ((data.address(folder / name), text) for name, text in names.items())
    return tuple(Link(address, text) for address, text in addresses if address is not None)


def _log_of(data: StudyData, row: Mapping[str, Any]) -> str:
    record = read_cell(data.cell_folder(row))
    return "\n".join(record.reason.log) if record is not None and record.reason is not None else ""


def _worst_first(cells: pd.DataFrame) -> pd.DataFrame:
    trouble = (cells["status"] != "measured").astype(int) * 2 + (cells["checks"] == "invalid").astype(int)
    return cells.loc[trouble.sort_values(ascending=False, kind="stable").index]


def _in_order(cells: pd.DataFrame, data: StudyData) -> pd.DataFrame:
    order = {name: number for number, name in enumerate(data.treatments)}
    keys = cells.assign(_treatment=cells["treatment"].map(order), _load=cells["load"].map(load_order))
    return keys.sort_values([*CONTEXT, "_treatment", "_load", "replicate"], kind="stable").drop(
        columns=["_treatment", "_load"]
    )
