"""Each check: silent on a clean cell, and marking the fault it is for with its own code."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leverlab.checks import CHECKS, CellInputs, check_cell, read_checks, worst, write_checks
from leverlab.records import CheckResult
from leverlab.telemetry.gpu import GPU
from leverlab.theory.floors import Floors
from tests.unit.checked_cells import (
    CLIENT,
    DAEMON,
    LMCACHE,
    OFFLOADING,
    REQUESTS,
    SPECIFICATION,
    changed,
    clean,
    disaggregated,
    drifting,
    failed,
    found,
    from_tier,
    gpu_samples,
    host_samples,
    long_answers,
    of_conversations,
    on_a_gpu,
    paused,
    rows,
    searched,
    slow_server,
    synthetic,
    with_expert_loads,
    with_tier,
)
from tests.unit.measured_cells import chunks_table, request_row, requests_table, server_delta
from tests.unit.tier_traffic import PCIE_5_X16, came, recorded


def test_nothing_is_marked_in_a_clean_cell() -> None:
    results = check_cell(clean())
    assert found(clean()) == {}
    assert worst(results) == "ok"
    assert {result.code for result in results} == {check.code for check in CHECKS} - {
        "acceptance_not_as_asked",
        "acceptance_not_verified",
        "expert_load_of_layers",
        "few_cache_hits",
        "gpu_not_sampled",
        "saturation_not_judged",
        "search_not_settled",
        "prefills_missing",
        "kv_not_handed_over",
        "front_slow",
        "tier_loaded_in_part",
        "tier_not_loaded",
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


def test_a_phase_that_finds_nothing_in_the_tier_that_it_begins_from_is_invalid() -> None:
    assert found(from_tier(1000, 0)) == {"cache_state_wrong": "invalid"}
    assert "cache_state_wrong" not in found(from_tier(1000, 990))
    assert "cache_state_wrong" not in found(from_tier(0, 0)), "there is no tier, as the state itself says"


def test_hits_in_a_tier_count_like_those_in_the_engines_own_cache() -> None:
    made = rows()
    all_prompts = server_delta(made)["prefix_queried_tokens"]
    below = {"external_queried_tokens": all_prompts, "external_hit_tokens": 0.9 * all_prompts}
    assert found(clean(server_delta={**server_delta(made), **below})) == {"foreign_cache_hits": "invalid"}


def test_the_log_of_a_later_vllm_tells_the_experts_load_by_gpu() -> None:
    assert found(with_expert_loads("0.32.0+cpu")) == {}


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
    ("expert_load_of_layers", "caution", lambda: with_expert_loads("0.26.0")),
    ("expert_load_of_layers", "caution", lambda: with_expert_loads(None)),
    ("prefills_missing", "invalid", lambda: disaggregated(**{"prefill:requests_finished": REQUESTS - 1.0})),
    ("kv_not_handed_over", "invalid", lambda: disaggregated(handed_over_tokens=0.0)),
    ("kv_not_handed_over", "caution", lambda: disaggregated(handed_over_tokens=5000.0)),
    ("front_slow", "caution", lambda: disaggregated(proxy_added_s_sum=0.006 * REQUESTS)),
    ("tier_not_loaded", "invalid", lambda: with_tier(LMCACHE)),
    ("tier_not_loaded", "invalid", lambda: with_tier(OFFLOADING, restores=0.0, restored_bytes=0.0)),
    ("tier_not_loaded", "caution", lambda: with_tier(LMCACHE, restores=110.0, restored_tokens=5_399.0)),
    ("tier_not_loaded", "caution", lambda: with_tier(OFFLOADING, restores=110.0, restored_bytes=5_399.0 * 131072)),
    ("tier_not_loaded", "invalid", lambda: came(DAEMON, 0.01)),
    ("tier_loaded_in_part", "invalid", lambda: recorded("lmcache-half", LMCACHE)),
    ("tier_loaded_in_part", "invalid", lambda: replace(recorded("lmcache-half-hidden", LMCACHE), pcie_bytes_per_s=PCIE_5_X16)),
    ("tier_loaded_in_part", "caution", lambda: replace(came(OFFLOADING, 0.74, restored_bytes=6000.0 * 131072, restores=9.0, restore_s=0.01), pcie_bytes_per_s=PCIE_5_X16)),
    ("not_warmed_up", "caution", lambda: clean(warmup_steady=False)),
    ("server_e2e_disagrees", "invalid", lambda: clean(server_delta=server_delta(rows()) | {"e2e_s_sum": 22.2, "e2e_s_count": 120.0})),
    ("server_e2e_disagrees", "caution", lambda: clean(server_delta=server_delta(rows()) | {"e2e_s_sum": 16.0, "e2e_s_count": 120.0})),
    ("compiled_in_window", "invalid", lambda: clean(compilation_lines=["INFO torch.compile took 12.3 s in total"])),
    ("stalled", "caution", lambda: clean(paused(0.42))),
    ("drift", "caution", lambda: clean(drifting(0.22))),
    ("gpu_not_sampled", "caution", lambda: on_a_gpu(gpu=GPU.empty_table(), not_sampled={"gpu": "NVML: Driver Not Loaded"})),
    ("gpu_not_sampled", "caution", lambda: on_a_gpu(not_sampled={"gpu": "RuntimeError: broken"})),
    ("gpu_not_sampled", "caution", lambda: on_a_gpu(gpu=gpu_samples(memory_used_bytes=[6e10] * 100, power_w=[None] * 100))),
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


def test_what_nvml_does_not_tell_of_a_gpu_is_said_and_on_a_cpu_nothing_is_missed() -> None:
    def told(inputs: CellInputs) -> list[tuple[str, str]]:
        return [(result.severity, result.saw) for result in check_cell(inputs) if result.code == "gpu_not_sampled"]

    assert told(on_a_gpu()) == [("ok", "100 samples")]
    missing = on_a_gpu(gpu=GPU.empty_table(), not_sampled={"gpu": "NVML: Driver Not Loaded"})
    assert told(missing) == [("caution", "no sample: NVML: Driver Not Loaded")]
    assert found(missing) == {"gpu_not_sampled": "caution"}, "no failure, and nothing else is made of it"
    counter = gpu_samples(memory_used_bytes=[6e10] * 100, power_w=[None] * 100, energy_j=[1.0] * 100)
    assert told(on_a_gpu(gpu=counter)) == [("ok", "100 samples")], "energy is told by its counter as well"
    denied = gpu_samples(sm_clock_hz=[None] * 100)
    assert told(on_a_gpu(gpu=denied)) == [("caution", "100 samples without clocks, memory")]
    assert told(clean(gpu=GPU.empty_table(), not_sampled={"gpu": "the engine computes on the CPU"})) == []


def test_failed_requests_do_not_let_the_counts_disagree() -> None:
    """Of a stream that broke off the server may have counted any part."""
    made = failed("cut")
    codes = found(
        clean(made, server_delta=server_delta(made) | {"generation_tokens": 599.0, "requests_finished": 120.0})
    )
    assert set(codes) == {"streams_cut"}


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
