"""Whether a server finishes requests as fast as they come: the one place where a cell is held against the knee."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leverlab.checks.columns import Floats, ended_well, numeric
from leverlab.checks.window import Window, achieved_rate, comparable_arrival_rate, steady_window
from leverlab.load_point import LoadPoint
from leverlab.stats.knee import beyond_knee


@dataclass(frozen=True, slots=True)
class KeepingUp:
    """`arrived` and `finished`: requests a second, of the same requests; None where too few ended to tell.

    `beyond`: what `leverlab.stats.knee.beyond_knee` says; None where nothing tells.
    """

    arrived: float | None = None
    finished: float | None = None
    beyond: bool | None = None


def keeping_up(requests: pa.Table, load: LoadPoint, waiting: bool) -> KeepingUp:
    """How a cell's server kept up with `requests` (schema `leverlab.load.schema.REQUESTS`), offered at `load`.

    Nothing tells but at a rate, and where requests are `waiting` for the answers to others: then the server itself sets how
    fast they come.
    """
    scheduled_s, first_s, last_s = (
        numeric(requests, name) for name in ("scheduled_s", "first_token_s", "last_token_s")
    )
    window = steady_window(scheduled_s, numeric(requests, "sent_s"), last_s, load)
    if window is None or load.kind != "rate" or waiting:
        return KeepingUp()
    return in_window(window, ended_well(requests), scheduled_s, first_s, last_s, load)


def in_window(
    window: Window, well: NDArray[np.bool_], scheduled_s: Floats, first_s: Floats, last_s: Floats, load: LoadPoint
) -> KeepingUp:
    """The same of arrays with one value a request, NaN where there is none, and the cell's `window`."""
    arrived = comparable_arrival_rate(window, well, scheduled_s, last_s)
    finished = achieved_rate(window, well, last_s, load)
    share = finished / arrived if arrived and finished is not None else None
    return KeepingUp(arrived, finished, beyond_knee(scheduled_s, first_s, last_s, share))
