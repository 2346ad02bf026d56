"""Before and after: one table a treatment and context, and the models and GPUs side by side."""

from collections.abc import Sequence
from itertools import groupby

from leverlab.metrics import METRICS
from leverlab.report.effect import Doubts, Effect
from leverlab.report.phrases import (
    context_phrase,
    levels_phrase,
    load_heading,
    load_order,
    load_phrase,
    metric_heading,
    value_phrase,
)
from leverlab.report.sentences import Telling, level_phrase, row_sentence
from leverlab.report.view import Cell, Column, Group, Mark, Row, Table, verdict_mark
from leverlab.stats.intervals import LEVEL

MAIN: tuple[tuple[str, str | None], ...] = (
    ("ttft_s", "p50"),
    ("ttft_s", "p95"),
    ("tpot_s", "p50"),
    ("e2e_s", "p50"),
    ("throughput", None),
    ("goodput", None),
    ("cache_hit_ratio", None),
)
"""The metrics that every before/after table shows; a study's primary ones are added, the others stand behind them."""


def is_main(effect: Effect, primary: set[tuple[str, str | None]]) -> bool:
    """Whether an effect stands in the first table of its treatment."""
    return (effect.metric, effect.statistic) in {*MAIN, *primary}


def before_after(
    identifier: str, effects: Sequence[Effect], telling: Telling, doubts: Doubts, caption: str, note: str = ""
) -> Table:
    """A row a metric and load point: baseline, treatment, change with its interval, verdict. `effects` share treatment and context.

    `doubts`: what is held against a primary effect, which stands in its row.
    """
    columns = _columns("Metric", effects[0], telling)
    ordered = sorted(effects, key=lambda effect: (load_order(effect.load), _metric_order(effect)))
    groups = tuple(
        Group(tuple(_row(effect, telling, doubts) for effect in own), load_heading(load))
        for load, own in groupby(ordered, key=lambda effect: effect.load)
    )
    return Table(identifier, caption, columns, groups, note)


def side_by_side(identifier: str, effects: Sequence[Effect], telling: Telling, doubts: Doubts, caption: str) -> Table:
    """One primary metric of one treatment over contexts: a row an engine, model and GPU."""
    columns = _columns("Where", effects[0], telling)
    rows = tuple(
        Row((Cell(context_phrase(*effect.context)), *_row(effect, telling, doubts).cells[1:])) for effect in effects
    )
    return Table(identifier, caption, columns, (Group(rows),))


def crossed_table(
    identifier: str,
    effects: Sequence[Effect],
    asked: set[tuple[str, str | None, str]],
    telling: Telling,
    doubts: Doubts,
) -> Table:
    """Main effects and interactions in the metrics, statistics and load points `asked`: a row each, in a group a metric."""
    own = [effect for effect in effects if (effect.metric, effect.statistic, effect.load) in asked]
    groups = []
    for metric, statistic, load in dict.fromkeys((e.metric, e.statistic, e.load) for e in own):
        rows = tuple(
            Row((
                Cell(_contrast(effect, telling)),
                Cell(effect.kind),
                Cell(row_sentence(effect), note=_level_note(effect)),
                Cell(mark=verdict_mark(effect.verdict, telling.simulated), note=_verdict_note(effect, doubts)),
            ))
            for effect in own
            if (effect.metric, effect.statistic, effect.load) == (metric, statistic, load)
        )  # fmt: skip
        groups.append(Group(rows, f"{metric_heading(metric, statistic)} {load_phrase(load)}"))
    columns = (
        Column("Levels"),
        Column("What", "short"),
        Column("Change (95 % interval)", "number"),
        Column("Verdict", "short"),
    )
    note = (
        "A main effect is the change on average over all levels of the other levers. An interaction is by how much the two together change "
        "more than each alone would have: a ratio of ratios, 1 where their effects multiply. Main effects and interactions are corrected (Holm) "
        "for their numbers, each kind for itself."
    )
    return Table(identifier, "What crossed levers do on average, and together", columns, tuple(groups), note)


def _contrast(effect: Effect, telling: Telling) -> str:
    where = f" ({context_phrase(*effect.context)})" if telling.several_contexts else ""
    return f"{levels_phrase(effect.changed, telling.titles)}{where}"


def treatment_title(effect: Effect, telling: Telling) -> str:
    """The heading of a treatment's part: what it changes, and where, when there are several contexts."""
    title = levels_phrase(effect.changed, telling.titles)
    return f"{title}: {context_phrase(*effect.context)}" if telling.several_contexts else title


def _row(effect: Effect, telling: Telling, doubts: Doubts) -> Row:
    mark = verdict_mark(effect.verdict, telling.simulated)
    if not effect.primary:
        mark = Mark(mark.symbol, f"{mark.word} (exploratory)", "quiet")
    return Row(
        (
            Cell(metric_heading(effect.metric, effect.statistic)),
            Cell(value_phrase(effect.metric, effect.baseline)),
            Cell(value_phrase(effect.metric, effect.value)),
            Cell(row_sentence(effect), note=_level_note(effect)),
            Cell(
                "primary" if effect.primary else "",
                mark,
                note=_verdict_note(effect, doubts) if effect.primary else effect.reason,
            ),
        ),
        primary=effect.primary,
    )


def _columns(first: str, effect: Effect, telling: Telling) -> tuple[Column, ...]:
    baseline, treatment = _level_names(effect, telling)
    return (
        Column(first),
        Column(baseline, "number"),
        Column(treatment, "number"),
        Column("Change (95 % interval)", "number"),
        Column("Verdict", "short"),
    )


def _verdict_note(effect: Effect, doubts: Doubts) -> str:
    """Why the verdict is no other, and what is held against it."""
    held = doubts(effect)
    return "; ".join([*([effect.reason] if effect.reason else []), *([f"marked: {'; '.join(held)}"] if held else [])])


def _level_note(effect: Effect) -> str:
    """The interval's level where it is not the column's."""
    return "" if effect.level in (None, LEVEL) else level_phrase(effect)


def _level_names(effect: Effect, telling: Telling) -> tuple[str, str]:
    """Headings of the two value columns: the levels that are compared."""
    if len(effect.changed) != 1:
        return "Baseline", "Treatment"
    ((_, (level, base)),) = effect.changed.items()
    return f"Baseline: {base}", f"Treatment: {level}"


def _metric_order(effect: Effect) -> tuple[int, int]:
    statistics = METRICS[effect.metric].statistics
    return (
        list(METRICS).index(effect.metric),
        statistics.index(effect.statistic) if effect.statistic in statistics else 0,
    )
