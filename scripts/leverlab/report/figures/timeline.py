"""One cell over time: gaps between chunks, requests running and waiting."""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MatplotlibPath

from leverlab.report.figures.axes import dress_values
from leverlab.report.looks import look
from leverlab.report.svg import SMALL, inline, new_figure

DOTS_LIMIT = 5000
"""More gaps than this are thinned to the longest of each stretch of time, which the caption must say."""

_TITLE_CHARACTERS = 36
"""In a line of the title: of the panel's width."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A drawn timeline, and whether its gaps were thinned."""

    figure: Markup
    thinned: bool


def chunk_gaps(chunks: pd.DataFrame) -> pd.DataFrame:
    """Columns `arrival_s` and `gap_s`: the time of each chunk but a request's first, and that since the one before."""
    ordered = chunks.sort_values(["index", "arrival_s"])
    gaps = ordered.groupby("index")["arrival_s"].diff()
    return pd.DataFrame({"arrival_s": ordered["arrival_s"], "gap_s": gaps}).dropna().reset_index(drop=True)


def timeline(chunks: pd.DataFrame, server: pd.DataFrame | None, title: str, name: str) -> Timeline | None:
    """Chunk gaps over time and, where `server` (`leverlab.telemetry.server_metrics.SERVER_METRICS`) is given, requests below; None without gaps."""
    gaps = chunk_gaps(chunks)
    gaps = gaps[gaps["gap_s"] > 0]
    if gaps.empty:
        return None
    all_ms = gaps["gap_s"] * 1e3
    end = float(gaps["arrival_s"].max())
    spoken = f"{len(gaps)} chunk gaps over {end:.1f} s, the median {all_ms.median():.3g} ms, the longest {all_ms.max():.3g} ms."
    thinned = len(gaps) > DOTS_LIMIT
    if thinned:
        stretch = pd.cut(gaps["arrival_s"], DOTS_LIMIT, labels=False)
        gaps = gaps.loc[gaps.groupby(stretch)["gap_s"].idxmax()]
    states = _states(server)
    figure, axes = new_figure(
        (4.7, 2.8 if states.empty else 4.4), nrows=1 if states.empty else 2, sharex=True, squeeze=False
    )
    upper = axes[0][0]
    milliseconds = gaps["gap_s"].to_numpy() * 1e3
    dress_values(upper, milliseconds)
    upper.set_xlim(0, end * 1.02)
    _dots(upper, gaps["arrival_s"].to_numpy(), milliseconds)
    upper.set_ylabel("chunk gap (ms)")
    upper.set_title(textwrap.fill(title, _TITLE_CHARACTERS))
    lowest = upper
    if not states.empty:
        lowest = axes[1][0]
        for column, number, dashes in (("running", 1, ()), ("waiting", 2, (1.5, 1.5))):
            style = look(number)
            lowest.step(
                states.index,
                states[column],
                where="post",
                color=style.colour,
                linestyle=(0, dashes) if dashes else "-",
                label=column,
            )
        lowest.legend(frameon=False, fontsize=SMALL, loc="upper right", ncols=2, borderaxespad=0)
        lowest.set_ylim(0, max(1.0, float(states.max().max())) * 1.3)
        lowest.set_ylabel("requests")
        spoken += f" At most {states['running'].max():g} requests run and {states['waiting'].max():g} wait."
    lowest.set_xlabel("time since the phase began (s)")
    return Timeline(inline(figure, name, f"{title}: {spoken}"), thinned)


def _states(server: pd.DataFrame | None) -> pd.DataFrame:
    """Running and waiting requests by time; empty where the server did not tell both."""
    if server is None:
        return pd.DataFrame()
    wide = server[server["name"].isin(["running", "waiting"])].pivot_table(
        index="time_s", columns="name", values="value"
    )
    return wide if {"running", "waiting"} <= set(wide.columns) else pd.DataFrame()


def _dots(
    axes: Axes, x: "np.ndarray[tuple[int], np.dtype[np.float64]]", y: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> None:
    """All dots as one path of round-capped strokes without length: a tenth of the bytes that as many markers take."""
    vertices = np.repeat(np.column_stack([x, y]), 2, axis=0)
    codes = np.tile([MatplotlibPath.MOVETO, MatplotlibPath.LINETO], len(x))
    path = MatplotlibPath(vertices, codes)
    path.should_simplify = False  # it would drop every stroke: none has a length
    patch = PathPatch(
        path,
        facecolor="none",
        edgecolor=look(0).colour,
        linewidth=2.4,
        alpha=0.55,
        capstyle="round",
    )
    axes.add_patch(patch)
