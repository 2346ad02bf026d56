"""Every metric of the project, defined once, and how a study refers to one.

The definitions are those of docs/metrics.md, which is generated from the registry.
"""

from dataclasses import dataclass

from leverlab.load_point import LoadPoint, parse_load_point
from leverlab.metrics.metric import (
    ERROR_RATIO,
    FIXED_FACTS,
    GRAPHS_STATED_TO_GIB,
    HIGHEST_RATE,
    MINIMUM_SAMPLES,
    SERVER_FACTS,
    SIZES_VARY_BY,
    STATISTICS,
    Better,
    Comparison,
    Metric,
    Source,
)
from leverlab.metrics.registry import METRICS

__all__ = [
    "ERROR_RATIO",
    "FIXED_FACTS",
    "GRAPHS_STATED_TO_GIB",
    "HIGHEST_RATE",
    "METRICS",
    "MINIMUM_SAMPLES",
    "SERVER_FACTS",
    "SIZES_VARY_BY",
    "STATISTICS",
    "Better",
    "Comparison",
    "Metric",
    "MetricReference",
    "Source",
    "UnknownMetricError",
    "comparable",
    "parse_metric_reference",
]


def comparable(metric: str, load: LoadPoint) -> bool:
    """Whether two servers may be compared by `metric` at `load`: where the rate was searched for, by that rate alone."""
    return (metric == HIGHEST_RATE) == (load.kind == "search")


@dataclass(frozen=True, slots=True)
class MetricReference:
    """A metric, its statistic (None for one value a cell) and a load point: what a study calls primary."""

    metric: str
    statistic: str | None
    load: LoadPoint | None = None

    def __str__(self) -> str:
        name = METRICS[self.metric].reference(self.statistic)
        return name if self.load is None else f"{name} at {self.load}"


def parse_metric_reference(text: str) -> MetricReference:
    """The reference that `text` makes: `ttft_s p50 at rate 4`, `throughput at burst`, `tpot_s p95`.

    Raises ValueError naming what is known when the metric, the statistic or the load point is not.
    """
    name, _, load = text.partition(" at ")
    words = name.split()
    if not words or words[0] not in METRICS:
        raise UnknownMetricError(words[0] if words else "", text)
    metric = METRICS[words[0]]
    statistic = words[1] if len(words) == 2 else None
    if (
        len(words) > 2
        or (statistic is not None) != bool(metric.statistics)
        or (statistic and statistic not in metric.statistics)
    ):
        wanted = f"one of {', '.join(metric.statistics)} after it" if metric.statistics else "no statistic"
        raise ValueError(f"{text!r}: {metric.name} takes {wanted}")
    return MetricReference(metric.name, statistic, parse_load_point(load) if load else None)


class UnknownMetricError(ValueError):
    """A metric's name that is not in the registry; `name` is what was written."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text!r}: there is no metric {name!r}; there are {', '.join(METRICS)}")
        self.name = name
