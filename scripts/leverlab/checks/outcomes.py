"""Checks of what became of the requests."""

import re
from collections.abc import Callable
from typing import Final

import numpy as np

from leverlab.checks.base import CellInputs, Check, Finding
from leverlab.metrics import MINIMUM_SAMPLES
from leverlab.units import format_share

MAXIMUM_FAILED_SHARE: Final = 0.01
"""Beyond this share of failed requests the percentiles of the others describe other requests than those that were sent."""


def _requests_missing(inputs: CellInputs) -> Finding:
    indices = inputs.requests.column("index").to_pylist()
    distinct = len(set(indices))
    saw = f"{len(indices)} results for {distinct} different requests"
    expected = f"one result for each of {inputs.workload_requests} requests"
    if len(indices) == distinct == inputs.workload_requests:
        return Finding("ok", saw, expected)
    return Finding("invalid", saw, expected, "the client lost or doubled requests: measure the cell again")


def _none_ended_well(inputs: CellInputs) -> Finding:
    well = int(inputs.ended_well.sum())
    saw, expected = f"{well} requests ended well", "at least one"
    if well:
        return Finding("ok", saw, expected)
    return Finding("invalid", saw, expected, "read server.log of the trial: the server answered nothing of use")


_REJECTED: Final = (429, 503)
"""HTTP statuses by which a server that lives turns a request away: too many requests, no capacity."""


_ADMISSION_LIMITS: Final = frozenset({"max-num-queued-reqs", "max-num-queued-tokens", "max-queued-requests"})
"""Flags that ask a server to turn requests away."""


def _limits_admission(inputs: CellInputs) -> bool:
    return not _ADMISSION_LIMITS.isdisjoint(inputs.specification["server"].get("flags", ()))


_OWN_CODE: Final = re.compile(r'"code":\s*(\d{3})\b')


def _answered(http_status: int | None, error: str | None) -> int | None:
    """The status that a request was answered with; in a stream that had begun with 200, the one that the error itself names."""
    named = _OWN_CODE.search(error or "") if http_status == 200 else None
    return int(named[1]) if named else http_status


def _failures(
    status: str,
    counts: Callable[[int | None], bool] = lambda _: True,
    remedy: str = "read server.log of the trial at that time",
    asked_for: Callable[[CellInputs], bool] = lambda _: False,
) -> Callable[[CellInputs], Finding]:
    """A check of the requests with `status` whose HTTP status `counts`.

    Where they are what the server was `asked_for` they are told and do not take the cell's numbers away.
    """

    def look(inputs: CellInputs) -> Finding:
        table = inputs.requests
        names = ("status", "http_status", "error")
        ends = zip(*(table.column(name).to_pylist() for name in names), strict=True)
        failed = [row for row, (found, *told) in enumerate(ends) if found == status and counts(_answered(*told))]
        share = len(failed) / max(table.num_rows, 1)
        expected = f"none; beyond {format_share(MAXIMUM_FAILED_SHARE)} of requests the others are no fair sample"
        if not failed:
            return Finding("ok", "none", expected)
        code = table.column("http_status")[failed[0]].as_py()
        words = table.column("error")[failed[0]].as_py()
        answered = "" if code in (None, 200) else f"HTTP {code}: "
        if asked_for(inputs):
            expected = "what a limit of admission turns away: the latencies are of those it let in, and error_ratio counts the others"
        return Finding(
            "invalid" if share > MAXIMUM_FAILED_SHARE and not asked_for(inputs) else "caution",
            f"{len(failed)} of {table.num_rows} ({format_share(share, 1)}), the first with: {answered}{words}"[:300],
            expected,
            remedy,
        )

    return look


def _stopped_early(inputs: CellInputs) -> Finding:
    reasons = [reason for reason in inputs.requests.column("finish_reason").to_pylist() if reason is not None]
    stopped = sum(reason == "stop" for reason in reasons)
    saw = f"{stopped} of {len(reasons)} answers ended by themselves"
    expected = "none: each generates the length it was given, whatever the model would say"
    if not stopped:
        return Finding("ok", saw, expected)
    return Finding(
        "invalid",
        saw,
        expected,
        "the engine obeyed an end-of-sequence token or a stop word in spite of ignore_eos: lengths, and with them all times, "
        "are then the model's choice and differ between treatments",
    )


def _few_samples(inputs: CellInputs) -> Finding:
    well = int(np.sum(inputs.ended_well))
    left_out = [name for name, needed in MINIMUM_SAMPLES.items() if well < needed]
    saw = f"{well} requests that ended well" + (f"; {' and '.join(left_out)} not given" if left_out else "")
    expected = "20 for a p95, 100 for a p99: one request beyond it"
    if well >= MINIMUM_SAMPLES["p95"]:
        return Finding("ok", saw, expected)
    return Finding("caution", saw, expected, "the cell says little about its tail: send more requests")


OUTCOME_CHECKS: Final = (
    Check("requests_missing", "Is every request of the workload accounted for, once?", _requests_missing),
    Check("no_request_ended_well", "Did the server answer at all?", _none_ended_well),
    Check("connection_errors", "Did every request get an answer?", _failures("connection_error")),
    Check(
        "http_errors",
        "Did the server answer without errors?",
        _failures("http_error", lambda code: code not in _REJECTED),
    ),
    Check(
        "requests_rejected",
        "Did the server accept every request?",
        _failures(
            "http_error",
            lambda code: code in _REJECTED,
            "it limits what it admits (HTTP 429, 503): lower the rate, or raise the limit; see server.log of the trial",
            _limits_admission,
        ),
    ),
    Check("streams_cut", "Did every answer reach its end?", _failures("cut")),
    Check("requests_timed_out", "Did every answer end in time?", _failures("timeout")),
    Check("malformed_answers", "Was every answer of the protocol?", _failures("malformed")),
    Check("no_tokens", "Did every answer hold at least one token?", _failures("no_tokens")),
    Check("stopped_early", "Did every answer go on to the length it was given?", _stopped_early),
    Check("few_samples", "Are there enough requests for the percentiles?", _few_samples),
)
