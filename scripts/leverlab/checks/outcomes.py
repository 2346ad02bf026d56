"""Checks of what became of the requests."""

from collections.abc import Callable
from typing import Final

import numpy as np

from leverlab.checks.base import CellInputs, Check, Finding
from leverlab.metrics import MINIMUM_SAMPLES

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


def _failures(status: str) -> Callable[[CellInputs], Finding]:
    def look(inputs: CellInputs) -> Finding:
        table = inputs.requests
        failed = [row for row, found in enumerate(table.column("status").to_pylist()) if found == status]
        share = len(failed) / max(table.num_rows, 1)
        expected = f"none; beyond {MAXIMUM_FAILED_SHARE:.0%} of requests the others are no fair sample"
        if not failed:
            return Finding("ok", "none", expected)
        code = table.column("http_status")[failed[0]].as_py()
        words = table.column("error")[failed[0]].as_py()
        answered = "" if code in (None, 200) else f"HTTP {code}: "
        return Finding(
            "invalid" if share > MAXIMUM_FAILED_SHARE else "caution",
            f"{len(failed)} of {table.num_rows} ({share:.1%}), the first with: {answered}{words}"[:300],
            expected,
            "read server.log of the trial at that time",
        )

    return look


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
    Check("http_errors", "Did the server accept every request?", _failures("http_error")),
    Check("streams_cut", "Did every answer reach its end?", _failures("cut")),
    Check("requests_timed_out", "Did every answer end in time?", _failures("timeout")),
    Check("malformed_answers", "Was every answer of the protocol, with at least one token?", _failures("malformed")),
    Check("few_samples", "Are there enough requests for the percentiles?", _few_samples),
)
