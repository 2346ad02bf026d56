"""One row of effects.parquet as the report reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from leverlab.aggregate.cautions import Caution
from leverlab.aggregate.comparisons import Kind
from leverlab.metrics import METRICS
from leverlab.stats.verdict import Verdict

DECIDED: Final = ("improves", "worsens")


@dataclass(frozen=True, slots=True)
class Effect:
    """What a treatment does to one metric at one load point in one context, against the study's baseline.

    `estimate` is treatment / baseline for metrics that are compared by ratio, treatment - baseline otherwise. Values that
    do not exist are None.
    """

    kind: Kind
    engine: str
    model: str
    gpu: str
    gpu_count: int
    treatment: str
    changed: dict[str, tuple[str, str]]
    """Lever → (level, baseline's level), of the levers that the treatment changes."""
    lever: str | None
    """The lever whose primary metric this is, or the one that the treatment changes; None where it changes several."""
    load: str
    metric: str
    statistic: str | None
    baseline: float | None
    value: float | None
    estimate: float | None
    low: float | None
    """Of the interval that the verdict rests on, at `level`."""
    high: float | None
    level: float | None
    """0.95, or the level that Holm's correction asks of a primary effect."""
    alone: tuple[float, float] | None
    """The 95 % interval, as if this were the only comparison."""
    pairs: int
    primary: bool
    verdict: Verdict
    reason: str
    minimum_detectable: float | None
    """As `leverlab.stats.power.minimum_detectable` gives it: a factor above 1 for a ratio, else a difference."""
    noise_floor: float | None
    """As `leverlab.stats.noise_floor.noise_floor` gives it, in the same form; None where no copy was measured."""
    cautions: tuple[Caution, ...]
    """What to know before believing the effect, a clause each."""

    @property
    def context(self) -> tuple[str, str, str, int]:
        """Where it was measured: engine, model, GPU, number of GPUs."""
        return (self.engine, self.model, self.gpu, self.gpu_count)

    @property
    def place(self) -> tuple[object, ...]:
        """What effects have in common that are told together: the levers with the baseline's levels, metric, load point, context."""
        levers = tuple((lever, before) for lever, (_, before) in self.changed.items())
        return levers, self.metric, self.statistic, self.load, self.context

    @property
    def level_names(self) -> str:
        """The levels of the treatment, by which it is told from others of the same place."""
        return " and ".join(level for level, _ in self.changed.values())

    @property
    def by_ratio(self) -> bool:
        """Whether `estimate` is a ratio; otherwise it is a difference."""
        return METRICS[self.metric].comparison == "ratio"

    @property
    def neutral(self) -> float:
        """The estimate of no effect."""
        return 1.0 if self.by_ratio else 0.0

    @property
    def raises(self) -> bool:
        """Whether the metric is greater with the treatment."""
        return self.estimate is not None and self.estimate > self.neutral

    @property
    def within_noise(self) -> bool:
        """Whether the change is no larger than what two equal servers differ by."""
        if self.noise_floor is None or self.estimate is None:
            return False
        if self.by_ratio:
            return 1 / self.noise_floor < self.estimate < self.noise_floor
        return abs(self.estimate) < self.noise_floor

    @property
    def decided(self) -> bool:
        """Whether the verdict says in which direction the metric moved."""
        return self.verdict in DECIDED


Doubts = Callable[[Effect], tuple[str, ...]]
"""Effect → what is held against it, each in a few words; `leverlab.report.doubts.doubts_in` makes a study's."""
