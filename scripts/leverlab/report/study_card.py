"""What was measured: the study's factors and levers."""

from typing import Final

from leverlab.config.lever import Lever
from leverlab.config.study import Load
from leverlab.metrics import ERROR_RATIO, parse_metric_reference
from leverlab.report.phrases import joined, load_phrase, metric_phrase, objective_phrase, value_phrase
from leverlab.report.source import StudyData
from leverlab.report.view import Cell, Column, Group, Row, Table
from leverlab.units import format_number, format_seconds

_ASCENDING: Final = (
    "from the lowest up on each server, and none above the first with which it does not keep up: what a server gains or loses "
    "over its lifetime cannot be told from what the rate does"
)

Facts = list[tuple[str, str]]

_AS_ASKED: Final = 1.01
"""Arrivals that come within this factor of the load point's rate need no mention."""

_DESIGNS: Final = {
    "one-at-a-time": "one lever at a time, the others at the baseline",
    "factorial": "every combination of the levers' levels",
}


def study_facts(data: StudyData) -> Facts:
    """Engines, models, GPUs, load, baseline, design, replicates, as the study's file declares them."""
    study, configuration = data.study, data.configuration
    gpus = [
        configuration.gpus[gpu.name].title + (f", {gpu.count} a server" if gpu.count > 1 else "") for gpu in study.gpus
    ]
    models = [f"{name} ({title})" if (title := configuration.models[name].title) else name for name in study.models]
    baseline = [f"{data.titles[lever]} {level}" for lever, level in study.baseline.items()]
    design = study.design if isinstance(study.design, str) else None
    facts = [
        ("Engines", joined(study.engines)),
        ("Models", joined(models)),
        ("GPUs", joined(gpus)),
        ("Load", _load(study.load)),
        *_drawn_rates(data),
        ("Baseline", joined(baseline)),
        ("Design", _DESIGNS.get(design or "", "the treatments that the study names")),
        ("Replicates", f"{study.replicates}, each with new servers and new seeds, compared in pairs"),
        *(
            [("Noise floor", "the baseline is measured twice in each replicate and compared with itself")]
            if study.noise_floor
            else []
        ),
        *([("Order of rates", _ASCENDING)] if study.stop_after_saturation else []),
        ("Cache", _cache_states(data)),
    ]
    if study.objectives:
        said = [
            f"{objective_phrase(name)} at most {f'{value:.3g}' if name == ERROR_RATIO else format_seconds(value)}"
            for name, value in study.objectives.items()
        ]
        facts.append(("Objectives", joined(said)))
    return facts


def _load(load: Load) -> str:
    points = joined([load_phrase(str(point)) for point in load.points()])
    if load.requests:
        told = [f"{number:,} {load_phrase(point)}" for point, number in load.requests.items()]
        points = f"{points}; of requests {joined(told)}"
    if load.minimum_duration is None:
        return points
    return f"{points}; at a rate requests come for {format_seconds(load.minimum_duration)} or longer, and are more where that takes more"


def _cache_states(data: StudyData) -> str:
    """In which states phases begin: the study's own, unless a lever's levels say."""
    levers, study = data.configuration.levers, data.study
    states = dict.fromkeys(
        effect.cache
        for lever, levels in study.levers.items()
        for level in levels
        for engine in study.engines
        if (effect := levers[lever].effect(level, data.configuration.engines[engine].kind)) and effect.cache
    )
    return f"{joined(list(states) or [study.cache], 'or')} at the beginning of each phase"


def _drawn_rates(data: StudyData) -> Facts:
    """What arrived at each rate, by the replicates' draws, where that is not the rate itself."""
    said = []
    drawn = data.valid[data.valid["load_kind"] == "rate"].dropna(subset=["offered_rate"])
    for load, own in drawn.groupby("load", sort=False):
        low, high, asked = own["offered_rate"].min(), own["offered_rate"].max(), own["load_value"].iloc[0]
        if max(high / asked, asked / low) > _AS_ASKED:
            ends = dict.fromkeys(value_phrase("achieved_rate", rate) for rate in (low, high))
            said.append(f"{' to '.join(ends)} {load_phrase(str(load))}")
    return [("Arrived, as drawn", joined(said))] if said else []


def lever_table(data: StudyData) -> Table:
    """A row a lever: its levels, what it does, what is expected."""
    rows = []
    for name, levels in data.study.levers.items():
        lever = data.configuration.levers[name]
        expected = lever.expectation
        shown = ", ".join(f"{level} (baseline)" if level == data.study.baseline[name] else level for level in levels)
        rows.append(
            Row(
                (
                    Cell(lever.title, note=name),
                    Cell(shown),
                    Cell(lever.mechanism),
                    Cell(_expected(lever), note=expected.because if expected else ""),
                )
            )
        )
    columns = (Column("Lever"), Column("Levels"), Column("What it does", "prose"), Column("What is expected", "prose"))
    return Table("levers", "The levers", columns, (Group(tuple(rows)),))


def _expected(lever: Lever) -> str:
    expected = lever.expectation
    if expected is None:
        return "–"
    reference = parse_metric_reference(lever.indicator.metric)
    verb = {"increases": "raises", "decreases": "lowers", "unchanged": "does not move"}[expected.direction]
    size = f", to {format_number(expected.factor)} times its value" if expected.factor else ""
    return f"{expected.of} instead of {expected.against} {verb} {metric_phrase(reference.metric, reference.statistic)}{size}"
