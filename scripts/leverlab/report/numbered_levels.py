"""Levels of a lever that are numbers, such as lengths and limits, and what a metric is at each of them."""

import math

import pandas as pd

from leverlab.aggregate.schema import metric_column
from leverlab.metrics import MetricReference
from leverlab.report.ranges import treatment_at
from leverlab.report.source import StudyData


def numbers(lever: str, data: StudyData) -> dict[float, str]:
    """Level → the treatment that has it and every other lever at the baseline. Empty unless all of the lever's levels are numbers."""
    found = {}
    for level in data.study.levers.get(lever, ()):
        try:
            number = float(level)
        except ValueError:
            return {}
        treatment = treatment_at(data, lever, level)
        if treatment is not None and math.isfinite(number):
            found[number] = treatment
    return found


def values_at(
    lever: str, reference: MetricReference, context: tuple[str, str, str, int], data: StudyData
) -> pd.DataFrame:
    """Columns level (a number), load, replicate, value: a row for each valid cell of `numbers` that tells the metric."""
    column = metric_column(reference.metric, reference.statistic)
    levels = {treatment: level for level, treatment in numbers(lever, data).items()}
    cells = data.of_context(context)
    cells = cells[cells["treatment"].isin(levels)].dropna(subset=[column])
    if reference.load is not None:
        cells = cells[cells["load"] == str(reference.load)]
    return pd.DataFrame(
        {
            "level": cells["treatment"].map(levels).astype(float),
            "load": cells["load"].astype(str),
            "replicate": cells["replicate"].astype(str),
            "value": cells[column].astype(float),
        }
    )
