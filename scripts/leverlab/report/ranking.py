"""The levers of all studies, ranked by what was found of each, and what that recommends for a model and its GPUs."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from leverlab.config import ConfigError
from leverlab.report.doubts import doubts_in, held_against, mark_phrase
from leverlab.report.effect import Effect
from leverlab.report.findings import primary_effects
from leverlab.report.phrases import context_phrase, joined, levels_phrase, load_phrase, metric_heading, metric_phrase
from leverlab.report.sentences import row_sentence, sure_phrase
from leverlab.report.source import DamagedTableError, StudyData, read_study, rows_of
from leverlab.report.view import Cell, Column, Group, Link, Row, Table, verdict_mark

RANKED: Final[tuple[tuple[str, str | None], ...]] = (
    ("ttft_s", "p50"), ("tpot_s", "p50"), ("throughput", None), ("goodput", None),
)  # fmt: skip
"""The metrics by which levers are ranked, each for itself."""

_RESOLVED: Final = ("improves", "worsens", "no difference found")
_LIMIT: Final = 40
"""Rows of a metric's ranking."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """An effect of one lever alone, at the load point at which its study judges that lever."""

    study: str
    effect: Effect
    titles: dict[str, str]
    gpus: int
    """GPUs that the larger of the two servers takes."""
    cells: tuple[str, ...]
    """The cells that the effect rests on."""
    doubts: tuple[str, ...]
    """What is held against it, as `leverlab.report.doubts.doubts_in` tells it."""
    held_against: str
    """The same in full."""

    @property
    def lever(self) -> str:
        ((lever, _),) = self.effect.changed.items()
        return lever

    @property
    def gain(self) -> float:
        """Logarithm of the improvement at the end of the interval that is nearest to no change; 0 where none was found.

        For a metric that is compared by difference, of (baseline + change) / baseline; infinite from a baseline of 0. A fact that does
        not vary has no interval, and counts as it is.
        """
        effect = self.effect
        end = effect.low if effect.raises else effect.high
        end = effect.estimate if end is None else end
        if not effect.decided or end is None:
            return 0.0
        if not effect.by_ratio:
            if not effect.baseline:
                return math.copysign(math.inf, 1.0 if effect.verdict == "improves" else -1.0)
            end = 1 + end / effect.baseline
        size = abs(math.log(end)) if end > 0 else math.inf
        return size if effect.verdict == "improves" else -size


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the studies found, and what had to be left out."""

    ranked: tuple[Ranked, ...]
    studies: tuple[str, ...]
    simulated: tuple[str, ...]
    unreadable: tuple[str, ...]
    unresolved: int
    """Comparisons that are invalid, or rest on too few pairs."""


def ranking(data: StudyData) -> Ranking:
    """What was found in every study that has tables below results/."""
    configuration, layout = data.configuration, data.layout
    found: list[StudyData] = []
    unreadable: list[str] = []
    for name in [*configuration.study_names(), *configuration.smoke_names()]:
        if not (layout.study(name) / "effects.parquet").is_file():
            continue
        try:
            found.append(read_study(name, configuration, layout))
        except (ConfigError, FileNotFoundError, DamagedTableError):
            unreadable.append(name)
    return ranking_of(found, unreadable)


def ranking_of(studies: Sequence[StudyData], unreadable: Sequence[str] = ()) -> Ranking:
    """The effects of single levers of the server in `studies`, without those of simulated engines; `unreadable` is said beside them."""
    real = [study for study in studies if not study.simulated]
    found: list[Ranked] = []
    unresolved = 0
    for study in real:
        own = list(_single(study))
        found += [_ranked(study, effect) for effect in own if effect.verdict in _RESOLVED]
        unresolved += sum(effect.verdict not in _RESOLVED and effect.primary for effect in own)
    simulated = [study.name for study in studies if study.simulated]
    return Ranking(tuple(found), tuple(study.name for study in real), tuple(simulated), tuple(unreadable), unresolved)


def _single(study: StudyData) -> Iterable[Effect]:
    """Effects of treatments that change one lever, in the ranked metrics and the primary one, where the lever is judged."""
    judged = {(e.context, e.treatment, e.load) for e in primary_effects(study) if len(e.changed) == 1}
    wanted = set(RANKED)
    return [
        effect
        for effect in study.effects
        if (effect.context, effect.treatment, effect.load) in judged
        and (effect.primary or (effect.metric, effect.statistic) in wanted)
        and _is_of_the_server(study, effect)
    ]


def _is_of_the_server(study: StudyData, effect: Effect) -> bool:
    """Whether the lever is a setting of the server: who asks, what, and of which model, no configuration can choose."""
    kind = study.configuration.engines[effect.engine].kind
    ((lever, levels),) = effect.changed.items()
    sets = [study.configuration.levers[lever].effect(level, kind) for level in levels]
    return not any(each and (each.client or each.cache or each.model or each.workload or each.request) for each in sets)


def _ranked(study: StudyData, effect: Effect) -> Ranked:
    rows = rows_of(pd.concat(study.sides_of(effect)))
    return Ranked(
        study.name, effect, study.titles, max((_gpus(row) for row in rows), default=effect.gpu_count),
        tuple(dict.fromkeys(str(row["cell"]) for row in rows)), doubts_in(study)(effect), held_against(effect, study),
    )  # fmt: skip


def _gpus(row: dict[str, Any]) -> int:
    return int(json.loads(row["specification"]).get("server", {}).get("gpu", {}).get("count", row["gpu_count"]))


def ranking_tables(found: Ranking) -> list[Table]:
    """A table a metric: the largest sure effect first, whichever of its levels is the baseline; last where no difference was found."""
    tables = []
    for metric, statistic in RANKED:
        own = [one for one in found.ranked if (one.effect.metric, one.effect.statistic) == (metric, statistic)]
        own.sort(key=lambda one: -abs(one.gain))
        if not own:
            continue
        columns = (
            Column("Lever"), Column("Where", "prose"), Column("Change (its interval)", "number"), Column("Sure of it", "number"),
            Column("Verdict", "short"),
        )  # fmt: skip
        heading = metric_heading(metric, statistic)
        more = f" The last {len(own) - _LIMIT} are left out." if len(own) > _LIMIT else ""
        note = (
            "By the end of the interval that is nearest to no change, the sure part of each effect, whichever level is its study's baseline. Every lever at the load point at which its study judges it; "
            f"where this is not the metric it is judged by, the verdict is exploratory, and among many some are chance.{more}"
        )
        tables.append(
            Table(f"ranking-{metric}", f"Levers by {heading}", columns, (Group(tuple(map(_row, own[:_LIMIT]))),), note)
        )
    return tables


def _row(one: Ranked) -> Row:
    effect = one.effect
    place = f"{context_phrase(*effect.context)}, {load_phrase(effect.load)}"
    return Row(
        (
            Cell(levels_phrase(effect.changed, one.titles)),
            Cell(f"{place}, in ", links=(Link(f"{one.study}.html", one.study),)),
            Cell(row_sentence(effect)),
            Cell(sure_phrase(effect)),
            Cell(
                f"{'primary' if effect.primary else 'exploratory'}{', marked' if one.doubts else ''}",
                verdict_mark(effect.verdict),
                note=one.held_against,
            ),
        ),
        primary=effect.primary,
    )


def ranking_sentences(found: Ranking, most: int) -> Iterator[str]:
    """The `most` levers of the largest sure effects on what each is judged by, a sentence each; then what the order cannot say.

    A lever counts once, by its largest. One whose metric begins at 0 has no factor and is not among them.
    """
    own = [one for one in found.ranked if one.effect.primary and one.effect.decided and math.isfinite(one.gain)]
    largest: dict[str, Ranked] = {}
    for one in sorted(own, key=lambda one: -abs(one.gain)):
        largest.setdefault(one.lever, one)
    if not largest:
        yield "Not answered: no primary comparison of a real engine has a verdict that says in which direction its metric moved."
        return
    for place, one in enumerate([*largest.values()][:most], 1):
        effect = one.effect
        yield (
            f"{place}. {levels_phrase(effect.changed, one.titles)} {effect.verdict} {metric_phrase(effect.metric, effect.statistic)} "
            f"{load_phrase(effect.load)} ({context_phrase(*effect.context)}), {row_sentence(effect)}, for sure {sure_phrase(effect)}, "
            f"in {one.study}{mark_phrase(one.doubts)}."
        )
    levers = "1 lever" if len(largest) == 1 else f"{len(largest)} levers"
    yield (
        f"Of {levers} of which an effect was found on what each is judged by, by the factor that is sure. Each is of its own metric, load and "
        "workload: another one has another order."
    )


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What the verdicts say for an engine, a model and as many GPUs: a heading, and a sentence a lever."""

    title: str
    sentences: tuple[str, ...]
    cells: tuple[str, ...]
    """The cells that the advice rests on."""


