"""Checks of whether the server did the same thing from the beginning of the window to its end."""

from typing import Final

import numpy as np
from scipy import stats

from leverlab.checks.base import CellInputs, Check, Finding, milliseconds
from leverlab.checks.columns import Floats, numeric
from leverlab.checks.window import steady_window
from leverlab.stats.trend import robust_slope
from leverlab.units import format_share

STALL_STEPS: Final = 20
"""A silence this many times as long as the usual gap between chunks is a stall,"""
STALL_PREFILLS: Final = 3
"""unless it is within this many times what the longest prompt's prefill takes, which may hold up every other request,"""
SHORTEST_STALL_S: Final = 0.2
"""or shorter than this: what a thread that was not scheduled for once may cost."""

DRIFT_SHARE: Final = 0.2
"""Change of the trend over the window ÷ median, from which on a cell is said to drift,"""
DRIFT_CHANCE: Final = 0.001
"""where a trend of this strength would arise by chance no more often than this."""
_DRIFT_REQUESTS: Final = 20


def _compiled_in_window(inputs: CellInputs) -> Finding | None:
    if inputs.compilation_lines is None:
        return None
    expected = "no graph compiled or captured while the cell was measured"
    if not inputs.compilation_lines:
        return Finding("ok", "the server's log names none", expected)
    more = f" (and {len(inputs.compilation_lines) - 1} more lines)" if len(inputs.compilation_lines) > 1 else ""
    return Finding(
        "invalid",
        f"the server's log: {inputs.compilation_lines[0][:160]}{more}",
        expected,
        "the warm-up did not meet this shape: measure again on the same machine, where compile caches are warm now",
    )


def _stalled(inputs: CellInputs) -> Finding | None:
    silence_s, usual_s = _longest_silence(inputs), _usual_gap(inputs)
    if silence_s is None or usual_s is None:
        return None
    limit_s = max(STALL_STEPS * usual_s, STALL_PREFILLS * _longest_prefill_s(inputs), SHORTEST_STALL_S)
    saw = f"for {milliseconds(silence_s)} no request that was being answered got a token"
    expected = f"at most {milliseconds(limit_s)}; the usual gap is {milliseconds(usual_s)}"
    if silence_s <= limit_s:
        return Finding("ok", saw, expected)
    return Finding(
        "caution",
        saw,
        expected,
        "something held up the whole server, such as a compilation, a garbage collection or a neighbour: see the cell over "
        "time in the report, and the server's log",
    )


def _drift(inputs: CellInputs) -> Finding | None:
    window = steady_window(
        inputs.column("scheduled_s"), inputs.column("sent_s"), inputs.column("last_token_s"), inputs.load
    )
    # All at once is no steady state; beyond its capacity a server drifts by nature, and `saturated` says so. A search ends as
    # near to that as it can, and what it is about is the rate.
    if window is None or inputs.load.kind == "burst" or inputs.search is not None or inputs.keeping_up.beyond:
        return None
    inside = window.inside & inputs.ended_well
    begun_s = inputs.column("sent_s")[inside]
    if _is_drift(_trend(begun_s, inputs.column("prompt_tokens")[inside], window.length_s)):
        return None  # conversations grow: longer prompts take longer on the same server
    trends = {
        name: trend
        for name in ("ttft_s", "tpot_s")
        if (trend := _trend(begun_s, inputs.column(name)[inside], window.length_s)) is not None
    }
    if not trends:
        return None
    name, (share, chance) = max(trends.items(), key=lambda item: abs(item[1][0]) * (item[1][1] < DRIFT_CHANCE))
    saw = f"{name} changed by {format_share(share, signed=True)} of its median from the beginning of the window to its end (chance {chance:.2g})"
    expected = f"less than {format_share(DRIFT_SHARE)}, or a trend that chance explains"
    if not _is_drift((share, chance)):
        return Finding("ok", saw, expected)
    return Finding(
        "caution",
        saw,
        expected,
        "the server was not in a steady state: look for clocks, temperature, a cache that fills, or a queue; run for longer",
    )


def _is_drift(trend: tuple[float, float] | None) -> bool:
    """Whether a trend (see `_trend`) is large and not by chance."""
    return trend is not None and abs(trend[0]) >= DRIFT_SHARE and trend[1] < DRIFT_CHANCE


def _trend(begun_s: Floats, values: Floats, length_s: float) -> tuple[float, float] | None:
    """(change over the window ÷ median, chance of such a trend): Theil and Sen's slope, and Kendall's test of it.

    Sources: Sen (1968), JASA 63; Kendall (1938), Biometrika 30. Both take no notice of single wild values. Requests that
    share a queue are not independent, so that the chance is understated: the size of the change has to be large as well.
    """
    known = ~(np.isnan(begun_s) | np.isnan(values))
    if int(known.sum()) < _DRIFT_REQUESTS:
        return None
    middle = float(np.median(values[known]))
    if middle <= 0:
        return None
    if np.ptp(values[known]) == 0:
        return 0.0, 1.0
    slope = robust_slope(begun_s[known], values[known])
    return slope * length_s / middle, float(stats.kendalltau(begun_s[known], values[known]).pvalue)


def _longest_silence(inputs: CellInputs) -> float | None:
    """The longest time without a chunk for any request while at least one was between its first chunk and its last."""
    if not inputs.chunks.num_rows:
        return None
    well = inputs.ended_well
    begins, ends = (np.sort(inputs.column(name)[well]) for name in ("first_token_s", "last_token_s"))
    begins, ends = begins[~np.isnan(begins)], ends[~np.isnan(ends)]
    arrivals = np.sort(numeric(inputs.chunks, "arrival_s"))
    if len(arrivals) < 2 or not len(begins):
        return None
    # Between two neighbouring arrivals nobody begins or ends: those that began by the first and end by the second are running.
    running = np.searchsorted(begins, arrivals[:-1], "right") - np.searchsorted(ends, arrivals[1:], "left")
    gaps = np.diff(arrivals)[running > 0]
    return float(gaps.max()) if len(gaps) else None


def _usual_gap(inputs: CellInputs) -> float | None:
    """Median gap between two chunks of one request."""
    index, arrival_s = inputs.chunks.column("index").to_numpy(), numeric(inputs.chunks, "arrival_s")
    order = np.lexsort((arrival_s, index))
    gaps = np.diff(arrival_s[order])[np.diff(index[order]) == 0]
    return float(np.median(gaps)) if len(gaps) else None


def _longest_prefill_s(inputs: CellInputs) -> float:
    """What the longest prompt's prefill takes, from the server's mean; where it tells none, from the median ttft."""
    well = inputs.ended_well
    prompts = inputs.column("prompt_tokens")[well]
    prompts = prompts[~np.isnan(prompts)]
    longest = float(prompts.max() / prompts.mean()) if len(prompts) and prompts.mean() > 0 else 1.0
    total, count = (inputs.server_delta.get(f"prefill_time_s_{part}") for part in ("sum", "count"))
    if total is not None and count:
        return longest * total / count
    waits = inputs.column("ttft_service_s")[well]
    return longest * float(np.nanmedian(waits)) if len(waits) and not np.isnan(waits).all() else 0.0


STEADINESS_CHECKS: Final = (
    Check("compiled_in_window", "Was nothing compiled while the cell was measured?", _compiled_in_window),
    Check("stalled", "Did the server go on without a pause?", _stalled),
    Check("drift", "Was the server the same at the end as at the beginning?", _drift),
)
