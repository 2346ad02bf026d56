"""Each check: silent on a clean cell, and marking the fault it is for with its own code."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.checks import CHECKS, CellInputs, check_cell, read_checks, worst, write_checks
from leverlab.checks.conditions import keeps_up
from leverlab.checks.window import achieved_rate, offered_rate, steady_window
from leverlab.config.workload import MultiTurn
from leverlab.load_point import LoadPoint
from leverlab.records import CheckResult, SearchRecord
from leverlab.telemetry.gpu import GPU
from leverlab.telemetry.host import HOST
from leverlab.theory.floors import Floors
from tests.unit.measured_cells import chunks_table, request_row, requests_table, server_delta

Rows = list[dict[str, Any]]

REQUESTS = 120
SPECIFICATION = {
    "server": {"engine": {"kind": "truth", "versions": {"torch": "2.13.0+cpu"}}},
    "phase": {"load": {"kind": "rate", "value": 8}, "cache": "cold"},
}
CLIENT = {"ttft_error_s": 0.0002, "clock_jumped": False, "clock_jump_s": 0.0, "run_queue_wait_share": 0.001}


def rows(count: int = REQUESTS) -> Rows:
    return [request_row(index, index * 0.125) for index in range(count)]


def clean(made: Rows | None = None, **changes: Any) -> CellInputs:
    """A cell in which nothing is wrong, but for what `made` and `changes` say."""
    made = rows() if made is None else made
    values: dict[str, Any] = {
        "specification": SPECIFICATION,
        "requests": requests_table(made),
        "chunks": chunks_table(made),
        "workload_requests": REQUESTS,
        "workload_card": {"expected_prefix_hit_ratio": {"1": 0.5, "16": 0.45}},
        "server_delta": server_delta(made),
        "instrument": CLIENT,
        "cache": {"asked": "cold", "verified": True},
        "installed_versions": {"torch": "2.13.0+cpu"},
        "client_cores": [1],
        "engine_cores": [0],
        "warmup_steady": True,
        "gpu": gpu_samples(),
        "host": host_samples(),
        "compilation_lines": [],
        "gpu_memory_before": {"GPU-1": 2**29},
        "floors": Floors(step_s=0.004, prefill_s_per_token=1e-5),
    }
    return CellInputs(**values | changes)


def found(inputs: CellInputs) -> dict[str, str]:
    """Code → severity, of the checks that did not pass."""
    return {result.code: result.severity for result in check_cell(inputs) if result.severity != "ok"}


def changed(place: int, **changes: Any) -> Rows:
    made = rows()
    made[place] |= changes
    return made


def failed(status: str, count: int = 1, **changes: Any) -> Rows:
    """The first `count` requests end with `status` instead of an answer."""
    made = rows()
    nothing = dict.fromkeys(
        ("first_token_s", "last_token_s", "ttft_s", "ttft_service_s", "tpot_s", "e2e_s", "first_chunk_tokens")
    )
    for row in made[:count]:
        row |= nothing | {"status": status, "completion_tokens": 0, "chunks": 0, "error": "why"} | changes
    return made


def synthetic(tokens_per_draft: float, drafts: int) -> CellInputs:
    """A server that was asked to accept 3.05 of 5 draft tokens on average, and so to yield 4.05 tokens a draft."""
    rates = {"synthetic_acceptance_rates": [0.85, 0.7, 0.6, 0.5, 0.4], "num_speculative_tokens": 5}
    server = {**SPECIFICATION["server"], "flags": {"speculative-config": rates}}
    delta = server_delta(rows()) | {"drafts": drafts, "accepted_tokens": (tokens_per_draft - 1) * drafts}
    return replace(clean(server_delta=delta), specification={**SPECIFICATION, "server": server})


def long_answers() -> Rows:
    """Twenty-one chunks each, 20 ms apart."""
    return [
        request_row(index, index * 0.125)
        | {"chunks": 21, "completion_tokens": 21, "requested_output_tokens": 21}
        | {"last_token_s": index * 0.125 + 0.5, "e2e_s": 0.5}
        for index in range(REQUESTS)
    ]


def paused(for_s: float) -> Rows:
    """Long answers, all of which pause at one instant for `for_s`; the usual gap is 20 ms."""
    made = []
    for index in range(REQUESTS):
        row = request_row(index, index * 0.125)
        # The chunks of `chunks_table` are evenly spaced: a request that pauses has one gap that is too long.
        made.append(
            row
            | (
                {"tpot_s": for_s, "chunks": 2, "completion_tokens": 2, "requested_output_tokens": 2}
                if index == 0
                else {}
            )
        )
    made[0] |= {"last_token_s": made[0]["first_token_s"] + for_s, "e2e_s": 0.1 + for_s}
    for row in made[1:]:
        row |= {key: row[key] + 10 for key in ("scheduled_s", "sent_s", "first_token_s", "last_token_s")}
    return made


def drifting(share: float) -> Rows:
    """Each token takes longer the later its request came, by `share` of the median over the window."""
    made = []
    for index in range(REQUESTS):
        place = (index - REQUESTS / 2) / (0.9 * REQUESTS)
        made.append(request_row(index, index * 0.125, gap_s=0.02 * (1 + share * place)))
    return made


def gpu_samples(**columns: Sequence[float | None]) -> pa.Table:
    """Ten seconds of a busy GPU in which nothing happens, but for what `columns` say."""
    usual = {
        "time_s": [0.1 * place for place in range(100)], "gpu": [0] * 100, "power_w": [440.0] * 100, "sm_utilisation": [0.99] * 100,
        "sm_clock_hz": [1.98e9] * 100, "throttle_reasons": [0] * 100, "ecc_corrected": [2.0] * 100, "ecc_uncorrected": [0.0] * 100,
        "foreign_processes": [0.0] * 100,
    }  # fmt: skip
    return pa.Table.from_pylist(
        [dict(zip(usual | columns, values, strict=True)) for values in zip(*(usual | columns).values(), strict=True)],
        GPU,
    )


def host_samples(busy: float = 0.52) -> pa.Table:
    """Twenty seconds in which the server takes half of its core, and all together `busy` of it."""
    made = [
        {"time_s": 0.5 * place, "engine_cores_share": busy, "server_cpu_s": 100 + 0.25 * place} for place in range(41)
    ]
    return pa.Table.from_pylist(made, HOST)


def slow_server(capacity: float) -> Rows:
    """Requests arrive at 8/s and are finished, one after another, at `capacity` a second."""
    made = []
    for index in range(REQUESTS):
        waits_s = max(0.0, index / capacity - index * 0.125)
        made.append(request_row(index, index * 0.125, 0.1 + waits_s))
    return made


def test_nothing_is_marked_in_a_clean_cell() -> None:
    results = check_cell(clean())
    assert found(clean()) == {}
    assert worst(results) == "ok"
    assert {result.code for result in results} == {check.code for check in CHECKS} - {
        "acceptance_not_as_asked",
        "acceptance_not_verified",
        "few_cache_hits",
        "saturation_not_judged",
        "search_not_settled",
        "prefills_missing",
        "kv_not_handed_over",
        "front_slow",
    }
    assert all(result.saw and result.expected for result in results)


def test_an_offline_batch_is_not_asked_about_a_client() -> None:
    """All its requests end with the batch, long after the engine itself counts most of them as ended; nobody stamps tokens."""
    unstamped = {"ttft_s": None, "ttft_service_s": None, "send_lag_s": None, "ttft_error_s": None, "chunks": 0}
    made = [
        row | unstamped | {"scheduled_s": 0.0, "sent_s": 0.0, "first_token_s": 0.1, "last_token_s": 20.0}
        for row in rows()
    ]
    offline = {**SPECIFICATION, "phase": {**SPECIFICATION["phase"], "load": {"kind": "burst"}, "client": "offline"}}
    cell = replace(
        clean(), requests=requests_table(made), chunks=chunks_table([]), specification=offline, instrument={}
    )
    results = {result.code for result in check_cell(cell)}
    assert {"client_error", "send_late", "server_e2e_disagrees", "server_ttft_disagrees"}.isdisjoint(results)
    assert {"generated_tokens_disagree", "foreign_requests", "timestamps_out_of_order"} <= results


def test_a_request_whose_cached_tokens_are_not_reported_may_have_found_nothing() -> None:
    """SGLang reports no zeros: of a cold cache only the hits within the workload are told."""
    told = [row | {"cached_tokens": row["cached_tokens"] or None} for row in rows()]
    told[5] = told[5] | {"cached_tokens": 16}
    assert "foreign_cache_hits" not in found(clean(told))


def from_tier(below_queried: float, below_hits: float) -> CellInputs:
    """A cell that began in the state `tier`, with so many tokens asked of the tier and found there."""
    specification = {**SPECIFICATION, "phase": {**SPECIFICATION["phase"], "cache": "tier"}}
    made = rows()
    below = {"external_queried_tokens": below_queried, "external_hit_tokens": below_hits}
    cache = {"asked": "tier", "verified": True}
    return clean(made, specification=specification, cache=cache, server_delta={**server_delta(made), **below})


def test_a_phase_that_finds_nothing_in_the_tier_that_it_begins_from_is_invalid() -> None:
    assert found(from_tier(1000, 0)) == {"cache_state_wrong": "invalid"}
    assert "cache_state_wrong" not in found(from_tier(1000, 990))
    assert "cache_state_wrong" not in found(from_tier(0, 0)), "there is no tier, as the state itself says"


def test_hits_in_a_tier_count_like_those_in_the_engines_own_cache() -> None:
    made = rows()
    all_prompts = server_delta(made)["prefix_queried_tokens"]
    below = {"external_queried_tokens": all_prompts, "external_hit_tokens": 0.9 * all_prompts}
    assert found(clean(server_delta={**server_delta(made), **below})) == {"foreign_cache_hits": "invalid"}


def searched(**changes: Any) -> SearchRecord:
    """What a search found that ended at the rate of the clean cell."""
    found = {"highest_rate": 8.0, "missed": 8.3, "kept": 8.0, "limited_by": "ttft_p95", "runs": 7, "settled": True}
    return SearchRecord.model_validate(found | changes)


def test_a_search_that_found_its_rate_is_judged_at_that_rate() -> None:
    specification = {**clean().specification, "phase": {**clean().specification["phase"], "load": {"kind": "search"}}}
    inputs = clean(search=searched(), specification=specification)
    assert str(inputs.load) == "rate 8"
    assert found(inputs) == {}


def disaggregated(**delta: float) -> CellInputs:
    """The clean cell from a prefill and a decode server behind a proxy, with counters changed as `delta` says."""
    inputs = clean()
    told = {
        "handed_over_tokens": 11_500.0,
        "prefill:requests_finished": float(REQUESTS),
        "decode:prompt_tokens": 12_000.0,
        "decode:prefix_hit_tokens": 0.0,
        "proxy_added_s_sum": 0.001 * REQUESTS,
        "proxy_added_s_count": float(REQUESTS),
    }
    specification = {
        **inputs.specification,
        "server": {**inputs.specification["server"], "topology": "prefill-decode"},
    }
    return clean(server_delta=server_delta(rows()) | told | delta, specification=specification)


def test_a_disaggregated_cell_is_clean_where_all_that_was_prefilled_is_taken_over() -> None:
    assert found(disaggregated()) == {}
    taken_over = [row | {"cached_tokens": 96} for row in rows()]
    inputs = replace(disaggregated(), requests=clean(taken_over).requests)
    assert "foreign_cache_hits" not in found(inputs)


FAULTS: list[tuple[str, str, Callable[[], CellInputs]]] = [
    ("requests_missing", "invalid", lambda: clean(rows()[1:])),
    ("requests_missing", "invalid", lambda: clean(changed(1, index=0))),
    ("no_request_ended_well", "invalid", lambda: clean(failed("http_error", REQUESTS, http_status=500))),
    ("connection_errors", "caution", lambda: clean(failed("connection_error"))),
    ("connection_errors", "invalid", lambda: clean(failed("connection_error", 2))),
    ("http_errors", "caution", lambda: clean(failed("http_error", 1, http_status=500))),
    ("http_errors", "invalid", lambda: clean(failed("http_error", 5, http_status=500))),
    ("http_errors", "caution", lambda: clean(failed("http_error", 1, http_status=None))),
    ("requests_rejected", "caution", lambda: clean(failed("http_error", 1, http_status=429))),
    ("requests_rejected", "invalid", lambda: clean(failed("http_error", 5, http_status=503))),
    ("streams_cut", "invalid", lambda: clean(failed("cut", 3))),
    ("requests_timed_out", "invalid", lambda: clean(failed("timeout", 3))),
    ("malformed_answers", "invalid", lambda: clean(failed("malformed", 3))),
    ("no_tokens", "invalid", lambda: clean(failed("no_tokens", 3))),
    ("stopped_early", "invalid", lambda: clean(changed(3, finish_reason="stop"))),
    ("few_samples", "caution", lambda: clean(rows(19), workload_requests=19)),
    ("tokens_not_as_asked", "invalid", lambda: clean(changed(3, requested_output_tokens=6))),
    ("tokens_assumed", "caution", lambda: clean(changed(3, token_source="chunks"))),
    ("chunks_disagree", "invalid", lambda: clean(changed(3, chunks=4))),
    ("chunks_disagree", "caution", lambda: clean(changed(3, chunks=4, token_source="chunks"))),
    ("generated_tokens_disagree", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"generation_tokens": 1.0})),
    ("acceptance_not_as_asked", "invalid", lambda: synthetic(3.6, drafts=400)),
    ("acceptance_not_as_asked", "invalid", lambda: synthetic(4.5, drafts=4000)),
    ("acceptance_not_verified", "caution", lambda: synthetic(4.05, drafts=399)),
    ("acceptance_not_verified", "caution", lambda: synthetic(4.05, drafts=0)),
    ("prompt_tokens_disagree", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"prompt_tokens": 12001.0})),
    ("foreign_requests", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"requests_finished": 121.0})),
    ("counters_reset", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"preemptions": -1.0})),
    ("client_error", "caution", lambda: clean([row | {"ttft_error_s": 0.006} for row in rows()])),
    ("client_error", "invalid", lambda: clean([row | {"ttft_error_s": 0.026} for row in rows()])),
    ("client_error", "caution", lambda: clean(instrument={})),
    ("send_late", "caution", lambda: clean([row | {"send_lag_s": 0.006} for row in rows()])),
    ("send_late", "caution", lambda: clean([row | {"send_lag_s": 0.02 if row["index"] < 2 else 0.0} for row in rows(20)], workload_requests=20)),
    ("clock_jumped", "caution", lambda: clean(instrument=CLIENT | {"clock_jumped": True, "clock_jump_s": 1.0})),
    ("shared_core", "caution", lambda: clean(engine_cores=[0, 1])),
    ("shared_core", "caution", lambda: clean(instrument=CLIENT | {"run_queue_wait_share": 0.06})),
    ("timestamps_out_of_order", "invalid", lambda: clean(changed(3, sent_s=1.0))),
    ("latency_arithmetic", "invalid", lambda: clean(changed(3, e2e_s=0.2))),
    ("server_ttft_disagrees", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"ttft_s_sum": 12.6})),
    ("server_ttft_disagrees", "caution", lambda: clean(server_delta=server_delta(rows()) | {"ttft_s_sum": 9.0})),
    ("saturated", "caution", lambda: clean(slow_server(capacity=6))),
    ("window_short", "caution", lambda: clean([row | {"last_token_s": row["last_token_s"] + 100} for row in rows()])),
    ("saturation_not_judged", "caution", lambda: clean(specification=of_conversations(4))),
    ("cache_state_wrong", "invalid", lambda: clean(cache={"asked": "cold", "verified": False})),
    ("search_not_settled", "caution", lambda: clean(search=searched(highest_rate=None))),
    ("search_not_settled", "caution", lambda: clean(search=searched(missed=None))),
    ("search_not_settled", "caution", lambda: clean(search=searched(settled=False))),
    ("cache_state_wrong", "caution", lambda: clean(cache={"asked": "cold", "verified": None})),
    ("foreign_cache_hits", "invalid", lambda: clean([row | {"cached_tokens": 16} for row in rows()])),
    ("foreign_cache_hits", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"prefix_hit_tokens": 6360.0})),
    ("few_cache_hits", "caution", lambda: clean(server_delta=server_delta(rows()) | {"prefix_hit_tokens": 2000.0})),
    ("setting_not_taken", "invalid", lambda: clean(differences=[{"key": "a", "intended": 1, "effective": 2, "expected": False}])),
    ("versions_differ", "invalid", lambda: clean(installed_versions={"torch": "2.12.0"})),
    ("versions_differ", "caution", lambda: clean(installed_versions={})),
    ("prefills_missing", "invalid", lambda: disaggregated(**{"prefill:requests_finished": REQUESTS - 1.0})),
    ("kv_not_handed_over", "invalid", lambda: disaggregated(handed_over_tokens=0.0)),
    ("kv_not_handed_over", "caution", lambda: disaggregated(handed_over_tokens=5000.0)),
    ("front_slow", "caution", lambda: disaggregated(proxy_added_s_sum=0.006 * REQUESTS)),
    ("not_warmed_up", "caution", lambda: clean(warmup_steady=False)),
    ("server_e2e_disagrees", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"e2e_s_sum": 22.2, "e2e_s_count": 120.0})),
    ("server_e2e_disagrees", "caution", lambda: clean(server_delta=server_delta(rows()) | {"e2e_s_sum": 16.0, "e2e_s_count": 120.0})),
    ("compiled_in_window", "invalid", lambda: clean(compilation_lines=["INFO torch.compile took 12.3 s in total"])),
    ("stalled", "caution", lambda: clean(paused(0.42))),
    ("drift", "caution", lambda: clean(drifting(0.22))),
    ("gpu_throttled", "caution", lambda: clean(gpu=gpu_samples(throttle_reasons=[0x4] * 6 + [0] * 94))),
    ("gpu_clock_dropped", "caution", lambda: clean(gpu=gpu_samples(sm_clock_hz=[1.75e9] * 6 + [1.98e9] * 94))),
    ("gpu_shared", "invalid", lambda: clean(gpu=gpu_samples(foreign_processes=[0.0] * 99 + [1.0]))),
    ("gpu_ecc_errors", "invalid", lambda: clean(gpu=gpu_samples(ecc_uncorrected=[2.0] * 50 + [3.0] * 50))),
    ("gpu_ecc_errors", "caution", lambda: clean(gpu=gpu_samples(ecc_corrected=[2.0] * 50 + [3.0] * 50))),
    ("gpu_memory_kept", "caution", lambda: clean(gpu_memory_before={"GPU-1": 2**29, "GPU-2": 2**31})),
    ("foreign_load", "caution", lambda: clean(host=host_samples(busy=0.56))),
    ("faster_than_roofline", "invalid", lambda: clean(long_answers(), floors=Floors(step_s=0.0223, prefill_s_per_token=None))),
    ("faster_than_roofline", "invalid", lambda: clean(floors=Floors(step_s=0.001, prefill_s_per_token=0.00112))),
]  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "make"), FAULTS)
def test_a_fault_is_marked_with_its_code(code: str, severity: str, make: Callable[[], CellInputs]) -> None:
    inputs = make()
    assert found(inputs).get(code) == severity, found(inputs)
    (result,) = [result for result in check_cell(inputs) if result.code == code]
    assert result.remedy, "whoever meets it must learn what to do"


def test_every_check_has_a_fault() -> None:
    assert {code for code, _, _ in FAULTS} == {check.code for check in CHECKS}
    assert len({check.code for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: clean([row | {"ttft_error_s": 0.0049} for row in rows()]),
        lambda: clean(changed(3, ttft_error_s=0.5)),
        lambda: clean(changed(3, send_lag_s=0.5)),
        lambda: clean([row | {"send_lag_s": 0.0049} for row in rows()]),
        lambda: clean(long_answers(), floors=Floors(step_s=0.0221, prefill_s_per_token=0.0011)),
        lambda: clean(paused(0.38)),
        lambda: clean(drifting(0.18)),
        lambda: clean(gpu=gpu_samples(throttle_reasons=[0x4] * 4 + [0x3] * 96)),
        lambda: clean(gpu=gpu_samples(sm_clock_hz=[1.79e9] * 10 + [1.98e9] * 90)),
        lambda: clean(gpu=gpu_samples(sm_clock_hz=[1.2e9] * 4 + [1.98e9] * 96)),
        lambda: clean(gpu_memory_before={"GPU-1": 2**31 - 1}),
        lambda: clean(host=host_samples(busy=0.545)),
        lambda: clean(gpu=None, host=None, compilation_lines=None, gpu_memory_before={}, floors=None),
        lambda: clean(server_delta=server_delta(rows()) | {"prefix_hit_tokens": 6200.0}),
        lambda: clean(server_delta=server_delta(rows()) | {"ttft_s_sum": 11.0}),
        lambda: clean(differences=[{"key": "a", "intended": 1, "effective": 2, "expected": True}]),
        lambda: clean(cache={"asked": "cold", "verified": True}, engine_cores=[], client_cores=[]),
    ],
)
def test_just_below_its_threshold_a_fault_is_not_marked(make: Callable[[], CellInputs]) -> None:
    assert found(make()) == {}


def test_prompts_that_grow_are_no_drift_of_the_server() -> None:
    """Conversations: what is asked later is longer and takes longer."""
    slower = drifting(0.5)
    assert found(clean(slower)) == {"drift": "caution"}
    grown = [row | {"prompt_tokens": 100 + index} for index, row in enumerate(slower)]
    assert "drift" not in found(clean(grown))
    assert "drift" not in {check.code for check in check_cell(clean(grown))}, "nothing is claimed of the server either"


def test_a_counter_of_hits_that_fell_is_a_reset_and_no_want_of_hits() -> None:
    for name in ("prefix_hit_tokens", "prefix_queried_tokens"):
        delta = server_delta(rows()) | {"prefix_hit_tokens": 2000.0} | {name: -1500.0}
        assert found(clean(server_delta=delta)) == {"counters_reset": "invalid"}


def test_processes_that_cannot_be_matched_are_not_known_and_not_marked() -> None:
    results = check_cell(clean(gpu=gpu_samples(foreign_processes=[None] * 100)))
    (told,) = [result for result in results if result.code == "gpu_shared"]
    assert (told.severity, told.saw.startswith("not known")) == ("ok", True)


def test_failed_requests_do_not_let_the_counts_disagree() -> None:
    """Of a stream that broke off the server may have counted any part."""
    made = failed("cut")
    codes = found(
        clean(made, server_delta=server_delta(made) | {"generation_tokens": 599.0, "requests_finished": 120.0})
    )
    assert set(codes) == {"streams_cut"}


def test_a_server_just_beyond_its_capacity_is_saturated_and_not_called_adrift() -> None:
    """It finishes 95 % of what arrives, and its queue grows to the end."""
    assert found(clean(slow_server(capacity=7.6))) == {"saturated": "caution"}


def test_the_check_and_the_column_of_the_tables_follow_one_rule() -> None:
    for capacity in (6.0, 7.6, 7.95, 9.0):
        inputs = clean(slow_server(capacity))
        cell = MeasuredCell(inputs.requests, inputs.chunks, inputs.load, {}, None)
        assert (
            ("saturated" in found(inputs))
            is cell.beyond_knee
            is not keeps_up(inputs.requests, inputs.load, waiting=False)
        )


def of_conversations(turns: int) -> dict[str, Any]:
    """The clean cell's phase, of requests that wait for the answers to others where there is more than one turn."""
    workload = MultiTurn(requests=120, turns=turns, system_tokens=64, message_tokens=16, output_tokens=8)
    return SPECIFICATION | {"phase": SPECIFICATION["phase"] | {"workload": {"workload": workload.identity()}}}


