"""Whose a matrix product is, attention's or the MLP's: told by its place in the order of a step's kernels, as names do not tell.

Between one layer's kernel that writes its keys and values (or, where none stands alone, its attention) and the next one's, a
decoder like Llama's multiplies four times: attention's output projection, gate and up in one, down, and the next layer's
queries, keys and values in one. After the last layer stands the output's table besides. Where another number is found nothing
is told: experts are routed, adapters multiply beside, some engines keep gate and up apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from leverlab.profile.analysis import UNKNOWN, layer_anchors
from leverlab.profile.tables import Trace

ATTENTION: Final = "attention"
MLP: Final = "mlp"
HEAD: Final = "head"

_LAYER: Final = (ATTENTION, MLP, MLP, ATTENTION)
_LAST_LAYER: Final = (ATTENTION, MLP, MLP, HEAD, ATTENTION)
_CONTINUED: Final = r"(?i)split_?k_?reduce"
"""Adds up what the product before it left in parts, and belongs to it."""
_TOLD: Final = 0.5
"""Share of the products' time that must find its place for any of it to be told."""


@dataclass(frozen=True, slots=True)
class LayerProducts:
    """Time of matrix products by whose they are. `reason` says why nothing is told; `time_s` is of `UNKNOWN` alone then."""

    time_s: pd.DataFrame
    """Columns phase, part (`ATTENTION`, `MLP`, `HEAD` or `UNKNOWN`), time_s: the kernels' own durations in the mean over devices."""
    reason: str | None

    def of(self, phases: Sequence[str], part: str) -> float:
        """Seconds of `part` in steps of `phases`."""
        own = self.time_s["phase"].isin(phases) & (self.time_s["part"] == part)
        return float(self.time_s.loc[own, "time_s"].sum())


def layer_products(trace: Trace, layers: int) -> LayerProducts | None:
    """Whose the matrix products of `trace` are, of a model with `layers` layers; None where it holds none, or no layer is told."""
    parts: list[pd.DataFrame] = []
    counts: list[int] = []
    for _, kernels in trace.devices:
        found = layer_anchors(kernels, layers)
        products = kernels[kernels["class"] == "gemm"].sort_values("start_s")
        if found is None or products.empty:
            continue
        anchors, first = found
        part, between = _placed(products, anchors["start_s"].to_numpy(float), first, layers)
        counts += between
        phase = products["phase"].astype("object").where(products["phase"].notna(), UNKNOWN)
        parts.append(
            pd.DataFrame({"phase": phase, "part": part, "time_s": products["duration_s"] / len(trace.devices)})
        )
    if not parts:
        return None
    times = pd.concat(parts)
    whole = float(times["time_s"].sum())
    told = float(times.loc[times["part"] != UNKNOWN, "time_s"].sum())
    reason = None
    if told < _TOLD * whole:
        reason = _reason(trace, counts)
        times["part"] = UNKNOWN
    return LayerProducts(times.groupby(["phase", "part"], sort=False)["time_s"].sum().reset_index(), reason)


def _placed(
    products: pd.DataFrame, anchors: "np.ndarray[Any, np.dtype[np.float64]]", first: int, layers: int
) -> tuple[list[str], list[int]]:
    """The part of each of `products`, and how many lie between each two anchors within a step.

    A stretch at either end of the window may have been cut off; what of it is whole is told.
    """
    stretch = np.searchsorted(anchors, products["start_s"].to_numpy(float), side="right") - 1
    begins = ~products["kernel"].astype(str).str.contains(_CONTINUED).to_numpy(bool)
    part = np.full(len(products), UNKNOWN, dtype=object)
    between: list[int] = []
    for number in range(-1, len(anchors)):
        own = np.flatnonzero(stretch == number)
        if not len(own):
            continue
        place = np.cumsum(begins[own]) - 1
        count = int(begins[own].sum())
        last = (number - first) % layers == layers - 1
        expected = _LAST_LAYER if last else _LAYER
        if number == -1:
            # What stands right before a layer's keys and values are written are their projections.
            part[own[place == count - 1]] = ATTENTION
        elif count == len(expected) or (number == len(anchors) - 1 and 0 < count < len(expected)):
            part[own] = [expected[max(each, 0)] for each in place]
        if 0 <= number < len(anchors) - 1 and not last:
            between.append(count)
    return [str(each) for each in part], between


def _reason(trace: Trace, counts: Sequence[int]) -> str:
    if (trace.kernels["class"] == "moe").any():
        return "the model is a mixture of experts, whose matrix products do not come four a layer"
    usual = int(pd.Series(counts).mode().iloc[0]) if counts else 0
    return (
        f"{usual} matrix products lie between most layers' keys and values, and not the {len(_LAYER)} of a layer like Llama's: its output "
        "projection, gate and up, down, and the projections of the next"
    )
