"""Where a study ran: what all of its cells have in common, and what differs between them."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from leverlab.report.source import StudyData, rows_of
from leverlab.report.view import Cell, Column, Group, Row, Table, plain_table

_HEADINGS: Final = (
    ("Machine", ("node", "host", "hostname", "slurm")),
    ("CPU", ("cpu", "cpus", "memory")),
    ("GPU", ("gpu", "gpus", "driver")),
    ("System", ("kernel", "os", "platform", "system")),
    ("Versions", ("versions", "packages", "python", "engine", "environment", "container")),
    ("Source", ("git", "commit", "dirty", "leverlab", "measurement_version")),
)
"""Headings and the first words of the recorded keys that stand under them."""

_LIMIT: Final = 12
"""Facts under a heading before the rest goes behind it."""
_DIFFERENCES: Final = 40


@dataclass(frozen=True, slots=True)
class Provenance:
    """`facts` are the same in every cell; `differences` are not; `rest` is all that was recorded besides."""

    facts: list[tuple[str, str]]
    agreement: str
    differences: Table | None
    rest: Table | None


def provenance(data: StudyData) -> Provenance:
    """What the measured cells recorded of the nodes they ran on."""
    measured = data.cells[(data.cells["status"] == "measured") & data.cells["provenance"].notna()]
    recorded = [(row, _flat(json.loads(row["provenance"]))) for row in rows_of(measured)]
    if not recorded:
        return Provenance([], "", None, None)
    values: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row, flat in recorded:
        for key, value in flat.items():
            values[key][value].append(row)
    same = {key: next(iter(found)) for key, found in values.items() if len(found) == 1}
    differing = {
        key: found for key, found in values.items() if len(found) > 1 and not _varies_by_nature(found, recorded)
    }
    facts: list[tuple[str, str]] = []
    shown: set[str] = set()
    for heading, words in _HEADINGS:
        own = [key for key in same if key.split(".")[0] in words][:_LIMIT]
        shown |= set(own)
        if own:
            facts.append((heading, "; ".join(f"{_name(key)} {same[key]}" for key in own)))
    dates = sorted(str(row["started_at"]) for row, _ in recorded if row.get("started_at"))
    if dates:
        facts.append(
            (
                "Measured",
                f"{_day(dates[0])} to {_day(dates[-1])}" if _day(dates[0]) != _day(dates[-1]) else _day(dates[0]),
            )
        )
    rest = [(_name(key), value) for key, value in same.items() if key not in shown]
    agreement = (
        "Nothing else that was recorded differs between the cells."
        if len(recorded) > 1
        else "One cell was measured, so that nothing can differ."
    )
    return Provenance(
        facts,
        agreement,
        _difference_table(differing),
        plain_table("provenance-rest", "Recorded in every cell alike", ("What", "Value"), rest) if rest else None,
    )


def _difference_table(differing: Mapping[str, Mapping[str, list[Mapping[str, Any]]]]) -> Table | None:
    rows = []
    for key, found in list(differing.items())[:_DIFFERENCES]:
        for value, cells in found.items():
            replicates = sorted({str(row["replicate"]) for row in cells})
            rows.append(Row((Cell(_name(key)), Cell(value), Cell(f"{len(cells)} cells, {', '.join(replicates)}"))))
    if not rows:
        return None
    columns = (Column("What"), Column("Value"), Column("Where"))
    note = "A difference that goes with a treatment is part of what was compared; one between replicates widens the intervals."
    return Table("provenance-differences", "What differs between cells", columns, (Group(tuple(rows)),), note)


def _varies_by_nature(found: Mapping[str, object], recorded: list[Any]) -> bool:
    """Whether a value differs in (almost) every cell, as clocks and process numbers do: it says nothing about the cells."""
    return len(recorded) > 4 and len(found) > len(recorded) / 2


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            flat |= _flat(item, here)
        elif item is not None and item != []:
            flat[here] = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
    return flat


def _name(key: str) -> str:
    return key.replace(".", " ").replace("_", " ")


def _day(instant: str) -> str:
    return instant[:16].replace("T", " ") + " UTC"
