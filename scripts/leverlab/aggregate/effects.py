"""Rows of effects.parquet: what each treatment does to each metric, against the study's baseline."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leverlab.aggregate.pairing import CellRow, Excluded, Pairing, pair
from leverlab.aggregate.schema import metric_column, metric_keys
from leverlab.load_point import LoadPoint
from leverlab.matrix.expand import StudyMatrix
from leverlab.matrix.treatments import Treatment
from leverlab.metrics import METRICS, Comparison, MetricReference
from leverlab.stats.intervals import LEVEL, Interval
from leverlab.stats.multiple import ALPHA, bonferroni_level, holm, holm_levels
from leverlab.stats.paired import PairedChange, paired_change
from leverlab.stats.power import minimum_detectable
from leverlab.stats.verdict import Judgement, judge

Context = tuple[str, str, str, int]
_CONTEXT = ("engine", "model", "gpu", "gpu_count")
_WHY_LIMIT = 3


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One treatment, load point and metric in one context, before it is judged. `lever` is set where it is primary."""

    context: Context
    treatment: Treatment
    load: LoadPoint
    metric: str
    statistic: str | None
    lever: str | None
    pairing: Pairing
    change: PairedChange


@dataclass(frozen=True, slots=True)
class _Family:
    """What the correction for many comparisons says of one comparison; `level` is that of the verdict's interval."""

    size: int
    level: float
    adjusted_p: float | None


def effect_rows(matrix: StudyMatrix, cells: Sequence[CellRow]) -> list[dict[str, Any]]:
    """All effects of a study from the rows of its cells.parquet, in the order of context, treatment, load and metric.

    Primary comparisons are those of a lever's primary metric and load point with the treatments that change that lever
    alone (all that change it, in a design without such), in every context. Holm corrects for all of them, those that cannot
    be judged yet with p = 1: a verdict found early is not lost when the matrix is complete for the number of tests alone.
    """
    comparisons = list(_comparisons(matrix, cells))
    primary = [comparison for comparison in comparisons if comparison.lever is not None]
    found = [comparison.change.p_value for comparison in primary]
    p_values = [1.0 if p_value is None else p_value for p_value in found]
    families = {
        id(comparison): _Family(len(primary), level, adjusted if p_value is not None else None)
        for comparison, p_value, adjusted, level in zip(
            primary, found, holm(p_values), holm_levels(p_values), strict=True
        )
    }
    exploratory = _Family(len(primary), LEVEL, None)
    return [_row(matrix, comparison, families.get(id(comparison), exploratory)) for comparison in comparisons]


def _comparisons(matrix: StudyMatrix, cells: Sequence[CellRow]) -> Iterator[_Comparison]:
    by_place: dict[tuple[Context, str, str], dict[str, CellRow]] = {}
    for row in cells:
        context: Context = (row["engine"], row["model"], row["gpu"], row["gpu_count"])
        by_place.setdefault((context, row["treatment"], row["load"]), {})[row["replicate"]] = row
    replicates = [str(replicate) for replicate in matrix.replicates]
    treatments = list(dict.fromkeys(entry.treatment for entry in matrix.cells))
    loads = list(dict.fromkeys(entry.load for entry in matrix.cells))
    baseline = next((treatment for treatment in treatments if treatment.is_baseline), None)
    if baseline is None:
        return
    for context in dict.fromkeys(place[0] for place in by_place):
        for treatment in (treatment for treatment in treatments if not treatment.is_baseline):
            for load in loads:
                before = by_place.get((context, baseline.name, str(load)), {})
                after = by_place.get((context, treatment.name, str(load)), {})
                for metric, statistic in metric_keys():
                    comparison = METRICS[metric].comparison
                    pairing = pair(before, after, replicates, metric_column(metric, statistic), comparison)
                    change = paired_change(pairing.baseline, pairing.treatment, comparison)
                    lever = _primary_lever(
                        matrix.primary, treatments, treatment, MetricReference(metric, statistic, load)
                    )
                    yield _Comparison(context, treatment, load, metric, statistic, lever, pairing, change)


