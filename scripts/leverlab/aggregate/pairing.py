"""Which replicates of a treatment can be compared with the baseline, and why the others cannot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from leverlab.metrics import Comparison

CONTEXT: Final = ("engine", "model", "gpu", "gpu_count")
"""Columns of cells.parquet within whose values treatments are compared."""

CellRow = Mapping[str, Any]
Side = Literal["baseline", "treatment"]

Place = Mapping[str, CellRow]
"""Replicate → the row of cells.parquet of one treatment at one load point."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """One of the places whose values make up a side of a comparison, and how much it counts.

    A side is the sum of weight × value for a comparison by difference, the product of value ** weight for one by ratio.
    """

    place: Place
    weight: float = 1.0


_NOT_MEASURED = {
    "missing": "not measured yet",
    "failed": "failed",
    "infeasible": "infeasible",
    "skipped": "not measured",
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
    baseline: Sequence[Weighed],
    treatment: Sequence[Weighed],
    replicates: Sequence[str],
    column: str,
    comparison: Comparison,
) -> Pairing:
    """Pair `column` of the two sides over `replicates`; for a plain treatment each side is one place of weight 1.

    A replicate is left out, with its reason, where a cell of a side is missing, failed, infeasible or invalid, has no
    value of the metric, or has a value of which there is no ratio.
    """
    sides: dict[Side, Sequence[Weighed]] = {"baseline": baseline, "treatment": treatment}
    values: dict[Side, list[float]] = {"baseline": [], "treatment": []}
    excluded: list[Excluded] = []
    for replicate in replicates:
        problems = {
            Excluded(replicate, side, *problem): None
            for side, parts in sides.items()
            for part in parts
            if (problem := _problem(part.place.get(replicate), column, comparison)) is not None
        }
        if problems:
            excluded += problems
            continue
        for side, parts in sides.items():
            values[side].append(_combined(parts, replicate, column, comparison))
    return Pairing(tuple(values["baseline"]), tuple(values["treatment"]), tuple(excluded))


def _combined(parts: Sequence[Weighed], replicate: str, column: str, comparison: Comparison) -> float:
    if len(parts) == 1 and parts[0].weight == 1:
        return float(parts[0].place[replicate][column])
    values = [(part.weight, float(part.place[replicate][column])) for part in parts]
    if comparison == "ratio":
        return math.exp(math.fsum(weight * math.log(value) for weight, value in values))
    return math.fsum(weight * value for weight, value in values)


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
