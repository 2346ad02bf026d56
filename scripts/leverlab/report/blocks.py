"""Figures with their legends and captions: curves, heatmaps, side by side, timeline."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from leverlab.report.doubts import doubts_in
from leverlab.report.effect import Effect
from leverlab.report.effect_tables import side_by_side
from leverlab.report.figures.axes import Series
from leverlab.report.figures.curves import latency_panel, offered_achieved, pareto
from leverlab.report.figures.forest import forest
from leverlab.report.figures.heatmap import effect_heatmap
from leverlab.report.figures.timeline import DOTS_LIMIT, timeline
from leverlab.report.findings import primary_effects
from leverlab.report.looks import look
from leverlab.report.phrases import (
    context_phrase,
    levels_phrase,
    load_heading,
    load_phrase,
    metric_heading,
    value_phrase,
)
from leverlab.report.source import StudyData, rows_of
from leverlab.report.view import FigureBlock, LegendEntry, Table

LATENCIES: Final = tuple(
    (metric, statistic) for metric in ("ttft_s", "tpot_s", "e2e_s") for statistic in ("p50", "p95", "p99")
)
MAPPED: Final = (("ttft_s", "p50"), ("ttft_s", "p95"), ("tpot_s", "p50"), ("e2e_s", "p50"), ("throughput", None))
_ONE_LOAD: Final = (
    "There are fewer than two load points with values, so that no curve can be drawn; the tables hold the numbers."
)
CURVES_LIMIT: Final = 900_000
HEATMAPS_LIMIT: Final = 250_000
"""Characters of drawings after which no further engine × model × GPU is drawn: a page stays below 3 MB, and the tables hold all."""


@dataclass(frozen=True, slots=True)
class Part:
    """A titled figure, with a table where there is one."""

    title: str
    figure: FigureBlock
    table: Table | None = None


def curves(data: StudyData) -> tuple[list[Part], str]:
    """Latency, saturation and throughput against per-user speed, a set of figures a context; and what is left out."""
    return _within(CURVES_LIMIT, data, (_curves_of(data, place) for place in range(len(data.contexts))))


def heatmaps(data: StudyData) -> tuple[list[Part], str]:
    """Treatment × load point for the main metrics, a set a context; and what is left out."""
    return _within(HEATMAPS_LIMIT, data, (_heatmap_of(data, place) for place in range(len(data.contexts))))


def _within(limit: int, data: StudyData, sets: Iterator[list[Part]]) -> tuple[list[Part], str]:
    """The parts of as many contexts as `limit` characters hold, at least one; a sentence where that is not all."""
    parts: list[Part] = []
    for shown, own in enumerate(sets, start=1):
        parts += own
        if sum(len(panel) for part in parts for panel in part.figure.panels) > limit and shown < len(data.contexts):
            return (
                parts,
                f"Drawn for the first {shown} of {len(data.contexts)} combinations of engine, model and GPU; the study's tables hold all.",
            )
    return parts, ""


def _curves_of(data: StudyData, place: int) -> list[Part]:
    context = data.contexts[place]
    cells = data.of_context(context)
    cells = cells[~cells["treatment"].isin([name for name, treatment in data.treatments.items() if treatment.copy])]
    where = f": {context_phrase(*context)}" if len(data.contexts) > 1 else ""
    parts, unpaired = [], _unpaired(cells)
    for number, (about, names) in enumerate(data.series_sets(set(cells["treatment"]))):
        series = [Series(name, data.label(name), position) for position, name in enumerate(names)]
        title, key, entries = f"{where}{about}", f"c{place}-{number}", legend(series)
        panels = [
            latency_panel(cells, series, metric, statistic, f"{key}-{metric}-{statistic}")
            for metric, statistic in LATENCIES
        ]
        parts.append(Part(f"Latency over the load{title}", FigureBlock(
            _there(panels),
            "where waiting begins to grow as the load does, and for whom: the median user, one in twenty, one in a hundred. "
            f"Lines join the means of the replicates, small marks are the replicates{_burst(cells)}.{_beyond(cells)}",
            f"what happens between the load points, and how sure a percentile is: it rests on the slowest few requests.{unpaired}",
            _ONE_LOAD, entries,
        )))  # fmt: skip
        parts.append(Part(f"Saturation{title}", FigureBlock(
            _there([offered_achieved(cells, series, f"{key}-rate")]),
            "at which rate the server no longer keeps up. Below the dotted line requests pile up for as long as the load lasts. "
            f"Small marks are the replicates, each at the rate that arrived in its draw.{_beyond(cells)}",
            f"how long the server could have gone on: a short phase ends before the queue shows its full length.{unpaired}",
            _rates_sentence(cells, series), entries, "single",
        )))  # fmt: skip
        parts.append(Part(f"Throughput against per-user speed{title}", FigureBlock(
            _there([pareto(cells, series, f"{key}-pareto")]),
            f"what each user pays for serving more of them. A curve further up and to the right is better at every trade; {_points(cells)}.",
            f"how long a user waits for the first token, which is in neither axis.{_arrived(cells)}{unpaired}",
            _ONE_LOAD, entries, "single",
        )))  # fmt: skip
    return parts


def _heatmap_of(data: StudyData, place: int) -> list[Part]:
    context = data.contexts[place]
    labels = {name: data.label(name) for name, treatment in data.treatments.items() if treatment.changed}
    own = [effect for effect in data.effects if effect.context == context]
    if not own:
        return []
    panels = [
        effect_heatmap(own, metric, statistic, labels, f"h{place}-{metric}-{statistic}") for metric, statistic in MAPPED
    ]
    block = FigureBlock(
        _there(panels),
        "where in the load a lever acts, and what it costs elsewhere. Each field holds the ratio of treatment to baseline; its shade, from orange "
        "(worse) to blue (better), grows with the logarithm of the ratio. A field says unclear where its verdict is neither better nor worse, and in the noise where the baseline differs from its own copy by as much.",
        "how sure a single field is: apart from the primary metrics these are exploratory, and among many fields some stand out by chance.",
        "No ratio could be computed: no treatment and baseline have one of these metrics in the same replicate.",
    )
    return [Part(context_phrase(*context) if len(data.contexts) > 1 else "", block)]


def side_by_side_parts(data: StudyData) -> list[Part]:
    """Each primary effect over engines, models and GPUs; nothing where a study has one context."""
    if len(data.contexts) < 2:
        return []
    groups: dict[tuple[str, str, str | None, str], list[Effect]] = {}
    for effect in primary_effects(data):
        groups.setdefault((effect.treatment, effect.metric, effect.statistic, effect.load), []).append(effect)
    parts = []
    for number, ((_, metric, statistic, load), effects) in enumerate(groups.items()):
        title = (
            f"{levels_phrase(effects[0].changed, data.titles)}: {metric_heading(metric, statistic)} {load_phrase(load)}"
        )
        drawn = forest(
            [
                (
                    f"{effect.model}\n{effect.gpu if effect.gpu_count == 1 else f'{effect.gpu_count} × {effect.gpu}'}, {effect.engine}",
                    effect,
                )
                for effect in effects
            ],
            f"side{number}",
        )
        block = FigureBlock(
            _there([drawn]), "whether the lever's effect is the same on every model and GPU.",
            "why it differs: models and GPUs differ in more than one respect.", "The effects could not be drawn; the table holds what there is.", (), "single",
        )  # fmt: skip
        parts.append(
            Part(title, block, side_by_side(f"side-table-{number}", effects, data.telling, doubts_in(data), title))
        )
    return parts


def timeline_block(data: StudyData) -> FigureBlock:
    """The cell of the clearest primary effect and its baseline, over time, in the first replicate that has both."""
    thinned, panels, where = False, [], ""
    for effect in sorted(primary_effects(data), key=lambda effect: not effect.decided):
        own = data.of_context(effect.context)
        own = own[own["load"] == effect.load]
        baseline = next(iter(data.treatments))
        for replicate in sorted(own["replicate"].unique()):
            rows = {row["treatment"]: row for row in rows_of(own[own["replicate"] == replicate])}
            folders = [data.cell_folder(rows[name]) for name in (baseline, effect.treatment) if name in rows]
            if len(folders) < 2 or not all((folder / "chunks.parquet").is_file() for folder in folders):
                continue
            for name, folder, key in zip((baseline, effect.treatment), folders, ("before", "after"), strict=True):
                metrics = folder / "server_metrics.parquet"
                server = pq.read_table(metrics).to_pandas() if metrics.is_file() else None
                drawn = timeline(
                    pq.read_table(folder / "chunks.parquet").to_pandas(), server, data.label(name), f"timeline-{key}"
                )
                if drawn is not None:
                    panels.append(drawn.figure)
                    thinned |= drawn.thinned
            where = f"{load_heading(effect.load)}, {replicate}" + (
                f", {context_phrase(*effect.context)}" if len(data.contexts) > 1 else ""
            )
            break
        if panels:
            break
    note = f" Of more than {DOTS_LIMIT} gaps the longest of each stretch of time are drawn." if thinned else ""
    return FigureBlock(
        tuple(panels),
        f"what a server did while it was measured ({where}): each dot is a gap between two chunks of one request; below, how many requests ran and waited. "
        f"Stalls, queues and warm-up show here and vanish in percentiles.{note}",
        "whether another replicate looked the same: this is one run of each.",
        "The raw tables of the cells are not on this machine, or hold no chunk gaps, so that nothing can be drawn over time.",
    )


def legend(series: Sequence[Series]) -> tuple[LegendEntry, ...]:
    """The series' samples and names."""
    return tuple(LegendEntry(_sample(entry.number), entry.label) for entry in series)


