"""Checks of servers that stand behind a front: was each request prefilled, its KV cache handed over, and at what cost."""

from typing import Final

import numpy as np

from leverlab.checks.base import CellInputs, Check, Finding, milliseconds
from leverlab.units import format_share

_HANDED_OVER_SHARE: Final = 0.5
"""Of the prompt tokens that the decode servers have not cached. Connectors leave the last block of a prompt out."""

_FRONT_SHARE: Final = 0.05
"""Of the median time to first token: what a proxy may add without being told of."""


def _prefills_missing(inputs: CellInputs) -> Finding | None:
    if not _disaggregated(inputs) or not inputs.ended_well.all():
        return None
    told = [
        value
        for name, value in inputs.server_delta.items()
        if name.startswith("prefill") and name.endswith(":requests_finished")
    ]
    if not told:
        return None
    prefilled, sent = sum(told), inputs.requests.num_rows
    saw, expected = f"the prefill servers finished {prefilled:.0f} requests", f"{sent}, as the client sent"
    if prefilled == sent:
        return Finding("ok", saw, expected)
    return Finding(
        "invalid",
        saw,
        expected,
        "requests went past the prefill servers, or somebody else used them: measure the cell again",
    )


def _kv_not_handed_over(inputs: CellInputs) -> Finding | None:
    taken = inputs.server_delta.get("handed_over_tokens")
    if not _disaggregated(inputs) or taken is None:
        return None
    prompts, cached = (
        sum(
            value
            for name, value in inputs.server_delta.items()
            if name.startswith("decode") and name.endswith(f":{counter}")
        )
        for counter in ("prompt_tokens", "prefix_hit_tokens")
    )
    due = prompts - cached
    if due <= 0:
        return None
    share = taken / due
    saw = f"{format_share(share, 1)} of the prompt tokens that the decode servers had not cached were taken over"
    expected = "nearly all: a decode server that computes prompts itself is no decode server"
    if share >= _HANDED_OVER_SHARE:
        return Finding("ok", saw, expected)
    remedy = (
        "see the logs of both servers for failed transfers, and whether prompts are longer than the connector's blocks"
    )
    return Finding("caution" if taken else "invalid", saw, expected, remedy)


def _front_slow(inputs: CellInputs) -> Finding | None:
    total, count = (inputs.server_delta.get(f"proxy_added_s_{part}") for part in ("sum", "count"))
    waits = inputs.column("ttft_service_s")[inputs.ended_well]
    waits = waits[~np.isnan(waits)]
    if total is None or not count or not len(waits):
        return None
    added_s, median_s = total / count, float(np.median(waits))
    saw = f"the proxy added {milliseconds(added_s)} to a request's first token, on average, of {milliseconds(median_s)}"
    expected = f"at most {format_share(_FRONT_SHARE)} of it"
    if added_s <= _FRONT_SHARE * median_s:
        return Finding("ok", saw, expected)
    return Finding(
        "caution", saw, expected, "the proxy is part of what was measured: give it a core, or lower the load"
    )


def _disaggregated(inputs: CellInputs) -> bool:
    return bool(inputs.specification["server"].get("topology") == "prefill-decode")


HANDOVER_CHECKS: Final = (
    Check("prefills_missing", "Did every request pass a prefill server?", _prefills_missing),
    Check("kv_not_handed_over", "Did the decode servers take the KV cache over?", _kv_not_handed_over, kept=()),
    Check("front_slow", "Is what the proxy adds small against the time to first token?", _front_slow),
)
