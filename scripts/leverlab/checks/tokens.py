"""Checks of token counts: what was asked for, what the client counted, what the server counted."""

from typing import Final

import numpy as np
import pyarrow.compute as pc

from leverlab.checks.base import CellInputs, Check, Finding

_SGLANG_YIELD: Final = "SGLANG_SIMULATE_ACC_LEN"
"""The variable by which SGLang is told what a checked draft yields."""

_DRAFTS: Final = 400
"""Checked drafts from which on their mean yield is known to a few per cent."""

_YIELD_SHARE: Final = 0.1
"""By how much of it the mean yield of a draft may differ from what was asked; the last draft of an answer is cut to its length."""


def _tokens_not_as_asked(inputs: CellInputs) -> Finding:
    well = inputs.ended_well
    asked, got = inputs.column("requested_output_tokens")[well], inputs.column("completion_tokens")[well]
    wrong = ~(asked == got)
    expected = "as many generated tokens as each request asked for (end-of-sequence is ignored)"
    if not wrong.any():
        return Finding("ok", f"all {len(asked)} as asked", expected)
    first = int(np.flatnonzero(wrong)[0])
    return Finding(
        "invalid",
        f"{int(wrong.sum())} of {len(asked)} otherwise, the first {got[first]:.0f} for {asked[first]:.0f}",
        expected,
        "lengths that the server chooses differ between treatments: see that the engine ignores end-of-sequence and that "
        "prompt and output fit its context",
    )


def _tokens_assumed(inputs: CellInputs) -> Finding:
    if "token_source" not in inputs.requests.column_names:
        return Finding("caution", "the client does not say", "tokens of a chunk known from usage or token ids")
    sources = sorted({source for source in inputs.requests.column("token_source").to_pylist() if source})
    expected = "tokens of a chunk known from usage or token ids"
    if "chunks" not in sources:
        return Finding("ok", ", ".join(sources) or "no tokens", expected)
    return Finding(
        "caution",
        "one token a chunk was assumed",
        expected,
        "under speculation a chunk holds several: switch on the engine's continuous usage",
    )


def _chunks_disagree(inputs: CellInputs) -> Finding | None:
    if not inputs.chunks.num_rows:
        return None
    sums = inputs.chunks.group_by("index").aggregate([("tokens", "sum")])
    by_index = dict(zip(sums.column("index").to_pylist(), sums.column("tokens_sum").to_pylist(), strict=True))
    rows = inputs.requests.filter(pc.equal(inputs.requests.column("status"), "ok"))
    usage = dict(zip(rows.column("index").to_pylist(), rows.column("completion_tokens").to_pylist(), strict=True))
    wrong = [index for index, tokens in usage.items() if by_index.get(index, 0) != tokens]
    expected = "tokens of each request's chunks add up to its usage"
    if not wrong:
        return Finding("ok", f"they do for all {len(usage)}", expected)
    assumed = dict(zip(rows.column("index").to_pylist(), rows.column("token_source").to_pylist(), strict=True))
    told = [index for index in wrong if assumed[index] != "chunks"]
    index = (told or wrong)[0]
    saw = f"{len(wrong)} of {len(usage)} do not; request {index}: {by_index.get(index, 0)} in chunks, {usage[index]} in usage"
    if not told:
        return Finding(
            "caution",
            f"{saw}; the client took each chunk for one token",
            expected,
            "some chunks carry several tokens: these requests have no tpot_s, and gaps between chunks are no inter-token latencies",
        )
    return Finding(
        "invalid",
        saw,
        expected,
        "the stream or the usage is wrong: tpot_s and throughput of this cell cannot be believed",
    )


def _server_disagrees(inputs: CellInputs, counter: str, column: str) -> Finding | None:
    complete = bool(inputs.ended_well.all())
    mine = float(np.nansum(inputs.column(column)[inputs.ended_well]))
    theirs = inputs.server_delta.get(counter)
    expected = f"{mine:.0f}{'' if complete else ' or more'}, as the client counted"
    if theirs is None:
        return Finding(
            "caution", f"the server has no counter {counter}", expected, "see what the engine's /metrics names"
        )
    saw = f"the server counted {theirs:.0f}"
    # Of requests that did not end well the server may have counted any part: then it can only have more.
    if theirs == mine or (not complete and theirs > mine):
        return Finding("ok", saw, expected)
    return Finding(
        "invalid",
        saw,
        expected,
        "somebody else used the server, a counter was reset, or the usage is wrong: measure the cell again",
    )


def _generated_disagree(inputs: CellInputs) -> Finding | None:
    return _server_disagrees(inputs, "generation_tokens", "completion_tokens")


