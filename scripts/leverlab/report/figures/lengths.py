"""How long a workload's prompts and outputs are."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from leverlab.report.looks import look
from leverlab.report.svg import inline, new_figure


def length_histogram(distribution: Mapping[str, Any], title: str, number: int, name: str) -> Markup | None:
    """`distribution` as in a workload's card, its histogram with edges and counts; None where all lengths are equal."""
    if distribution["minimum"] == distribution["maximum"]:
        return None
    edges, counts = distribution["histogram"]["edges"], distribution["histogram"]["counts"]
    figure, axes = new_figure((4.7, 2.4))
    axes.stairs(counts, edges, fill=True, color=look(number).colour, alpha=0.75)
    axes.set_xlim(min(0, edges[0]), edges[-1])
    axes.set_xlabel("tokens")
    axes.set_ylabel("requests")
    axes.set_title(title)
    spoken = ", ".join(f"{key} {distribution[key]}" for key in ("minimum", "p50", "p95", "maximum"))
    return inline(figure, name, f"{title}, a histogram: {spoken} tokens.")
