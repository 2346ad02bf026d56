"""Axes that several figures share: load points along x, values with readable units along y."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from leverlab.load_point import parse_load_point
from leverlab.metrics import METRICS
from leverlab.report.looks import Look
from leverlab.report.phrases import load_order
from leverlab.units import format_number

_LOG_FROM: Final = 8.0
"""Values that differ by more than this factor are drawn on a logarithmic axis."""
_DECADE: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Series:
    """A treatment as it is drawn: `number` chooses its look, 0 is the baseline."""

    treatment: str
    label: str
    number: int


@dataclass(frozen=True, slots=True)
class LoadAxis:
    """Load points along x: rates and concurrencies by their logarithm, the burst apart, as it is no rate."""

    positions: dict[str, float]
    groups: tuple[tuple[str, ...], ...]
    """Load points that a line may connect."""

    def dress(self, axes: Axes) -> None:
        """Ticks and label of `axes`."""
        axes.set_xticks(list(self.positions.values()), [load_tick(load) for load in self.positions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(min(self.positions.values()) - 0.5, max(self.positions.values()) + 0.5)
        axes.set_xlabel(load_title(self.positions))


def load_tick(load: str) -> str:
    """A load point at a tick or a dot: `4`, `c8` for 8 concurrent streams, `burst`, `search`."""
    point = parse_load_point(load)
    return point.kind if point.value is None else f"{'c' if point.kind == 'concurrency' else ''}{point.value:g}"


def load_title(loads: Iterable[str]) -> str:
    """The label of an axis of load points; it explains `c8` where rates and concurrencies stand side by side."""
    kinds = {parse_load_point(load).kind for load in loads} - {"burst", "search"}
    if kinds == {"concurrency"}:
        return "concurrent streams"
    return "nominal rate (requests/s)" if len(kinds) < 2 else "nominal rate (requests/s), c: concurrent streams"


def load_axis(loads: Sequence[str]) -> LoadAxis:
    """Places for `loads`, in their order; neighbours are at least 0.8 and at most 2 apart."""
    ordered = sorted(set(loads), key=load_order)
    positions: dict[str, float] = {}
    groups: dict[str, list[str]] = {}
    place, previous = 0.0, None
    for load in ordered:
        point = parse_load_point(load)
        if previous is not None:
            if previous.kind == point.kind and previous.value and point.value:
                place += min(max(log2(point.value / previous.value), 0.8), 2.0)
            else:
                place += 1.3
        positions[load], previous = place, point
        groups.setdefault(point.kind, []).append(load)
    return LoadAxis(positions, tuple(tuple(group) for group in groups.values()))


@dataclass(frozen=True, slots=True)
class Unit:
    """How a metric's values are shown on an axis."""

    scale: float
    name: str


def unit_of(metric: str, values: "pd.Series[float]") -> Unit:
    """Milliseconds below a second, percent for shares, GiB and GB/s for bytes, the metric's own unit otherwise."""
    unit = METRICS[metric].unit
    if unit == "s":
        largest = float(values.max())
        return Unit(1.0, "s") if largest >= 2 else Unit(1e3, "ms")
    if unit == "bytes":
        return Unit(1 / 2**30, "GiB")
    if unit == "bytes/s":
        return Unit(1e-9, "GB/s")
    return Unit(100.0, "%") if metric.endswith("_ratio") else Unit(1.0, "" if unit == "1" else unit)


def mark_replicates(axes: Axes, x: Any, y: Any, style: Look) -> None:  # noqa: ANN401
    """A small, pale mark for each replicate; where there is one, the mark of the mean is it."""
    axes.plot(x, y, color=style.colour, marker=style.marker, linestyle="none", markersize=3, alpha=0.5)


def dress_values(axes: Axes, values: Any, axis: Literal["x", "y"] = "y") -> None:  # noqa: ANN401
    """A logarithmic axis where `values` (in the axis' unit) span much, one from zero otherwise; plain numbers at the ticks."""
    array = np.asarray(values, float)
    positive = array[array > 0]
    which = getattr(axes, f"{axis}axis")
    if len(positive) == len(array) and len(array) and positive.max() / positive.min() > _LOG_FROM:
        getattr(axes, f"set_{axis}scale")("log")
        which.set_major_locator(LogLocator(subs=_DECADE if positive.max() / positive.min() < 1e3 else (1,)))
        which.set_minor_formatter(NullFormatter())
        which.set_minor_locator(NullLocator())
        getattr(axes, f"set_{axis}lim")(positive.min() / 1.4, positive.max() * 1.4)
    else:
        getattr(axes, f"set_{axis}lim")(0, max(float(array.max()) * 1.12, 1e-9))
        axes.locator_params(axis=axis, nbins=5)
    which.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
