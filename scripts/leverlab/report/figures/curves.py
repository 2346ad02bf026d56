"""Curves over the load: latency percentiles, offered against achieved rate, throughput against per-user speed."""

from collections.abc import Sequence

import pandas as pd
import seaborn
from markupsafe import Markup
from matplotlib.axes import Axes

from leverlab.load_point import parse_load_point
from leverlab.report.figures.axes import (
    LoadAxis,
    Series,
    dress_values,
    load_axis,
    load_tick,
    mark_replicates,
    unit_of,
)
from leverlab.report.looks import MUTED, look
from leverlab.report.phrases import load_phrase, metric_heading, value_phrase
from leverlab.report.svg import PANEL, SMALL, inline, new_figure


def latency_panel(
    cells: pd.DataFrame, series: Sequence[Series], metric: str, statistic: str | None, name: str
) -> Markup | None:
    """One metric over the load, a line a treatment; None with fewer than two load points that have values."""
    column = f"{metric}_{statistic}" if statistic else metric
    drawn = _drawn(cells, series, column)
    if drawn["load"].nunique() < 2:
        return None
    axis = load_axis(list(drawn["load"]))
    unit = unit_of(metric, drawn[column])
    drawn = drawn.assign(x=drawn["load"].map(axis.positions), y=drawn[column] * unit.scale)
    figure, axes = new_figure()
    _lines(axes, drawn, axis, series)
    axis.dress(axes)
    dress_values(axes, drawn["y"])
    heading = metric_heading(metric, statistic)
    axes.set_ylabel("")
    axes.set_title(f"{heading} ({unit.name})")
    return inline(figure, name, f"{heading} over the load. {_spoken(drawn, series, metric, column)}")


def offered_achieved(cells: pd.DataFrame, series: Sequence[Series], name: str) -> Markup | None:
    """Achieved against offered rate; None with fewer than two finite rates."""
    drawn = _drawn(cells, series, "achieved_rate")
    drawn = drawn[drawn["load_kind"] == "rate"].dropna(subset=["offered_rate"])
    if drawn["load"].nunique() < 2:
        return None
    # What was offered is what the draw of the replicate made of the load point's rate, and differs by replicate.
    drawn = drawn.assign(x=drawn["offered_rate"], y=drawn["achieved_rate"])
    figure, axes = new_figure()
    highest = float(max(drawn["x"].max(), drawn["y"].max())) * 1.08
    axes.plot([0, highest], [0, highest], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "dotted: all that is offered", (0.98, 0.04), xycoords="axes fraction", color=MUTED, fontsize=SMALL, ha="right"
    )
    _replicate_marks(axes, drawn, series)
    _seaborn_lines(axes, drawn.groupby(["treatment", "load"], observed=True)[["x", "y"]].mean().reset_index(), series)
    axes.set_xlim(0, float(drawn["x"].max()) * 1.08)
    axes.set_ylim(0, highest)
    axes.set_xlabel("offered rate (requests/s)")
    axes.set_ylabel("achieved rate (requests/s)")
    return inline(
        figure, name, f"Achieved over offered rate. {_spoken(drawn, series, 'achieved_rate', 'achieved_rate')}"
    )


