"""What the course wants collected, as this study has it: each of its metrics over treatments and load points."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Final

import pandas as pd

from leverlab.aggregate.schema import metric_column
from leverlab.config.course import ELSEWHERE
from leverlab.load_point import parse_load_point
from leverlab.metrics import METRICS, MetricReference, comparable, parse_metric_reference
from leverlab.quantities import QuantityReference, parse_quantity_reference
from leverlab.report.beside_theory import BEYOND, beside_phrase, measured_text
from leverlab.report.phrases import context_phrase, joined, load_heading, load_phrase, metric_phrase, value_phrase
from leverlab.report.source import StudyData
from leverlab.report.theory_values import Beside, TheoryValues
from leverlab.report.view import Cell, Column, Group, Row, Table
from leverlab.theory.shown import shown
from leverlab.units import format_number, format_percent

_SOURCES: Final = {
    "client": "stamped by the client",
    "server counters": "from the server's counters",
    "server gauges": "from the server's gauges",
    "server log": "as the server says at its start",
    "client and server": "from the client's lengths and the server's block size",
    "trial": "timed by the trial",
    "NVML": "from the driver (NVML)",
}

_SHARES: Final = {"floor": "floor ÷ measured", "ceiling": "measured ÷ ceiling"}
"""Sense of a bound → the share of it that was reached."""


def collected_table(data: StudyData, values: TheoryValues) -> Table | None:
    """A group for each metric that the course names, a row a treatment, a column a load point; None where it names none."""
    if not data.study.collects:
        return None
    loads = [str(point) for point in data.study.load.points()]
    groups = []
    names: dict[str, list[str]] = {}
    for name, given in data.study.collects.items():
        for reference in [given] if isinstance(given, str) else given:
            names.setdefault(reference, []).append(name)
    # What the course names twice (of two treatments) is one metric of both.
    for reference, own in names.items():
        name = "; ".join(own)
        elsewhere = ELSEWHERE.fullmatch(reference)
        if elsewhere is not None and elsewhere["where"] == "theory":
            groups.append(_of_theory(name, parse_quantity_reference(elsewhere["what"]), loads, data, values))
        elif elsewhere is not None:
            where = _place(elsewhere["where"], data)
            row = Row((Cell(f"{elsewhere['what']} ({where})"), *(Cell("") for _ in loads)))
            groups.append(Group((row,), name))
        else:
            groups.append(_group(name, parse_metric_reference(reference), loads, data))
    columns = (Column("Treatment"), *(Column(load_heading(load), "number") for load in loads))
    simulated = "Simulated. " if data.simulated else ""
    note = (
        f"{simulated}Medians over the replicates' valid cells; – where no cell tells it. Verdicts rest on means over pairs of replicates, which differ "
        "from medians where a replicate stands apart. The course's name stands first."
    )
    return Table("collected", "What the course wants collected", columns, tuple(groups), note)


def _group(name: str, reference: MetricReference, loads: list[str], data: StudyData) -> Group:
    metric = METRICS[reference.metric]
    where = f" {load_phrase(str(reference.load))}" if reference.load else ""
    what = metric_phrase(reference.metric, reference.statistic)
    rows = tuple(_rows(reference, loads, data))
    return Group(rows, f"{name}: {what}{where}, {_SOURCES[metric.source]}")


def _rows(reference: MetricReference, loads: list[str], data: StudyData) -> Iterator[Row]:
    column = metric_column(reference.metric, reference.statistic)
    for context in data.contexts:
        cells = data.of_context(context)
        for name in data.treatments:
            found = _medians(cells[cells["treatment"] == name], column)
            texts = [_value(reference, load, found) for load in loads]
            note = context_phrase(*context) if len(data.contexts) > 1 else ""
            yield Row((Cell(data.label(name), note=note), *map(Cell, texts)))


def _of_theory(
    name: str, reference: QuantityReference, loads: list[str], data: StudyData, values: TheoryValues
) -> Group:
    """What theory says; of a floor or a ceiling also what was measured, and how much of it that reached."""
    quantity = reference.quantity
    own = [value for value in values.values if value.quantity is quantity]
    asked = [load for load in loads if reference.load is None or str(reference.load) == load]
    bounded = next((v for v in own if quantity.sense in _SHARES and v.measured is not None and v.load in asked), None)
    rows = []
    for context in data.contexts:
        where = f"{context_phrase(*context)}; " if len(data.contexts) > 1 else ""
        for treatment in data.treatments:
            found = {v.load: v for v in own if (v.context, v.treatment) == (context, treatment)}
            for note, cell in _told(quantity.sense, bounded is not None):
                if found:
                    told = [
                        (cell(found[load]) if load in found else Cell("–")) if load in asked else Cell("")
                        for load in loads
                    ]
                    rows.append(Row((Cell(data.label(treatment), note=f"{where}{note}"), *told)))
    if not rows:
        reasons = dict.fromkeys(missing.reason for missing in values.missing if missing.quantity is quantity)
        why = "; ".join(reasons) or "no valid cell tells it"
        rows.append(Row((Cell(f"not computed: {why}"), *(Cell("") for _ in loads))))
    beside = f" ({quantity.sense}), and {beside_phrase(bounded)}" if bounded else ""
    return Group(tuple(rows), f"{name}: {quantity.label}, by theory{beside}")


def _told(sense: str, bounded: bool) -> Sequence[tuple[str, Callable[[Beside], Cell]]]:
    """What is told of a quantity, a row each, and its cell at a load point."""
    theory = ("by theory", lambda value: Cell(shown(value.quantity, value.expected)))
    if not bounded:
        return [theory]
    return [theory, ("measured", lambda value: Cell(measured_text(value))), (_SHARES[sense], _share)]


def _share(value: Beside) -> Cell:
    """How much of its bound was reached, in percent: near 100 is near the bound, whichever side it lies on."""
    ratio = median(value.ratios) if value.ratios else 0.0
    if not ratio:
        return Cell("–")
    share = 1 / ratio if value.quantity.sense == "floor" else ratio
    return Cell(format_percent(format_number(100 * share)), mark=BEYOND if value.impossible else None)


def _medians(cells: pd.DataFrame, column: str) -> Mapping[str, float]:
    return {str(load): float(value) for load, value in cells.groupby("load")[column].median().items()}


def _value(reference: MetricReference, load: str, found: Mapping[str, float]) -> str:
    asked = reference.load is None or str(reference.load) == load
    told = asked and comparable(reference.metric, parse_load_point(load))
    return value_phrase(reference.metric, found.get(load)) if told else ""


def _place(where: str, data: StudyData) -> str:
    """Where what is in no cell stands."""
    if where == "accuracy":
        return "in the section on accuracy, where the weights are real"
    if any(twin.recorded is not None or twin.counters is not None for twin in data.profiles):
        return "under “Why: what the profiles show”"
    if data.explaining:
        others = joined([f"“{other.title}”" for other in data.explaining])
        return f"under “Why: what the profiles show”, by the twins of {others}"
    return "from a profile beside the study; none was taken yet"
