"""What profiles show: bars of time by class, what differs between two twins, and kernels on their streams."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from leverlab.profile.intervals import Floats
from leverlab.report.kernel_words import KERNEL_WORDS
from leverlab.report.looks import INK, MUTED, RULE, look
from leverlab.report.svg import SMALL, WIDEST, inline, new_figure
from leverlab.units import format_seconds

_LOOKS: Final = {
    "attention": 1,
    "gemm": 2,
    "moe": 7,
    "norm_elementwise": 3,
    "sampling": 4,
    "kv_cache": 5,
    "communication": 6,
    "copy": 0,
}
_LABEL_CHARACTERS: Final = 24
_TITLE_CHARACTERS: Final = 34
_LINE_CHARACTERS: Final = 42
_CHARACTERS_IN_A_BAR: Final = 54
"""About as many characters of a stretch's name lie beside each other in the longest bar."""
_CHARACTERS_ABOVE: Final = 54
"""Characters in a line of a bar's label."""
_AXIS_INCHES, _BAR_INCHES, _LINE_INCHES = 0.6, 0.42, 0.17
_ROWS_LIMIT: Final = 8
_STROKES_LIMIT: Final = 4000


def colour_of(name: str) -> str:
    """The colour of a class; `other` and `idle` have none of their own."""
    return look(_LOOKS[name]).colour if name in _LOOKS else MUTED if name == "other" else RULE


def class_bars(bars: Sequence[tuple[str, Mapping[str, float]]], name: str, unit: str) -> Markup:
    """A bar for each (label, class → seconds): its stretches in the order of `KERNEL_WORDS`, each named where its name has room."""
    scale, suffix = _scale(max(sum(parts.values()) for _, parts in bars))
    # A label stands above its bar and not beside it: a phone is too narrow for two columns. Along y are inches.
    labels = [textwrap.fill(label, _CHARACTERS_ABOVE) for label, _ in bars]
    heights = [_BAR_INCHES + _LINE_INCHES * (label.count("\n") + 1) for label in labels]
    figure, axes = new_figure((WIDEST, _AXIS_INCHES + sum(heights)))
    longest = max(sum(parts.values()) for _, parts in bars) * scale
    bottom = 0.0
    for label, height, (_, parts) in zip(labels, heights, bars, strict=True):
        bottom += height
        left, middle = 0.0, bottom - _BAR_INCHES * 0.55
        axes.text(0, middle - _BAR_INCHES * 0.42, label, va="bottom", fontsize=SMALL)
        for part, written in KERNEL_WORDS.items():
            width = parts.get(part, 0.0) * scale
            if width <= 0:
                continue
            axes.barh(middle, width, left=left, height=_BAR_INCHES * 0.7, color=colour_of(part))
            if width >= (len(written) + 1) / _CHARACTERS_IN_A_BAR * longest:
                axes.text(left + width / 2, middle, written, ha="center", va="center", fontsize=SMALL, color=INK)
            left += width
    axes.set_yticks([])
    axes.set_ylim(bottom, 0)
    axes.set_xlim(0, longest * 1.02)
    axes.set_xlabel(f"{unit} ({suffix})")
    spoken = ". ".join(
        f"{label}: "
        + ", ".join(f"{word} {format_seconds(parts[part])}" for part, word in KERNEL_WORDS.items() if parts.get(part))
        for label, parts in bars
    )
    return inline(figure, name, f"{unit} by class. {spoken}")


def difference_bars(before: Mapping[str, float], after: Mapping[str, float], title: str, name: str) -> Markup:
    """What each class takes longer (to the right) or less in `after` than in `before`, in seconds."""
    change = {part: after.get(part, 0.0) - before.get(part, 0.0) for part in KERNEL_WORDS}
    shown = [part for part in KERNEL_WORDS if change[part] or before.get(part) or after.get(part)]
    scale, suffix = _scale(max(abs(value) for value in change.values()))
    figure, axes = new_figure((4.7, 0.9 + 0.37 * len(shown)))
    for row, part in enumerate(shown):
        value = change[part] * scale
        axes.barh(row, value, height=0.62, color=look(2 if value > 0 else 1).colour)
    limit = max(max(abs(change[part]) for part in shown) * scale, 1e-12) * 1.5
    for row, part in enumerate(shown):
        value = change[part] * scale
        axes.text(
            value + (0.02 if value >= 0 else -0.02) * limit, row, f"{value:+.3g}".replace("-", "−"), va="center",
            ha="left" if value >= 0 else "right", fontsize=SMALL,
        )  # fmt: skip
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(-limit, limit)
    _rows(axes, [KERNEL_WORDS[part] for part in shown])
    axes.set_xlabel(f"less ←  change of a step ({suffix})  → longer")
    axes.set_title(textwrap.fill(title, _TITLE_CHARACTERS))
    spoken = ", ".join(
        f"{KERNEL_WORDS[part]} {'+' if change[part] >= 0 else '−'}{format_seconds(abs(change[part]))}" for part in shown
    )
    return inline(figure, name, f"{title}: {spoken}.")


def kernel_timeline(kernels: pd.DataFrame, title: str, name: str) -> Markup | None:
    """Kernels (rows of kernels.parquet, times from the left edge) on their streams, the busiest on top; None without any."""
    if kernels.empty:
        return None
    busiest = kernels.groupby("stream")["duration_s"].sum().sort_values(ascending=False).index[:_ROWS_LIMIT]
    own = kernels[kernels["stream"].isin(busiest)].nlargest(_STROKES_LIMIT, "duration_s")
    end = float((kernels["start_s"] + kernels["duration_s"]).max())
    scale, suffix = _scale(end)
    figure, axes = new_figure((WIDEST, 0.95 + 0.42 * len(busiest) + 0.2 * (len(title) > _LINE_CHARACTERS)))
    for row, stream in enumerate(busiest):
        for part, rows in own[own["stream"] == stream].groupby("class"):
            left, width = (rows[name].to_numpy(float) * scale for name in ("start_s", "duration_s"))
            axes.add_patch(_boxes(left, width, row - 0.32, row + 0.32, colour_of(str(part))))
    _rows(
        axes, [f"stream {stream}" if len(busiest) > 1 or kernels["gpu"].notna().any() else "CPU" for stream in busiest]
    )
    axes.set_xlim(0, end * scale)
    axes.set_ylim(len(busiest) - 0.5, -0.5)
    axes.set_xlabel(f"time ({suffix})")
    axes.set_title(textwrap.fill(title, _LINE_CHARACTERS))
    spoken = f"{title}: {len(kernels)} kernels on {kernels['stream'].nunique()} streams in {format_seconds(end)}."
    return inline(figure, name, spoken)


def _boxes(left: Floats, width: Floats, low: float, high: float, colour: str) -> PathPatch:
    """Boxes of one height as one path, which takes a tenth of the bytes that as many patches do."""
    right = left + width
    corners = np.stack([np.column_stack([left, right, right, left, left])] * 2, axis=-1)
    corners[..., 1] = [low, low, high, high, low]
    codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(left))
    path = Path(corners.reshape(-1, 2), codes)
    path.should_simplify = False
    return PathPatch(path, facecolor=colour, linewidth=0)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [textwrap.fill(label, _LABEL_CHARACTERS) for label in labels])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _scale(longest_s: float) -> tuple[float, str]:
    return (1e6, "µs") if longest_s < 2e-3 else (1e3, "ms")
