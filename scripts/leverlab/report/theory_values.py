"""What theory expects of a study's cells, and what was measured beside it, by treatment and load point."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from leverlab.quantities import QUANTITIES, Quantity
from leverlab.report.phrases import load_order
from leverlab.report.source import StudyData
from leverlab.report.theory_cells import TheoryCell, TheoryCells, theory_cells
from leverlab.theory.expected import expected
from leverlab.theory.unknown import DoesNotApplyError, NotKnownError

Context = tuple[str, str, str, int]

_TOLERANCE: Final = 0.02
"""A measured value beyond a bound by more than this share is wrong, or what theory is told is."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A quantity at one treatment and load point: medians over the replicates that tell it."""

    quantity: Quantity
    context: Context
    treatment: str
    load: str
    expected: float
    measured: float | None
    """None where nothing measured stands beside it, as of most properties."""
    ratios: tuple[float, ...]
    """Measured / expected of each replicate; empty where nothing is measured, or nothing is expected."""
    replicates: int

    @property
    def impossible(self) -> bool:
        """Whether a measured value lies beyond a bound."""
        sense = self.quantity.sense
        return any(
            (sense == "floor" and ratio < 1 - _TOLERANCE) or (sense == "ceiling" and ratio > 1 + _TOLERANCE)
            for ratio in self.ratios
        )


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a quantity is left out, at some of the study's cells or at all."""

    quantity: Quantity
    reason: str
    applies: bool
    """False where the study is merely not of the kind that the quantity speaks of."""
    treatment: str | None = None
    """Whose cells; None where it is all of them."""


@dataclass(frozen=True, slots=True)
class TheoryValues:
    """All that theory says of a study. `values` are in the order of quantity, context, treatment and load."""

    values: tuple[Beside, ...]
    missing: tuple[Missing, ...]
    cells: TheoryCells


def theory_values(data: StudyData) -> TheoryValues:
    """Every quantity for every treatment and load point of `data`, from its tables and the configuration."""
    cells = theory_cells(data)
    values: list[Beside] = []
    missing: list[Missing] = []
    for quantity in QUANTITIES.values():
        missing += [Missing(quantity, reason, applies=True) for reason in cells.unknown]
        for (context, treatment, load), own in _grouped(cells):
            pairs: list[tuple[float, float | None]] = []
            for cell in own:
                try:
                    pairs.append((expected(quantity.name, cell.server, cell.occasion), cells.measured(quantity, cell)))
                except NotKnownError as error:
                    missing.append(Missing(quantity, str(error), not isinstance(error, DoesNotApplyError), treatment))
            if pairs:
                values.append(_beside(quantity, context, treatment, load, pairs))
    return TheoryValues(tuple(values), tuple(dict.fromkeys(missing)), cells)


def _beside(
    quantity: Quantity, context: Context, treatment: str, load: str, pairs: list[tuple[float, float | None]]
) -> Beside:
    measured = [value for _, value in pairs if value is not None]
    return Beside(
        quantity,
        context,
        treatment,
        load,
        median(wanted for wanted, _ in pairs),
        median(measured) if measured else None,
        tuple(value / wanted for wanted, value in pairs if value is not None and wanted),
        len(pairs),
    )


def _grouped(cells: TheoryCells) -> Iterator[tuple[tuple[Context, str, str], list[TheoryCell]]]:
    """The replicates of each context, treatment and load point, in the study's order."""
    data = cells.data
    groups: dict[tuple[Context, str, str], list[TheoryCell]] = {}
    for cell in cells.cells:
        row = cell.row
        context = (str(row["engine"]), str(row["model"]), str(row["gpu"]), int(row["gpu_count"]))
        groups.setdefault((context, str(row["treatment"]), str(row["load"])), []).append(cell)
    treatments = list(data.treatments)
    order = sorted(groups, key=lambda key: (data.contexts.index(key[0]), treatments.index(key[1]), load_order(key[2])))
    return ((key, groups[key]) for key in order)
