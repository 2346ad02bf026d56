"""What each search for the highest rate within the objectives found."""

import json

from leverlab.metrics import HIGHEST_RATE
from leverlab.records import SearchRecord
from leverlab.report.phrases import context_phrase, objective_phrase, value_phrase
from leverlab.report.source import StudyData, in_context, rows_of, text_of
from leverlab.report.view import Cell, Column, Group, Row, Table


def search_table(data: StudyData) -> Table | None:
    """A row a treatment and replicate; None where nothing was searched for."""
    groups = []
    for context in data.contexts:
        rows = []
        for row in rows_of(in_context(data.cells, context)):
            if text_of(row["search"]):
                found = SearchRecord.model_validate(json.loads(row["search"]))
                rows.append(Row((Cell(data.label(row["treatment"])), Cell(row["replicate"]), *_found(found))))
        if rows:
            groups.append(Group(tuple(rows), context_phrase(*context) if len(data.contexts) > 1 else ""))
    if not groups:
        return None
    columns = (
        Column("Treatment"),
        Column("Replicate", "short"),
        Column("Highest rate within the objectives", "number"),
        Column("The next higher one tried", "number"),
        Column("What it missed", "prose"),
        Column("Runs", "number"),
    )
    note = (
        "A search offers the same requests at one rate after another, on one server, each time from the stated cache state, until the rate that meets "
        "every objective and the one above it that misses one are as near to each other as was asked for. The first run is a burst. Rates are those that arrived."
    )
    return Table("searches", "How far each search came", columns, tuple(groups), note)


def _found(found: SearchRecord) -> tuple[Cell, Cell, Cell, Cell]:
    none = f"none, down to {value_phrase(HIGHEST_RATE, found.kept)}"
    return (
        Cell(none if found.highest_rate is None else value_phrase(HIGHEST_RATE, found.highest_rate)),
        Cell("–" if found.missed is None else value_phrase(HIGHEST_RATE, found.missed)),
        Cell(_missed(found.limited_by), note="" if found.settled else "not settled: see the checks"),
        Cell(str(found.runs)),
    )


def _missed(limited_by: str | None) -> str:
    if limited_by is None:
        return "–"
    return "the server no longer keeps up" if limited_by == "kept_up" else objective_phrase(limited_by)
