"""A metric over levels that are numbers: a mark a replicate, the means joined, and a straight line where one is asked for."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from markupsafe import Markup

from leverlab.report.figures.axes import dress_values, mark_replicates, unit_of
from leverlab.report.looks import look
from leverlab.report.phrases import load_phrase, metric_heading, value_phrase
from leverlab.report.sentences import capital
from leverlab.report.svg import inline, new_figure
from leverlab.stats.line import Line


def level_panel(
    values: pd.DataFrame,
    metric: str,
    statistic: str | None,
    title: str,
    loads: Mapping[str, int],
    lines: Mapping[str, Line],
    name: str,
) -> Markup:
    """`values` as `numbered_levels.values_at` gives them; `title`: the lever's; `loads`: load point → number of its look.

    Where `lines` has the load point's, it is drawn dotted instead of what joins the means.
    """
    unit = unit_of(metric, values["value"])
    figure, axes = new_figure()
    for load, number in loads.items():
        own, style = values[values["load"] == load], look(number)
        means = own.groupby("level")["value"].mean() * unit.scale
        if own["replicate"].nunique() > 1:
            mark_replicates(axes, own["level"], own["value"] * unit.scale, style)
        line = (0, style.dashes) if style.dashes else "-"
        axes.plot(
            means.index, means, color=style.colour, marker=style.marker, linestyle="none" if load in lines else line
        )
        if load in lines:
            at = np.array([0.0, float(own["level"].max())])
            fitted = (lines[load].at_zero + lines[load].slope * at) * unit.scale
            axes.plot(at, fitted, color=style.colour, linewidth=1, linestyle=(0, (1, 2)))
    dress_values(axes, values["level"] if not lines else [0.0, values["level"].max()], "x")
    dress_values(axes, values["value"] * unit.scale if not lines else [0.0, values["value"].max() * unit.scale])
    heading = metric_heading(metric, statistic)
    axes.set_xlabel(title)
    axes.set_title(f"{heading} ({unit.name})" if unit.name else heading)
    return inline(figure, name, f"{heading} over {title}. {_spoken(values, metric, loads)}")


def _spoken(values: pd.DataFrame, metric: str, loads: Mapping[str, int]) -> str:
    said = []
    for load in loads:
        means = values[values["load"] == load].groupby("level")["value"].mean()
        told = ", ".join(f"{level:g}: {value_phrase(metric, float(value))}" for level, value in means.items())
        if told:
            said.append(capital(f"{load_phrase(load)}: {told}"))
    return ". ".join(said) + "."
