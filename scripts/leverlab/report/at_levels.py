"""What a question asks of levels that are numbers, computed once: its sentences tell it and its figure draws it."""

from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from leverlab.config.course import LevelsAnswer, LineAnswer, Question
from leverlab.metrics import MetricReference, parse_metric_reference
from leverlab.report.numbered_levels import values_at
from leverlab.report.phrases import load_order
from leverlab.report.source import StudyData
from leverlab.stats.line import Line, line_through


@dataclass(frozen=True)
class AtLevels:
    """A metric at the levels of a lever in one context, with the lines through it."""

    lever: str
    metric: str
    statistic: str | None
    context: tuple[str, str, str, int]
    values: pd.DataFrame
    """As `leverlab.report.numbered_levels.values_at` gives them; without rows where the lever's levels are no numbers."""

    @cached_property
    def loads(self) -> tuple[str, ...]:
        """Load points at which a level tells the metric."""
        return tuple(sorted(self.values["load"].unique(), key=load_order))

    @cached_property
    def lines(self) -> dict[str, Line]:
        """Load point → line through the levels, over the replicates that all of them have; without those that have none."""
        return {load: line for load in self.loads if (line := self._line(load)) is not None}

    def at_load(self, load: str) -> pd.DataFrame:
        """The rows of `values` of one load point."""
        return self.values[self.values["load"] == load]

    def _line(self, load: str) -> Line | None:
        table = self.at_load(load).pivot_table(index="replicate", columns="level", values="value").dropna()
        return line_through({float(level): [float(value) for value in table[level]] for level in table.columns})

    def tells(self, lever: str, reference: MetricReference) -> bool:
        """Whether it is the metric of `reference` at the levels of `lever`."""
        return (self.lever, self.metric, self.statistic) == (lever, reference.metric, reference.statistic)


def at_levels(question: Question, data: StudyData) -> list[AtLevels]:
    """Levers and metrics of the question, each once a context; at every load point where any of the answers speaks of all."""
    found: dict[tuple[str, str, str | None], MetricReference] = {}
    for answer in question.answers:
        if isinstance(answer, LevelsAnswer | LineAnswer):
            for reference in map(parse_metric_reference, answer.metrics):
                key = (answer.lever, reference.metric, reference.statistic)
                known = found.setdefault(key, reference)
                if known.load != reference.load:
                    found[key] = replace(known, load=None)
    return [
        AtLevels(lever, metric, statistic, context, values_at(lever, reference, context, data))
        for (lever, metric, statistic), reference in found.items()
        for context in data.contexts
    ]
