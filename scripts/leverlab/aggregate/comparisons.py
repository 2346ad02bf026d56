"""What a study compares with what: treatments, the baseline's copy, and the contrasts of a factorial design.

Each comparison belongs to a kind. A *treatment* against the baseline is what a study is about. The *noise floor* is the
baseline's copy against the baseline. Where levers are crossed, a *main effect* is what one level changes on average over all
levels of the other crossed levers, a *simple effect* is what it changes at one level of another lever (only where a question of
the study asks for it), and an *interaction* is by how much two levels together change more than each alone
would have (Box, Hunter and Hunter, Statistics for Experimenters, 2nd edition, §5.5): of ratios it is a ratio of ratios.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from leverlab.aggregate.pairing import CellRow, Pairing, Place, Weighed, pair
from leverlab.aggregate.schema import metric_column, metric_keys
from leverlab.config.course import EffectAnswer, ExpectedAnswer
from leverlab.config.study import Explicit, Factorial, Study
from leverlab.load_point import LoadPoint
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyMatrix
from leverlab.matrix.treatments import Treatment
from leverlab.metrics import METRICS, MetricReference, comparable
from leverlab.metrics.classes import class_and_metric
from leverlab.stats.paired import PairedChange, Skew, paired_change

Context = tuple[str, str, str, int]
"""Engine, model, GPU and number of GPUs."""

Kind = Literal["treatment", "noise floor", "main effect", "interaction", "simple effect"]


QUEUED_SPREAD: Final = 3.0
"""p95 ÷ p50 of ttft_s from which on requests are said to have queued."""

QUEUEING_STATISTICS: Final = frozenset(
    (metric, statistic) for metric in ("ttft_s", "ttft_service_s", "e2e_s") for statistic in ("mean", "p50")
)
"""What a queue makes skewed, of a class of requests too. Far percentiles are of requests that queued in every replicate, and are not."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """The two sides of a comparison, as treatments with their weights. `changed` says which levels stand for it."""

    kind: Kind
    name: str
    changed: tuple[tuple[str, str], ...]
    baseline: tuple[tuple[Treatment, float], ...]
    treatment: tuple[tuple[Treatment, float], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One contrast, load point and metric in one context, before it is judged.

    `lever` is the one whose primary metric and load point these are, where the contrast is about that lever; for the noise
    floor any lever's. `sides` are the places that the pairing took its values from.
    """

    context: Context
    contrast: Contrast
    load: LoadPoint
    metric: str
    statistic: str | None
    lever: str | None
    pairing: Pairing
    change: PairedChange
    sides: tuple[tuple[Weighed, ...], tuple[Weighed, ...]]


def comparisons(matrix: StudyMatrix, cells: Sequence[CellRow]) -> Iterator[Comparison]:
    """All of a study, from the rows of its cells.parquet, in the order of context, contrast, load point and metric."""
    places: dict[tuple[Context, str, str], dict[str, CellRow]] = {}
    for row in cells:
        context: Context = (row["engine"], row["model"], row["gpu"], row["gpu_count"])
        # A copy of the baseline is paired with the replicate whose seeds it has.
        replicate = ReplicateKey.parse(row["replicate"]).seed_key
        places.setdefault((context, row["treatment"], row["load"]), {})[replicate] = row
    replicates = [replicate.seed_key for replicate in matrix.replicates]
    treatments = list(dict.fromkeys(entry.treatment for entry in matrix.cells))
    loads = list(dict.fromkeys(entry.load for entry in matrix.cells))
    asked = {(entry.treatment, entry.load) for entry in matrix.cells}
    found = contrasts(matrix.study, treatments)
    for context in dict.fromkeys(place[0] for place in places):
        for contrast, load in itertools.product(found, loads):
            if not all((each, load) in asked for each, _ in (*contrast.baseline, *contrast.treatment)):
                continue  # an offline batch has no rates
            sides = tuple(
                tuple(Weighed(_place(places, context, treatment, load), weight) for treatment, weight in side)
                for side in (contrast.baseline, contrast.treatment)
            )
            before, after = sides
            queued = requests_queued(sides, replicates, load)
            for metric, statistic in metric_keys():
                if not comparable(metric, load):
                    continue
                comparison = METRICS[metric].comparison
                pairing = pair(before, after, replicates, metric_column(metric, statistic), comparison)
                yield Comparison(
                    context,
                    contrast,
                    load,
                    metric,
                    statistic,
                    _lever(matrix.primary, treatments, contrast, MetricReference(metric, statistic, load)),
                    pairing,
                    paired_change(
                        pairing.baseline,
                        pairing.treatment,
                        comparison,
                        skew=skew(contrast.kind, queued, metric, statistic),
                    ),
                    (before, after),
                )