def test_conversations_that_hold_themselves_back_are_not_said_to_be_kept_up_with() -> None:
    """A late answer makes the next turn come late: however slow the server is, as much is finished as comes."""
    inputs = clean(specification=of_conversations(4))
    assert found(inputs) == {"saturation_not_judged": "caution"}
    assert "saturated" not in {check.code for check in check_cell(inputs)}
    assert MeasuredCell(inputs.requests, inputs.chunks, inputs.load, {}, None, waiting=True).beyond_knee is None
    assert found(clean(specification=of_conversations(1))) == {}, "one turn waits for nothing"
    burst = of_conversations(4)
    burst["phase"]["load"] = {"kind": "burst", "value": None}
    assert "saturation_not_judged" not in found(clean(specification=burst)), "where no rate is offered nothing is asked"


def test_of_conversations_that_get_slower_the_drift_is_told() -> None:
    """Beyond the capacity it is not asked for, as it says no more; here nothing else says that."""
    assert set(found(clean(slow_server(capacity=6), specification=of_conversations(4)))) == {
        "saturation_not_judged",
        "drift",
    }


def test_saturation_never_makes_a_cell_invalid() -> None:
    assert worst(check_cell(clean(slow_server(capacity=1)))) == "caution"


def test_arrivals_that_come_in_bunches_are_not_taken_for_saturation() -> None:
    """Twenty requests at 0.5/s as they were once drawn, each finished a tenth of a second after it came."""
    drawn_s = np.cumsum([0, 2, 2, 2, 2, 3, 3, 2, 3, 2, 2, 3, 2, 3, 3, 2, 2, 3, 0.2, 0.2])
    made = [request_row(index, float(at_s)) for index, at_s in enumerate(drawn_s)]
    slow = {**SPECIFICATION, "phase": {"load": {"kind": "rate", "value": 0.5}, "cache": "cold"}}
    inputs = replace(clean(made), specification=slow, workload_requests=len(made))
    offered, achieved = 17 / (drawn_s[-1] - drawn_s[2]), 14 / (drawn_s[17] - drawn_s[3])
    assert achieved < 0.9 * offered, "the whole of the arrivals is faster than their middle"
    assert "saturated" not in found(inputs)


