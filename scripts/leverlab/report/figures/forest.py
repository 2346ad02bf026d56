"""Effects with their intervals under one another: the primary ones, or one of them over models and GPUs."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from leverlab.report.effect import Effect
from leverlab.report.looks import MUTED, RULE, look
from leverlab.report.sentences import row_sentence
from leverlab.report.svg import SMALL, WIDEST, inline, new_figure
from leverlab.units import format_number

_MARKERS = {"improves": ("^", 1), "worsens": ("v", 2), "no difference found": ("o", 0)}
_NARROW = (1, 1.1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)


def forest(rows: Sequence[tuple[str, Effect]], name: str) -> Markup | None:
    """A row a (label, effect), ratio and the interval that decided on a logarithmic axis; None where no effect is a ratio.

    A band behind a row is its noise floor: what the baseline differs by from its own copy.
    """
    drawn = [(label, effect) for label, effect in rows if effect.by_ratio and effect.estimate]
    if not drawn:
        return None
    figure, axes = new_figure((WIDEST, 0.75 + 0.72 * len(drawn)))
    bounds = [1.0]
    for place, (label, effect) in enumerate(drawn):
        marker, number = _MARKERS.get(effect.verdict, ("x", 0))
        colour = look(number).colour
        if effect.noise_floor:
            floor = effect.noise_floor
            axes.fill_betweenx([place - 0.16, place + 0.16], 1 / floor, floor, color=RULE, linewidth=0, zorder=0.5)
            bounds += [1 / floor, floor]
        if effect.low and effect.high:
            axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=2.6, solid_capstyle="butt")
            bounds += [effect.low, effect.high]
        axes.plot([effect.estimate], [place], marker=marker, color=colour, markersize=7.5, linestyle="none")
        bounds.append(effect.estimate or 1)
        # Above its line and not beside it: a phone is too narrow for two columns.
        above = axes.get_yaxis_transform()
        axes.annotate(label, (0, place), (0, 8), xycoords=above, textcoords="offset points", fontsize=SMALL)
        axes.annotate(
            row_sentence(effect),
            (1, place),
            (0, 8),
            xycoords=above,
            textcoords="offset points",
            fontsize=SMALL,
            ha="right",
            color=MUTED,
        )
    axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xscale("log")
    low, high = min(bounds), max(bounds)
    margin = max((high / low) ** 0.06, 1.04)
    axes.set_xlim(low / margin, high * margin)
    ticks = _NARROW if high / low < 3 else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"×{format_number(value)}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks([])
    axes.set_ylim(len(drawn) - 0.7, -0.75)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("treatment ÷ baseline")
    spoken = "; ".join(f"{label}: {row_sentence(effect)}, {effect.verdict}{_floor(effect)}" for label, effect in drawn)
    return inline(figure, name, f"Ratio to the baseline with the interval that its verdict rests on. {spoken}.")


def _floor(effect: Effect) -> str:
    return f", noise floor ×{format_number(effect.noise_floor)}" if effect.noise_floor else ""