def requests_queued(sides: Sequence[Sequence[Weighed]], replicates: Sequence[str], load: LoadPoint) -> bool:
    """Whether, at a rate, waiting decides what the median request sees on one side of a comparison.

    A queue builds up in some replicates and not in others, so that ratios of such times are skewed. It shows in the spread of
    ttft_s within the cells, of which the p95 is many times the median; and where every request waits, in half of the cells
    being beyond the knee.
    """
    if load.kind != "rate":
        return False
    for side in sides:
        rows = [part.place[replicate] for part in side for replicate in replicates if replicate in part.place]
        ratios = [
            row["ttft_s_p95"] / row["ttft_s_p50"] for row in rows if row.get("ttft_s_p95") and row.get("ttft_s_p50")
        ]
        if ratios and median(ratios) >= QUEUED_SPREAD:
            return True
        if rows and 2 * sum(row.get("beyond_knee") is True for row in rows) >= len(rows):
            return True
    return False


def skew(kind: Kind, queued: bool, metric: str, statistic: str | None) -> Skew:
    """Where the changes of a metric are skewed, by whether requests queued.

    A lever that does nothing leaves both sides of a pair alike, and with them the changes symmetric. Levers that each do
    something but do not interact leave no such symmetry.
    """
    of_class = class_and_metric(metric)
    if not queued or (metric if of_class is None else of_class[1], statistic) not in QUEUEING_STATISTICS:
        return "none"
    return "either way" if kind == "interaction" else "away"


def contrasts(study: Study, treatments: Sequence[Treatment]) -> list[Contrast]:
    """What the study's `treatments` are compared by, the plain ones first; none where the baseline is not measured."""
    baseline = next((treatment for treatment in treatments if treatment.is_baseline), None)
    if baseline is None:
        return []
    plain = [
        Contrast(
            "noise floor" if treatment.copy else "treatment",
            treatment.name,
            treatment.changed,
            ((baseline, 1.0),),
            ((treatment, 1.0),),
        )
        for treatment in treatments
        if treatment is not baseline
    ]
    return [*plain, *_factorial(study, treatments), *_simple(study, treatments)]


def simple_effect_name(lever: str, level: str, each: str, place: str) -> str:
    """How the effect of `lever`=`level` where `each` is at `place` is called."""
    return f"{lever}={level} at {each}={place}"


def expected_effects(answer: ExpectedAnswer, study: Study) -> tuple[Kind, frozenset[str]]:
    """The kind and the possible names of the comparisons that `answer` speaks of: of two levels one is the baseline's."""
    levels = (answer.of, answer.against)
    for each, place in answer.where.items():
        if place != study.baseline.get(each):
            return "simple effect", frozenset(simple_effect_name(answer.lever, one, each, place) for one in levels)
    return "treatment", frozenset(f"{answer.lever}={one}" for one in levels)


