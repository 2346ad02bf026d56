"""What a treatment costs in answers for what it gives: accuracy over throughput, and over the memory of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leverlab.report.figures.axes import dress_values
from leverlab.report.looks import look
from leverlab.report.phrases import value_phrase
from leverlab.report.svg import inline, new_figure
from leverlab.units import format_percent


@dataclass(frozen=True, slots=True)
class Point:
    """A treatment: `number` chooses its look; score as lm_eval gives it, tokens/s, bytes (None where they are not told)."""

    label: str
    number: int
    score: float
    error: float | None
    throughput: float
    weights_bytes: float | None
    higher_is_better: bool = True

    @property
    def goods(self) -> tuple[float, float, float]:
        """Score, throughput and memory, each so that more is better; memory counts for nothing where it is not told."""
        score = self.score if self.higher_is_better else -self.score
        return (score, self.throughput, -(self.weights_bytes or 0.0))


def dominated(points: Sequence[Point]) -> set[str]:
    """Labels of the points of which another is at least as good in all three, and better in one.

    Memory is left out where one of the points does not tell it.
    """
    told = all(point.weights_bytes is not None for point in points)
    goods = {point.label: point.goods if told else point.goods[:2] for point in points}
    return {
        label
        for label, own in goods.items()
        for other in goods.values()
        if other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))
    }


def trade(points: Sequence[Point], name: str, where: str = "") -> list[Markup]:
    """Accuracy over throughput, and over memory where every point tells it; dominated points are hollow."""
    hollow = dominated(points)
    throughput = [point.throughput for point in points]
    panels = [_panel(points, hollow, throughput, "output throughput (tokens/s)", f"{name}-throughput", where)]
    memory = [point.weights_bytes / 2**30 for point in points if point.weights_bytes is not None]
    if len(memory) == len(points):
        panels.append(_panel(points, hollow, memory, "memory of the weights on one GPU (GiB)", f"{name}-memory", where))
    return panels


def _panel(
    points: Sequence[Point], hollow: set[str], places: Sequence[float], title: str, name: str, where: str
) -> Markup:
    figure, axes = new_figure()
    shares = all(0 <= point.score <= 1 for point in points)
    scale = 100.0 if shares else 1.0
    for point, x in zip(points, places, strict=True):
        style = look(point.number)
        axes.errorbar(
            [x],
            [point.score * scale],
            yerr=None if point.error is None else [point.error * scale],
            color=style.colour,
            marker=style.marker,
            markerfacecolor="none" if point.label in hollow else style.colour,
            markersize=8,
            linestyle="none",
            elinewidth=1.2,
        )
    dress_values(axes, list(places), "x")
    highest = max((point.score + (point.error or 0.0)) * scale for point in points)
    axes.set_ylim(0, min(highest * 1.15, 105.0) if shares and highest > 0 else max(highest * 1.15, 1.0))
    axes.set_xlabel(title)
    axes.set_ylabel("")
    axes.set_title(f"Score{' (%)' if shares else ''}{where}")
    spoken = "; ".join(
        f"{point.label}: {format_percent(f'{point.score * scale:.3g}') if shares else f'{point.score:.3g}'}, {value_phrase('throughput', point.throughput)}"
        + (f", {value_phrase('weights_bytes', point.weights_bytes)}" if point.weights_bytes is not None else "")
        + (", dominated" if point.label in hollow else "")
        for point in points
    )
    return inline(figure, name, f"Score over {title}{where}. {spoken}.")
