"""How a series looks: colour, marker and dashes together, so that nothing is told by colour alone.

Figures are drawn in the light mode's colours; `leverlab.report.svg` then names the CSS variable of each, so that one
drawing serves light mode, dark mode and paper. style.css holds both sets under the same names.
"""

from dataclasses import dataclass
from typing import Final

INK: Final = "#1d2024"
MUTED: Final = "#5c6066"
RULE: Final = "#d9d6cf"

_SERIES: Final = (
    ("#4f545b", "o", ()),
    ("#1b68a8", "s", (5, 2)),
    ("#b8480b", "^", (1.5, 1.5)),
    ("#18774f", "D", (6, 2, 1.5, 2)),
    ("#84479b", "v", (9, 2)),
    ("#856200", "P", (3, 1)),
    ("#a8234a", "X", (6, 1.5, 1.5, 1.5, 1.5, 1.5)),
    ("#0d727a", "p", (2, 3)),
)

HEAT: Final = ("#e08a3c", "#edb27a", "#f6dcc2", "#efece5", "#cfe4f2", "#98c6e6", "#64a8d8")
"""Worse … unchanged … better, in steps of `leverlab.report.figures.heatmap.STEPS`."""

SERIES_LIMIT: Final = len(_SERIES)

VARIABLES: Final[dict[str, str]] = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    **{look[0]: f"var(--series-{number})" for number, look in enumerate(_SERIES)},
    **{colour: f"var(--heat-{number})" for number, colour in enumerate(HEAT)},
}


@dataclass(frozen=True, slots=True)
class Look:
    """One series' colour (light mode), matplotlib marker and dashes (empty: solid)."""

    colour: str
    marker: str
    dashes: tuple[float, ...]


def look(number: int) -> Look:
    """The look of series `number`; 0 is the baseline. Raises IndexError from `SERIES_LIMIT` on: draw fewer series."""
    return Look(*_SERIES[number])