def _prompts_disagree(inputs: CellInputs) -> Finding | None:
    return _server_disagrees(inputs, "prompt_tokens", "prompt_tokens")


def _foreign_requests(inputs: CellInputs) -> Finding | None:
    finished = inputs.server_delta.get("requests_finished")
    if finished is None:
        return None
    sent, well = inputs.requests.num_rows, int(inputs.ended_well.sum())
    saw, expected = f"the server finished {finished:.0f} requests", f"{well} to {sent}, as the client sent"
    if well <= finished <= sent:
        return Finding("ok", saw, expected)
    return Finding(
        "invalid", saw, expected, "somebody else used the server, or a counter was reset: measure the cell again"
    )


_COUNTERS: Final = (
    "prompt_tokens",
    "generation_tokens",
    "requests_finished",
    "prefix_queried_tokens",
    "prefix_hit_tokens",
    "preemptions",
)


def _counters_reset(inputs: CellInputs) -> Finding | None:
    present = {
        name: value
        for name, value in inputs.server_delta.items()
        if name in _COUNTERS or name.endswith(("_sum", "_count"))
    }
    if not present:
        return Finding("caution", "the server gave no counters", "counters before and after the cell", "see /metrics")
    fell = {name: value for name, value in present.items() if value < 0}
    if not fell:
        return Finding("ok", f"none of {len(present)} counters fell", "counters only grow")
    name, value = next(iter(fell.items()))
    return Finding(
        "invalid",
        f"{name} fell by {-value:g}",
        "counters only grow",
        "the server restarted within the cell: measure again",
    )


def _acceptance_not_as_asked(inputs: CellInputs) -> Finding | None:
    """Only where acceptance is synthetic: an engine that does not do that takes the setting and heeds it not (vLLM on a CPU)."""
    rates, drafts, accepted = _synthetic(inputs)
    if not rates or drafts is None or accepted is None or drafts < _DRAFTS:
        return None
    wanted, got = 1 + sum(rates), 1 + accepted / drafts
    saw, expected = f"a checked draft yields {got:.2f} tokens", f"{wanted:.2f}, as synthetic acceptance has it"
    if abs(got - wanted) <= _YIELD_SHARE * wanted:
        return Finding("ok", saw, expected)
    return Finding(
        "invalid",
        saw,
        expected,
        "the engine did not heed the acceptance that the level asks for: see whether it has it on this device",
    )


def _acceptance_not_verified(inputs: CellInputs) -> Finding | None:
    rates, drafts, accepted = _synthetic(inputs)
    if not rates and _SGLANG_YIELD not in inputs.specification["server"].get("environment", {}):
        return None
    expected = (
        f"at least {_DRAFTS} checked drafts, whose yield tells whether the acceptance is the one that was asked for"
    )
    if drafts is None or accepted is None:
        return Finding("caution", "the server counts no drafts", expected, "see /metrics of the engine")
    saw = f"{drafts:.0f} checked drafts"
    if drafts >= _DRAFTS:
        return Finding("ok", saw, expected)
    return Finding(
        "caution", saw, expected, "not verified, and not a fault: more requests or longer answers give more drafts"
    )


def _synthetic(inputs: CellInputs) -> tuple[list[float] | None, float | None, float | None]:
    """The acceptance rates that were asked for, if any, and the drafts and accepted tokens that the server counted."""
    asked = inputs.specification["server"].get("flags", {}).get("speculative-config")
    rates = asked.get("synthetic_acceptance_rates") if isinstance(asked, dict) else None
    return rates, inputs.server_delta.get("drafts"), inputs.server_delta.get("accepted_tokens")


TOKEN_CHECKS: Final = (
    Check("tokens_not_as_asked", "Did every request get as many tokens as it asked for?", _tokens_not_as_asked),
    Check("tokens_assumed", "Are the tokens of each chunk known?", _tokens_assumed),
    Check("chunks_disagree", "Do the chunks of a request add up to its usage?", _chunks_disagree),
    Check("generated_tokens_disagree", "Do client and server agree on generated tokens?", _generated_disagree),
    Check(
        "acceptance_not_as_asked",
        "Were as many draft tokens accepted as synthetic acceptance asks for?",
        _acceptance_not_as_asked,
        kept=(),
    ),
    Check(
        "acceptance_not_verified",
        "Were there drafts enough to see what was accepted?",
        _acceptance_not_verified,
        kept=(),
    ),
    Check("prompt_tokens_disagree", "Do client and server agree on prompt tokens?", _prompts_disagree),
    Check("foreign_requests", "Did the server serve these requests and no others?", _foreign_requests),
    Check("counters_reset", "Did the server's counters only grow?", _counters_reset),
)
