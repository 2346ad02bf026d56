"""Rows of effects.parquet: what each treatment does to each metric, against the study's baseline."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from leverlab.aggregate.answers import Place, changed_answers
from leverlab.aggregate.cautions import Caution, answer_cautions, card_cautions, noise_cautions, provenance_cautions
from leverlab.aggregate.comparisons import Comparison, comparisons, expected_effects
from leverlab.aggregate.pairing import CONTEXT, CellRow, Excluded
from leverlab.config.course import ExpectedAnswer
from leverlab.config.study import Study
from leverlab.load_point import LoadPoint
from leverlab.matrix.expand import StudyMatrix
from leverlab.metrics import FIXED_FACTS, GRAPHS_STATED_TO_GIB, METRICS, SIZES_VARY_BY, parse_metric_reference
from leverlab.metrics import Comparison as Scale
from leverlab.stats.intervals import LEVEL, Interval
from leverlab.stats.multiple import ALPHA, bonferroni_level, holm, holm_levels
from leverlab.stats.noise_floor import noise_floor
from leverlab.stats.paired import Skew
from leverlab.stats.power import minimum_detectable
from leverlab.stats.verdict import LEAST_PAIRS, Judgement, judge
from leverlab.units import format_share

_QUEUED: Final[dict[Skew, str]] = {
    "away": "requests queued, so that such ratios are skewed: the interval reaches further away from no change for it",
    "either way": "requests queued, so that such ratios are skewed: the interval is widened for it",
}
_WHY_LIMIT = 3
_GIB: Final = 2**30

LEFT_OUT: Final = "left out: "
"""What stands in `reason` before the replicates that a verdict had to do without."""

_Quantity = tuple[tuple[str, str, str, int], LoadPoint, str, str | None]
"""Context, load point, metric and statistic."""


@dataclass(frozen=True, slots=True)
class _Family:
    """What the correction for many comparisons says of one comparison; `level` is that of the verdict's interval.

    `corrected`: it is one of those that the correction is for; else it is exploratory, and `size` that of its kind.
    """

    corrected: bool
    size: int
    level: float
    adjusted_p: float | None


@dataclass(frozen=True, slots=True)
class _Copies:
    """The baseline against its copy, in one metric and load point, and whether that is called a difference."""

    comparison: Comparison
    differ: bool


def effect_rows(matrix: StudyMatrix, cells: Sequence[CellRow]) -> list[dict[str, Any]]:
    """All effects of a study from the rows of its cells.parquet, in the order of context, contrast, load and metric.

    Primary comparisons are those of a lever's primary metric and load point with the treatments that change that lever
    alone (all that change it, in a design without such), in every context. Holm corrects for all of them, those that cannot
    be judged yet with p = 1: a verdict found early is not lost when the matrix is complete for the number of tests alone.
    In the same metrics and load points the noise floor, the main effects and the interactions are families of their own, and so is what
    the study's questions expect besides.
    """
    found = list(comparisons(matrix, cells))
    families = _families(found, matrix.study)
    judgements = {id(one): _judgement(one, one.change.interval(families[id(one)].level)) for one in found}
    copies = {
        _quantity(one): _Copies(one, judgements[id(one)].verdict in ("improves", "worsens"))
        for one in found
        if one.contrast.kind == "noise floor"
    }
    changed = changed_answers(matrix, cells)
    conditions: dict[tuple[Any, ...], list[Caution]] = {}
    rows = []
    for one in found:
        left_out = {excluded.replicate for excluded in one.pairing.excluded}
        paired = tuple(key.seed_key for key in matrix.replicates if key.seed_key not in left_out)
        place = (one.context, one.contrast.kind, one.contrast.name, one.load, paired)
        if place not in conditions:
            conditions[place] = [
                *answer_cautions(_of_its_treatments(one, changed)),
                *provenance_cautions(one.sides, paired),
                *card_cautions(one.sides, paired),
            ]
        rows.append(
            _row(matrix, one, families[id(one)], judgements[id(one)], copies.get(_quantity(one)), conditions[place])
        )
    return rows


def _of_its_treatments(comparison: Comparison, changed: Mapping[Place, str]) -> dict[str, str]:
    """Treatment → what was seen of its answers, of those on either side of a comparison."""
    sides = (*comparison.contrast.baseline, *comparison.contrast.treatment)
    places = {each.name: (comparison.context, each.name, str(comparison.load)) for each, _ in sides}
    return {name: changed[place] for name, place in places.items() if place in changed}


def _families(found: Sequence[Comparison], study: Study) -> dict[int, _Family]:
    """By the `id` of each comparison: what Holm's procedure says of it, over the primary metrics of its kind or over all that is expected."""
    kinds: dict[str, list[Comparison]] = defaultdict(list)
    for one in found:
        kinds[one.contrast.kind].append(one)
    families: dict[int, _Family] = {}
    for of_kind in kinds.values():
        members = [one for one in of_kind if one.lever is not None]
        families |= {id(one): _Family(False, len(members), LEVEL, None) for one in of_kind}
        families |= _holm(members)
    asked = [
        answer for question in study.questions for answer in question.answers if isinstance(answer, ExpectedAnswer)
    ]
    return families | _holm(
        [one for one in found if one.lever is None and any(_expects(each, study, one) for each in asked)]
    )