def _primary_lever(
    primary: Sequence[tuple[str, MetricReference]],
    treatments: Sequence[Treatment],
    treatment: Treatment,
    reference: MetricReference,
) -> str | None:
    for lever, stated in primary:
        if stated == reference and treatment in _treatments_of(lever, treatments):
            return lever
    return None


def _treatments_of(lever: str, treatments: Sequence[Treatment]) -> list[Treatment]:
    changing = [treatment for treatment in treatments if lever in dict(treatment.changed)]
    return [treatment for treatment in changing if len(treatment.changed) == 1] or changing


def _row(matrix: StudyMatrix, comparison: _Comparison, family: _Family) -> dict[str, Any]:
    metric, change, pairing = METRICS[comparison.metric], comparison.change, comparison.pairing
    primary = comparison.lever is not None
    interval, decisive = change.interval(), change.interval(family.level)
    together = change.interval(bonferroni_level(family.size)) if primary else None
    prediction = change.prediction()
    judgement = _judgement(comparison, decisive)
    changed = [[lever, level, matrix.study.baseline[lever]] for lever, level in comparison.treatment.changed]
    return {
        **dict(zip(_CONTEXT, comparison.context, strict=True)),
        "treatment": comparison.treatment.name,
        "changed": json.dumps(changed, ensure_ascii=False),
        "lever": comparison.lever or (changed[0][0] if len(changed) == 1 else None),
        "load": str(comparison.load),
        "load_kind": comparison.load.kind,
        "load_value": comparison.load.value,
        "metric": comparison.metric,
        "statistic": comparison.statistic,
        "unit": metric.unit,
        "better": metric.better,
        "comparison": metric.comparison,
        "baseline_value": _mean(pairing.baseline, metric.comparison),
        "treatment_value": _mean(pairing.treatment, metric.comparison),
        "estimate": change.estimate,
        **_ends("interval", interval),
        **_ends("verdict", decisive),
        "verdict_level": decisive.level if decisive else None,
        **_ends("simultaneous", together),
        **_ends("prediction", prediction),
        "p_value": change.p_value,
        "adjusted_p": family.adjusted_p,
        "spread": change.spread,
        "minimum_detectable": minimum_detectable(
            change.spread, len(change.changes), metric.comparison, ALPHA / family.size if primary else ALPHA
        ),
        "pairs": len(change.changes),
        "excluded": json.dumps([asdict(excluded) for excluded in pairing.excluded], ensure_ascii=False),
        "primary": primary,
        "family": family.size,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
    }


def _judgement(comparison: _Comparison, interval: Interval | None) -> Judgement:
    judgement = judge(comparison.change, interval, METRICS[comparison.metric].better)
    excluded = comparison.pairing.excluded
    if not excluded:
        return judgement
    left_out = _why(excluded)
    if len(comparison.change.changes) >= 2:
        return Judgement(judgement.verdict, "; ".join(filter(None, (judgement.reason, f"left out: {left_out}"))))
    if any(item.code == "invalid" for item in excluded):
        return Judgement("invalid", left_out)
    return Judgement("not judgeable", left_out)


def _why(excluded: Sequence[Excluded]) -> str:
    """Who was left out and why: `treatment r1, r2: infeasible: …`."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for item in excluded:
        grouped.setdefault((item.side, item.reason), []).append(item.replicate)
    told = [f"{side} {', '.join(replicates)}: {reason}" for (side, reason), replicates in grouped.items()]
    more = f"; and {len(told) - _WHY_LIMIT} more" if len(told) > _WHY_LIMIT else ""
    return "; ".join(told[:_WHY_LIMIT]) + more


def _mean(values: Sequence[float], comparison: Comparison) -> float | None:
    if not values:
        return None
    if comparison == "ratio":
        return math.exp(math.fsum(math.log(value) for value in values) / len(values))
    return math.fsum(values) / len(values)


def _ends(name: str, interval: Interval | None) -> Mapping[str, float | None]:
    return {
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
    }
