"""Checks of times: the client's own error, arithmetic, and the server's own view."""

from typing import Final

import numpy as np

from leverlab.checks.base import CellInputs, Check, Finding, milliseconds
from leverlab.checks.columns import Floats
from leverlab.units import format_share

CAUTION_ERROR_SHARE: Final = 0.05
INVALID_ERROR_SHARE: Final = 0.25
"""Client's error ÷ median ttft_s: from here on the number is marked, and no longer used."""

WAIT_SHARE: Final = 0.05
"""Share of a run that the client waited for a core, from which on it is marked."""

_ARITHMETIC_TOLERANCE_S: Final = 1e-6


def _no_client(inputs: CellInputs) -> bool:
    """Whether nobody sent the requests and stamped their tokens: an offline batch."""
    return bool(inputs.specification["phase"].get("client") == "offline")


def _client_error(inputs: CellInputs) -> Finding | None:
    if _no_client(inputs):
        return None
    error_s = inputs.instrument.get("ttft_error_s")
    median_s = _median(inputs, "ttft_s")
    if error_s is None:
        return Finding(
            "caution",
            "the client states no error of its own",
            "a bound on what the client adds to ttft_s",
            "use the replay client, or compare with it",
        )
    errors_s = inputs.column("ttft_error_s")
    told = _late_requests(errors_s[~np.isnan(errors_s)])
    return _against_median(
        float(error_s) if told is None else told,
        median_s,
        "the client adds up to {} to ttft_s (99 of 100 requests; of few, all but one)",
    )


def _send_late(inputs: CellInputs) -> Finding | None:
    lag_s = inputs.column("send_lag_s")
    late_s = _late_requests(lag_s[~np.isnan(lag_s)])
    if late_s is None:
        return None
    return _against_median(
        late_s, _median(inputs, "ttft_s"), "requests left up to {} late (99 of 100; of few, all but one)"
    )


def _late_requests(values_s: Floats) -> float | None:
    """The 99th percentile, and of fewer than a hundred the second largest: one late request moves no statistic that is given."""
    if len(values_s) < 2:
        return None
    return float(min(np.quantile(values_s, 0.99), np.sort(values_s)[-2]))


def _against_median(error_s: float, median_s: float | None, sentence: str) -> Finding:
    saw = sentence.format(milliseconds(error_s))
    if median_s is None:
        return Finding("caution", saw, "a median ttft_s to compare it with", "no request ended well")
    share = error_s / median_s if median_s > 0 else np.inf
    expected = f"at most {format_share(CAUTION_ERROR_SHARE)} of the median ttft_s, {milliseconds(median_s)}"
    if share <= CAUTION_ERROR_SHARE:
        return Finding("ok", saw, expected)
    return Finding(
        "invalid" if share > INVALID_ERROR_SHARE else "caution",
        f"{saw}: {format_share(share)} of the median",
        expected,
        "leave the client a quiet core of its own, or lower the rate",
    )


def _clock_jumped(inputs: CellInputs) -> Finding | None:
    if "clock_jumped" not in inputs.instrument:
        return None
    jump_s = float(inputs.instrument.get("clock_jump_s") or 0.0)
    saw, expected = f"the wall clock moved by {milliseconds(jump_s)} against the steady one", "no jump"
    if not inputs.instrument["clock_jumped"]:
        return Finding("ok", saw, expected)
    return Finding(
        "caution",
        saw,
        expected,
        "kernel stamps were not used, the times of reading were: see ttft_error_s; let NTP slew the clock, not step it",
    )


def _shared_core(inputs: CellInputs) -> Finding | None:
    shared = sorted(set(inputs.client_cores) & set(inputs.engine_cores))
    wait = inputs.instrument.get("run_queue_wait_share")
    if wait is None and not shared:
        return None
    waited = "an unknown share" if wait is None else format_share(wait, 1)
    saw = f"client and engine share {'cores ' + ', '.join(map(str, shared)) if shared else 'no core'}; the client waited for a core {waited} of the time"
    expected = f"no core shared, at most {format_share(WAIT_SHARE)} waiting"
    if not shared and (wait is None or wait <= WAIT_SHARE):
        return Finding("ok", saw, expected)
    return Finding(
        "caution", saw, expected, "keep one core for the client: give the job one more, or the engine one less"
    )


