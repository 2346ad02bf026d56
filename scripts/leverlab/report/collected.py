"""What the course wants collected, as this study has it: each of its metrics over treatments and load points."""

from collections.abc import Iterator, Mapping
from typing import Final

import pandas as pd

from leverlab.aggregate.schema import metric_column
from leverlab.config.course import ELSEWHERE
from leverlab.load_point import parse_load_point
from leverlab.metrics import METRICS, MetricReference, comparable, parse_metric_reference
from leverlab.report.phrases import context_phrase, load_heading, load_phrase, metric_phrase, value_phrase
from leverlab.report.source import StudyData
from leverlab.report.view import Cell, Column, Group, Row, Table

_SOURCES: Final = {
    "client": "stamped by the client",
    "server counters": "from the server's counters",
    "server gauges": "from the server's gauges",
    "server log": "as the server says at its start",
    "trial": "timed by the trial",
    "NVML": "from the driver (NVML)",
}


def collected_table(data: StudyData) -> Table | None:
    """A group for each metric that the course names, a row a treatment, a column a load point; None where it names none."""
    if not data.study.collects:
        return None
    loads = [str(point) for point in data.study.load.points()]
    groups = []
    for name, given in data.study.collects.items():
        for reference in [given] if isinstance(given, str) else given:
            if (elsewhere := ELSEWHERE.fullmatch(reference)) is not None:
                groups.append(Group((_elsewhere(elsewhere["where"], elsewhere["what"], len(loads)),), name))
            else:
                groups.append(_group(name, parse_metric_reference(reference), loads, data))
    columns = (Column("Treatment"), *(Column(load_heading(load), "number") for load in loads))
    simulated = "Simulated. " if data.simulated else ""
    note = f"{simulated}Medians over the replicates' valid cells; – where no cell tells it. The course's name stands first."
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
            shown = [_value(reference, load, found) for load in loads]
            note = context_phrase(*context) if len(data.contexts) > 1 else ""
            yield Row((Cell(data.label(name), note=note), *map(Cell, shown)))


def _medians(cells: pd.DataFrame, column: str) -> Mapping[str, float]:
    return {str(load): float(value) for load, value in cells.groupby("load")[column].median().items()}


def _value(reference: MetricReference, load: str, found: Mapping[str, float]) -> str:
    asked = reference.load is None or str(reference.load) == load
    told = asked and comparable(reference.metric, parse_load_point(load))
    return value_phrase(reference.metric, found.get(load)) if told else ""


def _elsewhere(where: str, what: str, columns: int) -> Row:
    return Row((Cell(f"{what} ({_PLACES[where]})"), *(Cell("") for _ in range(columns))))


_PLACES: Final = {
    "profile": "from a profile beside the study; not shown where none was taken",
    "theory": "computed from the model's dimensions and the GPU's rates, not measured",
    "accuracy": "a task's score, which takes real weights and the task's data",
}