def _sample(number: int) -> Markup:
    """A short stretch of the series' line with its marker."""
    style = look(number)
    shapes = {
        "o": '<circle cx="20" cy="7" r="4"/>', "s": '<path d="M16 3h8v8h-8z"/>', "^": '<path d="M20 2l5 9h-10z"/>', "D": '<path d="M20 1.5l5 5.5-5 5.5-5-5.5z"/>',
        "v": '<path d="M20 12l5-9h-10z"/>', "P": '<path d="M18.5 2.500h3v3h3v3h-3v3h-3v-3h-3v-3h3z"/>', "X": '<path d="M16 5l2-2 2 2 2-2 2 2-2 2 2 2-2 2-2-2-2 2-2-2 2-2z"/>',
        "p": '<path d="M20 2l5 3.700-2 5.800h-6l-2-5.800z"/>',
    }  # fmt: skip
    dash = f' stroke-dasharray="{" ".join(f"{2 * length:g}" for length in style.dashes)}"' if style.dashes else ""
    return Markup(
        f'<svg viewBox="0 0 40 14" aria-hidden="true" style="color: var(--series-{number})"><path d="M0 7h40" fill="none" stroke="currentColor" stroke-width="2"{dash}/>'
        f'<g fill="currentColor">{shapes[style.marker]}</g></svg>'
    )