def recommendations(found: Ranking) -> list[Recommendation]:
    """For every engine, model, GPU and number of GPUs that was measured, smallest number first."""
    places: dict[tuple[str, str, str], list[Ranked]] = {}
    for one in found.ranked:
        if one.effect.primary:
            places.setdefault(one.effect.context[:3], []).append(one)
    advice = []
    for (engine, model, gpu), own in places.items():
        for count in sorted({one.gpus for one in own}):
            fitting = [one for one in own if one.gpus <= count]
            advice.append(_advice(context_phrase(engine, model, gpu, count), fitting))
    return advice


def _advice(title: str, own: Sequence[Ranked]) -> Recommendation:
    """A sentence for each lever of which something was found, whichever of the two levels the study has as its baseline.

    Of several levels that improve what the lever is judged by, the one of the largest sure improvement; a level that another
    comparison calls worse is not advised.
    """
    sentences: list[str] = []
    undecided: list[str] = []
    cells: list[str] = []
    for lever in dict.fromkeys(one.lever for one in own):
        better = [one for one in own if one.lever == lever and one.effect.verdict == "improves"]
        worse = [one for one in own if one.lever == lever and one.effect.verdict == "worsens"]
        refuted = {_level(one) for one in worse}
        sure = [one for one in better if _level(one) not in refuted]
        if not better and not worse:
            of_lever = [one for one in own if one.lever == lever]
            marked = ", marked" if any(one.doubts for one in of_lever) else ""
            undecided.append(f"{of_lever[0].titles[lever]} (no difference found{marked})")
        elif better and not sure:
            undecided.append(
                f"{levels_phrase(better[0].effect.changed, better[0].titles)} (better in one comparison, worse in another)"
            )
        else:
            best = max(sure, key=lambda one: one.gain) if sure else min(worse, key=lambda one: one.gain)
            sentences.append(_recommended(best))
            cells += best.cells
    if not sentences:
        sentences.append(f"No recommendation: {_counted(own)} and nothing resolved.")
    elif len(sentences) > 1:
        sentences.append("Each was measured alone. Whether two stack is tested only where a study crosses them.")
    if undecided:
        sentences.append(f"Undecided: {joined(undecided)}.")
    return Recommendation(title, tuple(sentences), tuple(dict.fromkeys(cells)))


