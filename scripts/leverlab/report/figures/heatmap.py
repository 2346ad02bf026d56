"""Treatment × load point: how far each metric moved, and which way."""

import textwrap
from collections.abc import Sequence
from math import log2
from typing import Final

import numpy as np
import seaborn
from markupsafe import Markup
from matplotlib.colors import BoundaryNorm, ListedColormap

from leverlab.metrics import METRICS
from leverlab.report.effect import Effect
from leverlab.report.figures.axes import load_tick, load_title
from leverlab.report.looks import HEAT, INK
from leverlab.report.phrases import load_order, metric_heading
from leverlab.report.sentences import ratio_text
from leverlab.report.svg import SMALL, inline, new_figure

_LABEL_CHARACTERS: Final = 24
"""Of a line beside the fields: a longer one leaves them no room."""

STEPS: Final = (-1.0, -0.32, -0.07, 0.07, 0.32, 1.0)
"""Boundaries of the colours in log2 of the ratio, positive is better: factors of 1.05, 1.25 and 2."""


def wrapped_level(label: str, characters: int) -> str:
    """A treatment's label in lines of so many characters; `instead of …` begins one of its own."""
    parts = label.replace(" instead of ", "\ninstead of ").split("\n")
    return "\n".join(textwrap.fill(part, characters) for part in parts)


def effect_heatmap(
    effects: Sequence[Effect], metric: str, statistic: str | None, labels: dict[str, str], name: str
) -> Markup | None:
    """A row a treatment, a column a load point, the ratio in each; None where nothing of this metric was compared."""
    own = [
        e
        for e in effects
        if (e.metric, e.statistic) == (metric, statistic) and e.by_ratio and e.estimate and e.treatment in labels
    ]
    if not own:
        return None
    loads = sorted({effect.load for effect in own}, key=load_order)
    rows = [treatment for treatment in labels if any(effect.treatment == treatment for effect in own)]
    shade, text = np.full((len(rows), len(loads)), np.nan), np.full((len(rows), len(loads)), "", dtype=object)
    better = 1 if METRICS[metric].better == "higher" else -1
    for effect in own:
        place = rows.index(effect.treatment), loads.index(effect.load)
        shade[place] = better * log2(effect.estimate or 1)
        word = "in the noise" if effect.within_noise else _better_word(effect) if effect.decided else "unclear"
        text[place] = f"{ratio_text(effect)}\n{word}"
    names = [wrapped_level(labels[row], _LABEL_CHARACTERS) for row in rows]
    height = 1.15 + sum(max(0.55, 0.19 * (name.count("\n") + 1)) for name in names)
    figure, axes = new_figure((4.7, height))
    seaborn.heatmap(
        shade, ax=axes, annot=text, fmt="", cbar=False, linewidths=2, linecolor="none",
        cmap=ListedColormap(HEAT), norm=BoundaryNorm([-99, *STEPS, 99], len(HEAT)),
        annot_kws={"color": INK, "fontsize": SMALL},
    )  # fmt: skip
    axes.set_xticklabels([load_tick(load) for load in loads])
    axes.set_yticklabels(names, rotation=0)
    axes.tick_params(length=0)
    axes.set_xlabel(load_title(loads))
    heading = metric_heading(metric, statistic)
    axes.set_title(heading)
    spoken = "; ".join(f"{labels[effect.treatment]}, {effect.load}: {ratio_text(effect)}" for effect in own)
    return inline(figure, name, f"{heading}, ratio to the baseline. {spoken}.")


def _better_word(effect: Effect) -> str:
    """`better`, `worse` or nothing, of the estimate alone, next to the number."""
    better = METRICS[effect.metric].better
    if effect.estimate is None or effect.estimate == effect.neutral or better == "neither":
        return ""
    return "better" if effect.raises == (better == "higher") else "worse"
