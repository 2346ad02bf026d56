"""Which replicates of a treatment can be compared with the baseline, and why the others cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from leverlab.metrics import Comparison

CellRow = Mapping[str, Any]
Side = Literal["baseline", "treatment"]

_NOT_MEASURED = {
    "missing": "not measured yet",
    "failed": "failed",
    "infeasible": "infeasible",
}


@dataclass(frozen=True, slots=True)
class Excluded:
    """A replicate that is in no pair, and why. `code` is stable, for programs."""

    replicate: str
    side: Side
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """The values of one metric: those at one place are of one replicate."""

    baseline: tuple[float, ...]
    treatment: tuple[float, ...]
    excluded: tuple[Excluded, ...]


def pair(
    baseline: Mapping[str, CellRow],
    treatment: Mapping[str, CellRow],
    replicates: Sequence[str],
    column: str,
    comparison: Comparison,
) -> Pairing:
    """Pair `column` of the two cells' rows (replicate → row of cells.parquet) over `replicates`.

    A replicate is left out, with its reason, where a side is missing, failed, infeasible or invalid, has no value of the
    metric, or has a value of which there is no ratio.
    """
    before, after, excluded = list[float](), list[float](), list[Excluded]()
    for replicate in replicates:
        sides: dict[Side, CellRow | None] = {
            "baseline": baseline.get(replicate),
            "treatment": treatment.get(replicate),
        }
        problems = [
            Excluded(replicate, side, *problem)
            for side, row in sides.items()
            if (problem := _problem(row, column, comparison)) is not None
        ]
        if problems:
            excluded += problems
        else:
            before.append(baseline[replicate][column])
            after.append(treatment[replicate][column])
    return Pairing(tuple(before), tuple(after), tuple(excluded))


def _problem(row: CellRow | None, column: str, comparison: Comparison) -> tuple[str, str] | None:
    """(code, reason), or None for a row that can be paired."""
    if row is None:
        return "missing", _NOT_MEASURED["missing"]
    status = row["status"]
    if status != "measured":
        why = f": {row['reason']}" if row.get("reason") else ""
        return row.get("reason_code") or status, f"{_NOT_MEASURED[status]}{why}"
    if row["checks"] == "invalid":
        return "invalid", f"invalid by its checks: {str(row['check_codes']).replace('_', ' ').replace(',', ', ')}"
    value = row.get(column)
    if value is None:
        return "no_value", "the cell does not tell this metric"
    if comparison == "ratio" and value <= 0:
        return "no_ratio", f"its value is {value:g}, of which there is no ratio"
    return None
