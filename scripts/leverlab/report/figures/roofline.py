"""The roofline of a GPU, and where the decode steps of a study's treatments lie below it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from leverlab.report.figures.axes import Series, load_tick
from leverlab.report.figures.labels import Label, place_labels
from leverlab.report.looks import INK, MUTED, look
from leverlab.report.svg import PANEL, SMALL, WIDEST, inline, new_figure
from leverlab.units import format_number


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """Decode steps of a treatment at a load point, of one GPU."""

    treatment: str
    load: str
    intensity: float
    """FLOP/byte, by theory at the batch and context that were measured."""
    flop_per_s: float
    """Operations of a step / measured time per token, of one GPU."""


@dataclass(frozen=True, slots=True)
class KernelPoint:
    """Kernels of a class, of one GPU: those of a decode step by theory and the time of a twin, or one as Nsight Compute counted it."""

    treatment: str
    load: str
    kernels: str
    """The class, in words."""
    intensity: float
    flop_per_s: float
    elsewhere: bool = False
    """Of another study's twins, whose treatments have no colour here."""


def roofline(
    bandwidth: float,
    peaks: Mapping[str, float],
    points: Sequence[RooflinePoint],
    kernels: Sequence[KernelPoint],
    series: Sequence[Series],
    name: str,
) -> Markup | None:
    """`bandwidth` in bytes/s and `peaks` (dtype → FLOP/s) are those of one GPU; None where there is no point or no peak.

    `kernels` are drawn hollow beside the steps that they are of.
    """
    if not points or not peaks:
        return None
    figure, axes = new_figure((WIDEST, PANEL[1] * 1.25))
    ridges = {dtype: peak / bandwidth for dtype, peak in peaks.items()}
    everything: list[RooflinePoint | KernelPoint] = [*points, *kernels]
    low, high = min(0.5, *(x / 1.5 for x in _xs(everything))), 4 * max(*ridges.values(), *_xs(everything))
    highest = max(ridges.values())
    axes.plot([low, highest], [low * bandwidth, highest * bandwidth], color=INK, linewidth=1.4)
    for dtype, peak in peaks.items():
        axes.plot([ridges[dtype], high], [peak, peak], color=INK, linewidth=1.4)
        # Above a lower roof the line of the memory would run through it.
        over = ridges[dtype] == highest
        axes.annotate(
            f"{format_number(peak / 1e12)} TFLOP/s {dtype},{' ' if over else chr(10)}ridge at {format_number(ridges[dtype])}",
            (high, peak), (-2, 2 if over else -3), textcoords="offset points", ha="right", va="bottom" if over else "top", fontsize=SMALL,
            color=MUTED,
        )  # fmt: skip
    middle = (low * highest) ** 0.5
    axes.annotate(
        f"{format_number(bandwidth / 1e9)} GB/s", (middle, middle * bandwidth), (-6, 4), textcoords="offset points", ha="right",
        fontsize=SMALL, color=MUTED,
    )  # fmt: skip
    for entry in series:
        _draw(axes, points, entry)
    _draw_kernels(axes, kernels, series)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(min(low * bandwidth, *(point.flop_per_s / 2 for point in everything)), 2.5 * max(peaks.values()))
    for axis, unit in ((axes.xaxis, 1.0), (axes.yaxis, 1e12)):
        axis.set_major_locator(LogLocator())
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: format_number(value / unit)))
    axes.set_xlabel("arithmetic intensity (FLOP/byte)")
    axes.set_ylabel("TFLOP/s of one GPU")
    _label(figure, axes, points, kernels, series, [([low, highest], [low * bandwidth, highest * bandwidth])])
    labels = {entry.treatment: entry.label for entry in series}
    spoken = "; ".join(
        f"{labels[point.treatment]}, {point.load}: {format_number(point.flop_per_s / 1e12)} TFLOP/s at "
        f"{format_number(point.intensity)} FLOP/byte"
        for point in points
        if point.treatment in labels
    )
    hollow = "; ".join(
        f"{point.kernels} of {labels[point.treatment]}, {point.load}: {format_number(point.flop_per_s / 1e12)} TFLOP/s at "
        f"{format_number(point.intensity)} FLOP/byte"
        for point in kernels
        if not point.elsewhere and point.treatment in labels
    )
    hollow = "; ".join(
        filter(
            None,
            (
                hollow,
                *(
                    f"{point.kernels} of another study, {point.load}: {format_number(point.flop_per_s / 1e12)} TFLOP/s at "
                    f"{format_number(point.intensity)} FLOP/byte"
                    for point in kernels
                    if point.elsewhere
                ),
            ),
        )
    )
    return inline(
        figure, name, f"Roofline with decode steps below it. {spoken}.{f' Kernels: {hollow}.' if hollow else ''}"
    )


def _draw_kernels(axes: Axes, points: Sequence[KernelPoint], series: Sequence[Series]) -> None:
    """Hollow marks in the treatments' colours; those of another study in none."""
    others = [point for point in points if point.elsewhere]
    axes.plot(
        _xs(others), [point.flop_per_s for point in others], color=MUTED, marker="D", markerfacecolor="none", linestyle="none", zorder=3,
    )  # fmt: skip
    for entry in series:
        own = [point for point in points if not point.elsewhere and point.treatment == entry.treatment]
        style = look(entry.number)
        axes.plot(
            _xs(own), [point.flop_per_s for point in own], color=style.colour, marker=style.marker, markerfacecolor="none",
            linestyle="none", zorder=4,
        )  # fmt: skip


def _label(
    figure: Figure,
    axes: Axes,
    points: Sequence[RooflinePoint],
    kernels: Sequence[KernelPoint],
    series: Sequence[Series],
    roof: list[tuple[Sequence[float], Sequence[float]]],
) -> None:
    """Load points at the decode steps, and at the highest mark of a class of kernels its name, as they lie close together."""
    shown = {entry.treatment for entry in series}
    drawn = [point for point in points if point.treatment in shown]
    others = [point for point in kernels if point.elsewhere]
    hollow = [point for point in kernels if not point.elsewhere and point.treatment in shown]
    labels = [Label(load_tick(point.load), point.intensity, point.flop_per_s) for point in drawn]
    for name in dict.fromkeys(point.kernels for point in hollow):
        highest = max((point for point in hollow if point.kernels == name), key=lambda point: point.flop_per_s)
        labels.append(Label(name, highest.intensity, highest.flop_per_s))
    labels += [Label(f"{each.kernels}, {load_tick(each.load)}", each.intensity, each.flop_per_s) for each in others]
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)  # before it nobody knows how large the axes are
    marks = [([point.intensity], [point.flop_per_s]) for point in [*hollow, *others]]
    place_labels(axes, labels, [*roof, *marks, *(_line(drawn, entry) for entry in series)])


def _line(points: Sequence[RooflinePoint], entry: Series) -> tuple[list[float], list[float]]:
    """The line through the decode steps of a treatment, from left to right."""
    own = sorted((point for point in points if point.treatment == entry.treatment), key=lambda point: point.intensity)
    return _xs(own), [point.flop_per_s for point in own]


def _xs(points: Sequence[RooflinePoint | KernelPoint]) -> list[float]:
    return [point.intensity for point in points]


def _draw(axes: Axes, points: Sequence[RooflinePoint], entry: Series) -> None:
    style = look(entry.number)
    dashes = (0, style.dashes) if style.dashes else "-"
    axes.plot(*_line(points, entry), color=style.colour, marker=style.marker, linestyle=dashes, linewidth=1.2)