def _level(one: Ranked) -> str:
    return one.effect.changed[one.lever][0]


def _recommended(one: Ranked) -> str:
    """The better level, why, and where that was seen."""
    effect = one.effect
    level, base = effect.changed[one.lever]
    advised, against = (level, base) if effect.verdict == "improves" else (base, level)
    metric = metric_phrase(effect.metric, effect.statistic)
    return (
        f"{one.titles[one.lever]} {advised}, not {against}: {level} {effect.verdict} {metric} {load_phrase(effect.load)}, {row_sentence(effect)}, "
        f"for sure {sure_phrase(effect)}, in {effect.pairs} pairs of {one.study}{mark_phrase(one.doubts)}."
    )


def _counted(own: Sequence[Ranked]) -> str:
    return "1 verdict" if len(own) == 1 else f"{len(own)} verdicts"


def ranking_note(found: Ranking) -> str:
    """Which studies were read, and what was left out."""
    said = [f"From {_names(found.studies)}." if found.studies else "No study with a real engine has results yet."]
    if found.simulated:
        said.append(f"Left out as simulated: {_names(found.simulated)}.")
    if found.unreadable:
        said.append(f"Left out as their files are not in order: {_names(found.unreadable)}.")
    if found.unresolved:
        have = "comparison has" if found.unresolved == 1 else "comparisons have"
        said.append(
            f"{found.unresolved} primary {have} no verdict (invalid cells, or too few pairs) and are not ranked."
        )
    return " ".join(said)


def _names(names: Sequence[str]) -> str:
    return joined(list(names))