def pareto(cells: pd.DataFrame, series: Sequence[Series], name: str) -> Markup | None:
    """Throughput over per-user speed, a point a load point; None where fewer than two load points have both."""
    drawn = _drawn(cells, series, "throughput").dropna(subset=["tpot_s_p50"])
    drawn = drawn[drawn["tpot_s_p50"] > 0]
    if drawn["load"].nunique() < 2:
        return None
    means = drawn.groupby(["treatment", "load"], observed=True)[["tpot_s_p50", "throughput"]].mean().reset_index()
    means = means.assign(
        x=1 / means["tpot_s_p50"],
        y=means["throughput"],
        position=means["load"].map(load_axis(list(drawn["load"])).positions),
    )
    figure, axes = new_figure((PANEL[0], PANEL[1] * 1.15))
    for entry in series:
        own = means[means["treatment"] == entry.treatment].sort_values("position")
        style = look(entry.number)
        line = (0, style.dashes) if style.dashes else "-"
        for _, group in own.groupby(own["load"].map(lambda load: parse_load_point(load).kind), sort=False):
            axes.plot(group["x"], group["y"], color=style.colour, marker=style.marker, linestyle=line)
        for x, y, load in zip(own["x"], own["y"], own["load"], strict=True):
            axes.annotate(load_tick(load), (x, y), (5, 5), textcoords="offset points", fontsize=SMALL, color=MUTED)
    dress_values(axes, means["x"], "x")
    dress_values(axes, means["y"])
    axes.set_xlabel("speed of one user (tokens/s, 1 / median TPOT)")
    axes.set_ylabel("all users (tokens/s)")
    return inline(
        figure, name, f"Output throughput over per-user speed. {_spoken(drawn, series, 'throughput', 'throughput')}"
    )


def _drawn(cells: pd.DataFrame, series: Sequence[Series], column: str) -> pd.DataFrame:
    """The cells of `series` that have a value, but for those that searched for their rate, which is each its own."""
    wanted = cells["treatment"].isin([entry.treatment for entry in series]) & (cells["load_kind"] != "search")
    return cells[wanted].dropna(subset=[column])


def _lines(axes: Axes, drawn: pd.DataFrame, axis: LoadAxis, series: Sequence[Series]) -> None:
    """Lines through the load points of a kind; the treatments side by side where the burst stands alone."""
    for group in axis.groups:
        own = drawn[drawn["load"].isin(group)]
        if len(group) == 1 and len(series) > 1:
            spread = {entry.treatment: (place - (len(series) - 1) / 2) * 0.16 for place, entry in enumerate(series)}
            own = own.assign(x=own["x"] + own["treatment"].map(spread))
        _replicate_marks(axes, own, series)
        _seaborn_lines(axes, own, series)


def _replicate_marks(axes: Axes, drawn: pd.DataFrame, series: Sequence[Series]) -> None:
    """A small mark a replicate, where there are several; a larger, hollow one where it lies beyond the knee."""
    several = drawn["replicate"].nunique() > 1
    for entry in series:
        own, style = drawn[drawn["treatment"] == entry.treatment], look(entry.number)
        beyond = own["beyond_knee"].eq(True)
        if several:
            mark_replicates(axes, own[~beyond]["x"], own[~beyond]["y"], style)
        past = own[beyond]
        axes.plot(
            past["x"], past["y"], color=style.colour, marker=style.marker, linestyle="none", markersize=9,
            markerfacecolor="none",
        )  # fmt: skip


def _seaborn_lines(axes: Axes, drawn: pd.DataFrame, series: Sequence[Series]) -> None:
    """A line a treatment through the means at each x."""
    present = [entry for entry in series if entry.treatment in set(drawn["treatment"])]
    looks = {entry.treatment: look(entry.number) for entry in present}
    seaborn.lineplot(
        data=drawn,
        x="x",
        y="y",
        hue="treatment",
        style="treatment",
        hue_order=list(looks),
        style_order=list(looks),
        palette={key: value.colour for key, value in looks.items()},
        markers={key: value.marker for key, value in looks.items()},
        dashes={key: value.dashes or "" for key, value in looks.items()},
        errorbar=None,
        markeredgewidth=0,
        legend=False,
        ax=axes,
    )


def _spoken(drawn: pd.DataFrame, series: Sequence[Series], metric: str, column: str) -> str:
    """Each treatment's first and last mean, for those who do not see the figure; the numbers are in the tables too."""
    said = []
    for entry in series:
        own = drawn[drawn["treatment"] == entry.treatment]
        if own.empty:
            continue
        means = own.groupby("load")[column].mean()
        order = list(load_axis(list(own["load"])).positions)
        ends = [order[0], order[-1]] if len(order) > 1 else order
        said.append(
            f"{entry.label}: {', '.join(f'{value_phrase(metric, float(means[load]))} {load_phrase(load)}' for load in ends)}"
        )
    return "; ".join(said) + "."