def test_a_server_that_turns_requests_away_is_told_from_one_that_fails() -> None:
    assert "http_errors" not in found(clean(failed("http_error", 5, http_status=429)))
    assert "requests_rejected" not in found(clean(failed("http_error", 5, http_status=500)))


def test_a_burst_cannot_be_saturated() -> None:
    burst = {**SPECIFICATION, "phase": {"load": {"kind": "burst"}, "cache": "cold"}}
    made = [request_row(index, 0.0, 0.1 * (index + 1)) for index in range(REQUESTS)]
    results = check_cell(replace(clean(made), specification=burst))
    assert "saturated" not in {result.code for result in results}


def test_a_server_without_counters_is_a_caution_not_a_pass() -> None:
    assert set(found(clean(server_delta={}))) == {
        "counters_reset",
        "generated_tokens_disagree",
        "prompt_tokens_disagree",
    }


def test_synthetic_acceptance_that_is_near_what_was_asked_or_of_few_drafts_is_left_alone() -> None:
    assert "acceptance_not_as_asked" not in found(synthetic(3.7, drafts=400)) | found(synthetic(1.0, drafts=399))
    counted = synthetic(4.05, drafts=4000)
    untold = {name: value for name, value in counted.server_delta.items() if name != "drafts"}
    assert found(replace(counted, server_delta=untold)) == {"acceptance_not_verified": "caution"}
    told = SPECIFICATION["server"] | {"environment": {"SGLANG_SIMULATE_ACC_LEN": "4.05"}}
    assert found(clean(specification=SPECIFICATION | {"server": told})) == {"acceptance_not_verified": "caution"}
    codes = {result.code for result in check_cell(synthetic(4.0, drafts=4000))}
    assert "acceptance_not_as_asked" in codes
    judged = {result.code for result in check_cell(clean())}
    assert "acceptance_not_as_asked" not in judged, "without synthetic acceptance nobody knows how much is right"