def _there(panels: Sequence[Markup | None]) -> tuple[Markup, ...]:
    return tuple(panel for panel in panels if panel is not None)


def _burst(cells: pd.DataFrame) -> str:
    return "; the burst stands apart, since it is no rate" if cells["load_kind"].eq("burst").any() else ""


def _points(cells: pd.DataFrame) -> str:
    """What the numbers at the points are."""
    kinds = [kind for kind in ("rate", "concurrency") if cells["load_kind"].eq(kind).any()]
    told = {"rate": "numbers are rates in requests/s", "concurrency": "c8 stands for 8 concurrent streams"}
    return ", ".join(told[kind] for kind in kinds) or "each point is a load point"


def _arrived(cells: pd.DataFrame) -> str:
    rates = cells["load_kind"].eq("rate").any()
    return " At a rate that the server keeps up with, throughput is what arrived." if rates else ""


def _beyond(cells: pd.DataFrame) -> str:
    """What hollow marks mean, where there are any."""
    if not cells["beyond_knee"].eq(True).any():
        return ""
    return " A hollow mark lies beyond the knee: its latencies belong to the length of the run."


def _unpaired(cells: pd.DataFrame) -> str:
    """A warning where the means of two treatments at one load point are not of the same replicates."""
    sets = cells.groupby(["load", "treatment"], observed=True)["replicate"].agg(frozenset)
    if (sets.groupby(level="load").nunique() < 2).all():
        return ""
    return " Not every treatment has all replicates here, and each replicate is another draw: the tables compare pairs, these means do not."


def _rates_sentence(cells: pd.DataFrame, series: Sequence[Series]) -> str:
    """Offered and achieved rate in words, where there are too few rates for a curve."""
    own = cells[cells["load_kind"] == "rate"].dropna(subset=["achieved_rate", "offered_rate"])
    if own.empty:
        return "The study has no finite rate, so that there is no offered rate to compare with."
    load = str(own["load"].iloc[0])
    said = [
        f"{value_phrase('achieved_rate', float(rows['achieved_rate'].mean()))} while "
        f"{value_phrase('achieved_rate', float(rows['offered_rate'].mean()))} arrived ({entry.label})"
        for entry in series
        if not (rows := own[own["treatment"] == entry.treatment]).empty
    ]
    return (
        f"The study has one finite rate, so that no curve can be drawn. {load_phrase(load).capitalize()} the servers completed {', '.join(said)}. "
        "A server that keeps up completes about what arrives; ends and arrivals are counted over their own stretches of the phase."
    )