def _timestamps_out_of_order(inputs: CellInputs) -> Finding:
    well = inputs.ended_well
    sent, first, last = (inputs.column(name)[well] for name in ("sent_s", "first_token_s", "last_token_s"))
    expected = "sent, then first token, then last token"
    # A client that tells no absolute times leaves them null: comparisons with NaN are false, and nothing is claimed.
    wrong = (first < sent) | (last < first)
    if not wrong.any():
        return Finding("ok", f"in order for all {len(sent)}", expected)
    return Finding(
        "invalid", f"not in order for {int(wrong.sum())} of {len(sent)}", expected, "the client's clock is wrong"
    )


def _latency_arithmetic(inputs: CellInputs) -> Finding | None:
    well = inputs.ended_well
    names = ("e2e_s", "ttft_s", "tpot_s", "completion_tokens", "first_chunk_tokens")
    e2e, ttft, tpot, tokens, first = (inputs.column(name)[well] for name in names)
    one_chunk = tokens == first
    predicted = np.where(one_chunk, ttft, ttft + (tokens - first) * np.where(one_chunk, 0.0, tpot))
    error = np.abs(e2e - predicted)
    known = ~np.isnan(error)
    if not known.any():
        return None
    worst_s = float(error[known].max())
    tolerance_s = max(_ARITHMETIC_TOLERANCE_S, 1e-6 * float(e2e[known].max()))
    saw, expected = f"off by at most {milliseconds(worst_s)}", "e2e_s = ttft_s + tokens after the first chunk × tpot_s"
    if worst_s <= tolerance_s:
        return Finding("ok", saw, expected)
    return Finding("invalid", saw, expected, "the client's latencies contradict each other: do not use them")


def _server_ttft_disagrees(inputs: CellInputs) -> Finding | None:
    return _against_server(inputs, "ttft_s", inputs.column("ttft_service_s"))


def _server_e2e_disagrees(inputs: CellInputs) -> Finding | None:
    if _no_client(inputs):
        return None  # every request of a batch ends with the batch
    return _against_server(inputs, "e2e_s", inputs.column("last_token_s") - inputs.column("sent_s"))


def _against_server(inputs: CellInputs, histogram: str, seen_s: Floats) -> Finding | None:
    """The client's mean from the actual send (`seen_s`, one a request) against that of the server's `histogram`."""
    total, count = (inputs.server_delta.get(f"{histogram}_{part}") for part in ("sum", "count"))
    mine = seen_s[inputs.ended_well]
    if total is None or not count or not len(mine) or np.isnan(mine).all() or not inputs.ended_well.all():
        return None
    server_s, client_s = total / count, float(np.nanmean(mine))
    saw = f"mean {milliseconds(client_s)} at the client, {milliseconds(server_s)} at the server"
    expected = "the client's is longer, by what transport and the server's intake take"
    if client_s < server_s - max(0.002, 0.02 * server_s):
        return Finding("invalid", saw, expected, "a client cannot see a token before it was made: its clock is wrong")
    if client_s > server_s + max(0.010, 0.25 * server_s):
        return Finding(
            "caution", saw, expected, "requests wait before the engine sees them, at its HTTP front or in the client"
        )
    return Finding("ok", saw, expected)


def _median(inputs: CellInputs, name: str) -> float | None:
    values = inputs.column(name)[inputs.ended_well]
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else None


TIMING_CHECKS: Final = (
    Check("client_error", "Is the client's own error small against what it measures?", _client_error),
    Check("send_late", "Did requests leave when they were scheduled?", _send_late),
    Check("clock_jumped", "Did the clock run on?", _clock_jumped),
    Check("shared_core", "Did the client have a core to itself?", _shared_core),
    Check("timestamps_out_of_order", "Is every request sent before it is answered?", _timestamps_out_of_order),
    Check("latency_arithmetic", "Do ttft, tpot and e2e add up?", _latency_arithmetic),
    Check("server_ttft_disagrees", "Does the server's own time to first token agree?", _server_ttft_disagrees),
    Check("server_e2e_disagrees", "Does the server's own end-to-end time agree?", _server_e2e_disagrees),
)