def test_multi_token_chunks_add_up() -> None:
    made = [request_row(0, 0.0, completion_tokens=9, requested_output_tokens=9, first_chunk_tokens=5, tpot_s=0.02)]
    assert "latency_arithmetic" not in found(clean(made))


def test_checks_file_round_trip(tmp_path: Path) -> None:
    results = check_cell(clean(rows(19), workload_requests=19))
    write_checks(tmp_path / "checks.json", "a-cell", results)
    record = read_checks(tmp_path / "checks.json")
    assert (record.cell, record.worst, record.checks) == ("a-cell", "caution", results)


def test_worst_is_by_severity() -> None:
    def result(severity: Any) -> CheckResult:
        return CheckResult(code="x", severity=severity, saw="", expected="")

    assert worst([]) == "ok"
    assert worst([result("ok"), result("invalid"), result("caution")]) == "invalid"
    assert worst([result("caution"), result("ok")]) == "caution"


def test_window_of_twenty_arrivals() -> None:
    """Arrivals at 0, 1, … 19 s: the window opens with request 2 and ends at the last arrival, which it leaves out."""
    arrivals = np.arange(20.0)
    window = steady_window(arrivals, arrivals, arrivals + 0.5, LoadPoint("rate", 1))
    assert window is not None
    assert list(np.flatnonzero(window.inside)) == list(range(2, 19))
    assert (window.start_s, window.end_s, window.length_s) == (2.0, 19.0, 17.0)
    assert offered_rate(window, LoadPoint("rate", 1)) == 1.0
    everything = np.ones(20, bool)
    # 17 ends at 2.5 … 18.5: the 10 % and 90 % points are the second and the last but one, 14 ends in 14 s.
    assert achieved_rate(window, everything, arrivals + 0.5, LoadPoint("rate", 1)) == 1.0
    assert achieved_rate(window, everything, 2 * arrivals, LoadPoint("rate", 1)) == 0.5


