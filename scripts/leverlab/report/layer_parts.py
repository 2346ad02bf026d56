"""What of a step is attention and what the MLP, with the matrix products that belong to each: a table, and a sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from leverlab.profile.analysis import UNKNOWN
from leverlab.profile.products import ATTENTION, HEAD, MLP
from leverlab.report.profiled import PROMPTS, Recorded
from leverlab.report.view import Cell, Column, Group, Row, Table
from leverlab.units import format_seconds, format_share


@dataclass(frozen=True, slots=True)
class LayerParts:
    """A mean step's time, in seconds. Products are kernels' own durations; `attention_s` counts each moment once."""

    whole_s: float
    attention_s: float
    projections_s: float
    mlp_s: float
    head_s: float
    unknown_s: float

    @property
    def attention_share(self) -> float:
        """Share of the step that attention takes with its projections."""
        return (self.attention_s + self.projections_s) / self.whole_s

    @property
    def mlp_share(self) -> float:
        """Share of the step that the MLP's products take."""
        return self.mlp_s / self.whole_s


def decode_parts(found: Recorded) -> LayerParts | None:
    """Of the mean decode step; None where no decode step is known."""
    if found.step is None:
        return None
    whole = found.step_s or sum(found.step.class_s.values())
    return _parts(found, ("decode",), found.step.steps, whole, found.step.class_s.get("attention", 0.0))


def prompt_parts(found: Recorded) -> LayerParts | None:
    """Of the mean step that computes prompts, alone or beside decoding; None where there is none."""
    by_class = found.prompt_step_s()
    if not by_class:
        return None
    return _parts(found, PROMPTS, found.prompt_steps, sum(by_class.values()), by_class.get("attention", 0.0))


def _parts(
    found: Recorded, phases: Sequence[str], steps: float, whole_s: float, attention_s: float
) -> LayerParts | None:
    if found.products is None or not whole_s:
        return None
    seconds = [found.products.of(phases, part) / steps for part in (ATTENTION, MLP, HEAD, UNKNOWN)]
    return LayerParts(whole_s, attention_s, *seconds)


def layer_sentence(found: Recorded) -> str:
    """`With its projections attention takes …`: of the decode step, with a space before it; empty where it is not told."""
    parts = decode_parts(found)
    if parts is None or found.products is None or found.products.reason is not None:
        return ""
    return (
        f" With its projections attention takes {format_share(parts.attention_share)} of the step, the MLP's matrix products {format_share(parts.mlp_share)}, "
        f"the output's table {format_share(parts.head_s / parts.whole_s)}."
    )


_COLUMNS: Final = (
    Column("Treatment"),
    Column("Step"),
    Column("Attention", "number"),
    Column("Its projections", "number"),
    Column("MLP", "number"),
    Column("Output's table", "number"),
    Column("Products not told", "number"),
    Column("Projections : MLP", "number"),
    Column("Attention : MLP", "number"),
)


def layer_table(there: Sequence[tuple[str, Recorded, float | None]], identifier: str) -> Table | None:
    """A row for each (label, twin, MLP's weights / projections') and kind of step; None where no twin holds a matrix product in a
    known layer."""
    rows = [Row(cells) for label, found, weights in there for cells in _rows(label, found, weights)]
    if not rows:
        return None
    return Table(
        identifier, "Attention and MLP", _COLUMNS, (Group(tuple(rows)),),
        "Mean over the steps of a kind. A matrix product is attention's or the MLP's by its place between the layers' writes of keys and values; norms, "
        "activations and rotations are in neither. Projections : MLP is near the ratio of their weights where reading them "
        "or multiplying with them is what takes the time. Attention : MLP holds attention with its projections against the MLP's products.",
    )  # fmt: skip


def _rows(label: str, found: Recorded, weights: float | None) -> Iterator[tuple[Cell, ...]]:
    for kind, parts in (("decode", decode_parts(found)), ("computing prompts", prompt_parts(found))):
        if parts is None or found.products is None:
            continue
        reason = found.products.reason
        own = (parts.projections_s, parts.mlp_s, parts.head_s)
        unknown = _cell(parts.unknown_s, parts.whole_s)
        yield (
            Cell(label),
            Cell(kind, note=f"{format_seconds(parts.whole_s)}, {'as it lasts' if kind == 'decode' else 'busy'}"),
            _cell(parts.attention_s, parts.whole_s),
            *(Cell("–") if reason else _cell(seconds, parts.whole_s) for seconds in own),
            Cell(unknown.text, note=reason or unknown.note),
            _ratio(parts.mlp_s / parts.projections_s if parts.projections_s else 0.0, weights),
            Cell("–" if reason or not parts.mlp_s else f"1 : {parts.mlp_share / parts.attention_share:.2g}"),
        )


def _cell(seconds: float, whole_s: float) -> Cell:
    return Cell(format_seconds(seconds) if seconds else "0 s", note=format_share(seconds / whole_s, 1))


def _ratio(measured: float, weights: float | None) -> Cell:
    return Cell(
        f"1 : {measured:.2g}" if measured else "–",
        note="" if weights is None else f"1 : {weights:.2g} by their weights",
    )