def _simple(study: Study, treatments: Sequence[Treatment]) -> Iterator[Contrast]:
    """The simple effects that questions ask for; at the baseline's own level of `each` the plain treatment is that."""
    known = {treatment.levels: treatment for treatment in treatments if not treatment.copy}

    def at(chosen: Mapping[str, str]) -> Treatment | None:
        return known.get(tuple((name, {**study.baseline, **chosen}[name]) for name in study.levers))

    for lever, each in dict.fromkeys(_asked_at(study)):
        if lever not in study.levers or each not in study.levers:
            continue  # a smaller size of the study may leave a lever out
        places, levels = (
            [level for level in study.levers[name] if level != study.baseline[name]] for name in (each, lever)
        )
        for place, level in itertools.product(places, levels):
            before, after = at({each: place}), at({each: place, lever: level})
            if before is not None and after is not None:
                name = simple_effect_name(lever, level, each, place)
                yield Contrast("simple effect", name, ((lever, level),), ((before, 1.0),), ((after, 1.0),))


def _asked_at(study: Study) -> Iterator[tuple[str, str]]:
    """The levers whose effect is asked for at levels of another one, each with that."""
    for answer in (answer for question in study.questions for answer in question.answers):
        if isinstance(answer, EffectAnswer) and answer.each is not None:
            yield answer.lever, answer.each
        if isinstance(answer, ExpectedAnswer):
            yield from ((answer.lever, each) for each in answer.where)


def crossed_levers(study: Study) -> list[str]:
    """The levers of which the design measures every combination of levels, where there are at least two."""
    if study.design == "factorial":
        names = list(study.levers)
    elif isinstance(study.design, Factorial):
        names = list(study.design.factorial)
    else:
        assert study.design == "one-at-a-time" or isinstance(study.design, Explicit)
        return []
    several = [name for name in names if len(study.levers[name]) > 1]
    return several if len(several) > 1 else []


def _factorial(study: Study, treatments: Sequence[Treatment]) -> Iterator[Contrast]:
    levers = crossed_levers(study)
    # By the levels of the crossed levers; the others stay at the baseline.
    known = {tuple(dict(one.levels)[name] for name in levers): one for one in treatments if not one.copy}

    def averaged(fixed: Mapping[str, str]) -> list[tuple[Treatment, float]]:
        """The treatments at the levels `fixed`, over all levels of the other crossed levers."""
        choices = [[fixed[name]] if name in fixed else study.levers[name] for name in levers]
        chosen = list(itertools.product(*choices))
        return [(known[levels], 1 / len(chosen)) for levels in chosen]

    other = {name: [level for level in study.levers[name] if level != study.baseline[name]] for name in levers}
    for name in levers:
        for level in other[name]:
            yield Contrast(
                "main effect",
                f"{name}={level}",
                ((name, level),),
                tuple(averaged({name: study.baseline[name]})),
                tuple(averaged({name: level})),
            )
    for one, two in itertools.combinations(levers, 2):
        for first, second in itertools.product(other[one], other[two]):
            neither = averaged({one: study.baseline[one], two: study.baseline[two]})
            alone = averaged({one: first, two: study.baseline[two]}) + averaged({one: study.baseline[one], two: second})
            yield Contrast(
                "interaction",
                f"{one}={first} × {two}={second}",
                ((one, first), (two, second)),
                (*alone, *((treatment, -weight) for treatment, weight in neither)),
                tuple(averaged({one: first, two: second})),
            )


def _place(
    places: Mapping[tuple[Context, str, str], Place], context: Context, treatment: Treatment, load: LoadPoint
) -> Place:
    return places.get((context, treatment.name, str(load)), {})


def _lever(
    primary: Sequence[tuple[str, MetricReference]],
    treatments: Sequence[Treatment],
    contrast: Contrast,
    reference: MetricReference,
) -> str | None:
    """The lever that makes a comparison one of its kind's family; primary are treatments that change the lever alone.

    (All that change it, in a design without such.)
    """
    for lever, stated in primary:
        if stated != reference:
            continue
        if contrast.kind == "noise floor":
            return lever
        if lever not in dict(contrast.changed):
            continue
        changing = [treatment.changed for treatment in treatments if lever in dict(treatment.changed)]
        alone = [changed for changed in changing if len(changed) == 1]
        if contrast.kind != "treatment" or contrast.changed in (alone or changing):
            return lever
    return None
