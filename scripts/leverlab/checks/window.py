"""The stated window of a cell: which requests its rates are taken over, and how long it is."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leverlab.checks.columns import Floats
from leverlab.load_point import LoadPoint

WARMUP_SHARE: Final = 0.1
"""Share of an open loop's requests that arrive before its window opens, while the server fills."""


@dataclass(frozen=True, slots=True)
class Window:
    """`inside`: the requests that count, one flag a row; from `start_s` to `end_s`, in seconds of the phase."""

    inside: NDArray[np.bool_]
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """What rates divide by."""
        return self.end_s - self.start_s


def steady_window(scheduled_s: Floats, sent_s: Floats, last_token_s: Floats, load: LoadPoint) -> Window | None:
    """The window of a cell. None where it has no length: no request, or none that was sent and got a token.

    At a rate: from the arrival a_k of request k = ⌊n/10⌋ (in order of arrival, from 0) to the last arrival, half-open, so
    that the n - 1 - k requests k … n - 2 arrive within a_{n-1} - a_k. Arrivals are those that were scheduled: how fast the
    server or the client is moves no end of the window. In a burst and in a closed loop: all requests, from the first send
    to the last token.
    """
    count = len(scheduled_s)
    if load.kind == "rate":
        if count < 2 or np.isnan(scheduled_s).any():
            return None
        order = np.argsort(scheduled_s, kind="stable")
        first = int(count * WARMUP_SHARE)
        inside = np.zeros(count, bool)
        inside[order[first:-1]] = True
        window = Window(inside, float(scheduled_s[order[first]]), float(scheduled_s[order[-1]]))
        return window if window.length_s > 0 else None
    if np.isnan(sent_s).all() or np.isnan(last_token_s).all():
        return None
    window = Window(np.ones(count, bool), float(np.nanmin(sent_s)), float(np.nanmax(last_token_s)))
    return window if window.length_s > 0 else None


def offered_rate(window: Window, load: LoadPoint) -> float | None:
    """Requests per second that arrived in the window, as they were drawn; None in a burst or a closed loop."""
    return float(window.inside.sum()) / window.length_s if load.kind == "rate" else None


def achieved_rate(window: Window, ended_well: NDArray[np.bool_], last_token_s: Floats, load: LoadPoint) -> float | None:
    """Requests per second that the server finished.

    At a rate: of the requests of the window, those between the 10 % and the 90 % point of their ends, per time between
    these two ends. (Ends per arrival window would be the offered rate by construction, since every request is followed to
    its end; and the first and last ends depend on single long requests.) Otherwise: requests that ended well / the window.
    """
    counted = window.inside & ended_well
    if load.kind != "rate":
        return float(counted.sum()) / window.length_s
    return _central_rate(last_token_s[counted & ~np.isnan(last_token_s)])


def comparable_arrival_rate(
    window: Window, ended_well: NDArray[np.bool_], scheduled_s: Floats, last_token_s: Floats
) -> float | None:
    """Requests per second at which the requests of `achieved_rate` arrived: between the same points, of the same requests.

    In a drawn process the middle of the arrivals is faster or slower than their whole, with few requests by a tenth and more.
    A server that keeps up finishes them as they came, so that this is what `achieved_rate` is held against; `offered_rate`
    is what the cell was loaded with.
    """
    return _central_rate(scheduled_s[window.inside & ended_well & ~np.isnan(last_token_s)])


def _central_rate(instants_s: Floats) -> float | None:
    """Instants per second between their 10 % and their 90 % point; None where nothing lies between."""
    ordered = np.sort(instants_s)
    low = int(0.1 * (len(ordered) - 1))
    high = len(ordered) - 1 - low
    if len(ordered) < 2 or ordered[high] <= ordered[low]:
        return None
    return float((high - low) / (ordered[high] - ordered[low]))