def test_window_of_a_burst_is_from_the_first_send_to_the_last_token() -> None:
    sent, last = np.array([0.1, 0.2, 0.3]), np.array([1.0, 4.1, 2.0])
    window = steady_window(np.zeros(3), sent, last, LoadPoint("burst"))
    assert window is not None
    assert window.inside.all() and window.length_s == pytest.approx(4.0)
    assert offered_rate(window, LoadPoint("burst")) is None
    assert achieved_rate(window, np.array([True, False, True]), last, LoadPoint("burst")) == pytest.approx(0.5)


def test_no_window_without_length() -> None:
    nothing = np.full(3, np.nan)
    assert steady_window(np.zeros(1), np.zeros(1), np.ones(1), LoadPoint("rate", 1)) is None
    assert steady_window(np.zeros(3), np.zeros(3), np.ones(3), LoadPoint("rate", 1)) is None
    assert steady_window(np.zeros(3), np.zeros(3), nothing, LoadPoint("burst")) is None


@pytest.mark.parametrize("flag", ["max-num-queued-reqs", "max-queued-requests"])
def test_what_a_limit_of_admission_turns_away_takes_no_numbers_away(flag: str) -> None:
    limited = {**SPECIFICATION, "server": {**SPECIFICATION["server"], "flags": {flag: 8}}}
    rejected = failed("http_error", 5, http_status=503)
    assert found(clean(rejected, specification=limited))["requests_rejected"] == "caution"
    assert found(clean(rejected))["requests_rejected"] == "invalid"
    broken = failed("http_error", 5, http_status=500)
    assert found(clean(broken, specification=limited))["http_errors"] == "invalid", "nobody asked for that"


def test_a_request_that_is_turned_away_inside_a_stream_is_known_by_the_errors_own_code() -> None:
    busy = failed("http_error", 5, http_status=200, error='{"message":"The engine is busy.","param":null,"code":503}')
    assert "http_errors" not in found(clean(busy))
    assert found(clean(busy))["requests_rejected"] == "invalid"
    broken = failed("http_error", 5, http_status=200, error='{"message":"It broke.","code":500}')
    assert found(clean(broken))["http_errors"] == "invalid" and "requests_rejected" not in found(clean(broken))