def _holm(members: Sequence[Comparison]) -> dict[int, _Family]:
    # As of those that are not measured yet: what gets no verdict must not rank before what gets one.
    p_values = [one.change.p_value if len(one.change.changes) >= LEAST_PAIRS else None for one in members]
    known = [1.0 if p_value is None else p_value for p_value in p_values]
    return {
        id(one): _Family(True, len(members), level, adjusted if p_value is not None else None)
        for one, p_value, adjusted, level in zip(members, p_values, holm(known), holm_levels(known), strict=True)
    }


def _expects(answer: ExpectedAnswer, study: Study, one: Comparison) -> bool:
    kind, names = expected_effects(answer, study)
    reference = parse_metric_reference(answer.metric)
    return (
        (one.contrast.kind, one.metric, one.statistic) == (kind, reference.metric, reference.statistic)
        and one.contrast.name in names
        and reference.load in (None, one.load)
    )


def _quantity(comparison: Comparison) -> _Quantity:
    return comparison.context, comparison.load, comparison.metric, comparison.statistic


def _row(
    matrix: StudyMatrix,
    comparison: Comparison,
    family: _Family,
    judgement: Judgement,
    copies: _Copies | None,
    conditions: Sequence[Caution],
) -> dict[str, Any]:
    metric, change, pairing = METRICS[comparison.metric], comparison.change, comparison.pairing
    contrast, corrected = comparison.contrast, family.corrected
    interval, decisive = change.interval(), change.interval(family.level)
    together = change.interval(bonferroni_level(family.size)) if corrected else None
    prediction = change.prediction()
    changed = [[lever, level, matrix.study.baseline[lever]] for lever, level in contrast.changed]
    alpha = change.test_level(ALPHA / family.size if corrected else ALPHA)
    floor = noise_floor(copies.comparison.change.changes, len(change.changes), metric.comparison) if copies else None
    cautions = list(conditions)
    if change.skew != "none":
        cautions.append(Caution("requests_queued", _QUEUED[change.skew]))
    if copies and copies.comparison is not comparison:
        cautions += noise_cautions(comparison, judgement.verdict, floor, copies.comparison, copies.differ)
    return {
        **dict(zip(CONTEXT, comparison.context, strict=True)),
        "kind": contrast.kind,
        "treatment": contrast.name,
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
            change.spread,
            len(change.changes),
            metric.comparison,
            alpha,
        )
        if len(change.changes) >= LEAST_PAIRS
        else None,
        "noise_floor": floor,
        "cautions": json.dumps([asdict(caution) for caution in cautions], ensure_ascii=False),
        "pairs": len(change.changes),
        "excluded": json.dumps([asdict(excluded) for excluded in pairing.excluded], ensure_ascii=False),
        "primary": comparison.lever is not None and contrast.kind == "treatment",
        "family": family.size,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
    }


def _judgement(comparison: Comparison, interval: Interval | None) -> Judgement:
    fixed = comparison.metric in FIXED_FACTS
    judgement = _negligible(comparison) or judge(
        comparison.change, interval, METRICS[comparison.metric].better, fixed=fixed
    )
    excluded = comparison.pairing.excluded
    if not excluded:
        return judgement
    left_out = _why(excluded)
    if len(comparison.change.changes) >= 2:
        return Judgement(judgement.verdict, "; ".join(filter(None, (judgement.reason, f"{LEFT_OUT}{left_out}"))))
    if any(item.code == "invalid" for item in excluded):
        return Judgement("invalid", left_out)
    return Judgement("not judgeable", left_out)


def _negligible(comparison: Comparison) -> Judgement | None:
    """The verdict where a size of the server's start moved, in several pairs, by no more than it may with nothing changed."""
    changes = comparison.change.changes
    if comparison.metric not in FIXED_FACTS or len(changes) < LEAST_PAIRS or not any(changes):
        return None
    moved = max(map(abs, changes))
    if comparison.change.comparison == "ratio":
        if moved > math.log1p(SIZES_VARY_BY):
            return None
        told = f"{format_share(SIZES_VARY_BY, 1)}, by which such a size may differ from one start to the next"
    else:
        # A little more, as values in bytes are no round numbers.
        if moved > GRAPHS_STATED_TO_GIB * 1.001 * _GIB:
            return None
        told = f"{GRAPHS_STATED_TO_GIB:g} GiB, the last digit in which the server's log tells it"
    return Judgement("no difference found", f"no pair differs by more than {told}")


def _why(excluded: Sequence[Excluded]) -> str:
    """Who was left out and why: `treatment r1, r2: infeasible: …`."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for item in excluded:
        grouped.setdefault((item.side, item.reason), []).append(item.replicate)
    told = [f"{side} {', '.join(replicates)}: {reason}" for (side, reason), replicates in grouped.items()]
    more = f"; and {len(told) - _WHY_LIMIT} more" if len(told) > _WHY_LIMIT else ""
    return "; ".join(told[:_WHY_LIMIT]) + more


def _mean(values: Sequence[float], comparison: Scale) -> float | None:
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
