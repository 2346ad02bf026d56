"""Whether what a tier was found to hold was loaded: the counters of real cells of an H100, and tiers that do not tell."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from leverlab.checks import CellInputs, check_cell
from leverlab.engines.tiers import tells_of_loads, tier_of
from leverlab.pcie import pcie_bytes_per_s
from leverlab.records import CheckResult
from leverlab.theory.identified import identified_kv_bytes
from tests.unit.checked_cells import DAEMON, LMCACHE, OFFLOADING, SPECIFICATION, with_tier
from tests.unit.measured_cells import request_row, requests_table
from tests.unit.tier_traffic import GIB, PCIE_5_X16, came, received, recorded

LLAMA_8B_KV = 131072.0
DISK = {"kv-transfer-config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}}


def loaded(inputs: CellInputs, code: str = "tier_not_loaded") -> CheckResult | None:
    return next((result for result in check_cell(inputs) if result.code == code), None)


def test_prompts_that_were_found_whole_and_never_loaded() -> None:
    """LMCache 0.5.3 with vLLM 0.26.0: 24 prompts of 4,096 tokens, all but the last of each to be loaded; nothing was."""
    result = loaded(with_tier(LMCACHE, external_queried_tokens=98304.0, external_hit_tokens=98280.0))
    assert result is not None and result.severity == "invalid"
    assert result.saw == "98280 tokens of prompts were counted as found in LMCache, which told of no load"
    assert "full CUDA graph" in result.remedy


def test_the_last_block_that_was_found_and_never_loaded() -> None:
    """The same of prompts that the GPU held but for their last block: 15 tokens of each."""
    result = loaded(with_tier(LMCACHE, external_queried_tokens=384.0, external_hit_tokens=360.0))
    assert result is not None and result.severity == "invalid"


def test_loads_that_the_engine_counted() -> None:
    """vLLM's own offloading: 98,304 tokens of 128 KiB each, in 24 loads of 12 GiB together."""
    told = {"external_hit_tokens": 98304.0, "restores": 24.0, "restored_bytes": 12884901888.0}
    result = loaded(with_tier(OFFLOADING, **told))
    assert result is not None and (result.severity, result.saw) == (
        "ok",
        "98304 tokens of prompts were counted as found in vLLM's own offloading, which told of 24 loads, of 98304 tokens",
    )


@pytest.mark.parametrize(
    ("flags", "delta"),
    [
        (LMCACHE, {"restores": 120.0, "restored_tokens": 5400.0}),
        (LMCACHE, {"restores": 120.0, "restored_tokens": 12288.0}),  # whole chunks, of which the GPU had a part
        (LMCACHE, {"restores": 120.0, "restored_bytes": 6000 * LLAMA_8B_KV}),  # of before tokens were read from the log
        (OFFLOADING, {"restores": 120.0, "restored_bytes": 5400 * LLAMA_8B_KV}),
    ],
)
def test_what_was_loaded_for_the_most_part_or_more_is_no_fault(
    flags: Mapping[str, Any], delta: Mapping[str, float]
) -> None:
    result = loaded(with_tier(flags, **delta))
    assert result is not None and result.severity == "ok"


def test_the_bytes_of_a_token_that_theory_does_not_know_mark_nothing() -> None:
    inputs = with_tier(OFFLOADING, restores=1.0, restored_bytes=1.0)
    unknown = CellInputs(**{**vars(inputs), "kv_bytes_per_token": None})
    result = loaded(unknown)
    assert result is not None and result.severity == "ok"


@pytest.mark.parametrize(
    "inputs",
    [
        with_tier(LMCACHE, external_hit_tokens=0.0),
        with_tier({}),
        with_tier(DAEMON),
        with_tier(LMCACHE, {"environment": {"LMCACHE_LOG_LEVEL": "WARNING"}}),
        with_tier(LMCACHE, {"environment": {"LMCACHE_USE_LAYERWISE": "True"}}),
        with_tier(LMCACHE, restores=-3.0),  # `counters_reset` has it
    ],
    ids=["nothing found", "no tier", "daemon", "log off", "layer by layer", "counter fell"],
)
def test_where_nothing_was_found_or_the_tier_does_not_tell_the_question_does_not_arise(inputs: CellInputs) -> None:
    assert loaded(inputs) is None


def test_each_rank_tells_of_its_own_part() -> None:
    flags = {**LMCACHE, "tensor-parallel-size": 2}
    told = {"external_hit_tokens": 96000.0, "restores": 48.0}
    half, whole = (loaded(with_tier(flags, **told, restored_tokens=tokens)) for tokens in (96000.0, 192000.0))
    assert half is not None and half.severity == "caution"
    assert whole is not None and whole.severity == "ok"


def test_what_a_prefill_server_hands_over_is_no_tier() -> None:
    """Its decode servers' counts are called otherwise; the tier of a prefill server is asked like any other."""
    behind = {"topology": "prefill-decode"}
    handed_over = {"external_hit_tokens": 0.0, "handed_over_tokens": 12_000.0, "decode:external_hit_tokens": 12_000.0}
    assert loaded(with_tier(LMCACHE, behind, **handed_over)) is None
    result = loaded(with_tier(LMCACHE, behind, **{"prefill:external_hit_tokens": 6_000.0}))
    assert result is not None and result.severity == "invalid"


def test_which_tiers_tell() -> None:
    def told(kind: str, flags: Mapping[str, Any], **changes: Any) -> tuple[str | None, bool]:
        identity = {**SPECIFICATION["server"], "engine": {"kind": kind}, "flags": flags, **changes}
        return tier_of(identity), tells_of_loads(identity)

    assert told("vllm", LMCACHE) == ("LMCache", True)
    assert told("vllm", OFFLOADING) == told("vllm", DISK) == ("vLLM's own offloading", True)
    assert told("vllm", DAEMON) == told("vllm", {}, topology="cache-daemon") == ("LMCache's daemon", False)
    several = {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [*DISK.values()]}}
    assert told("vllm", {"kv-transfer-config": several}) == ("vLLM's own offloading", True)
    assert told("vllm", {"kv-offloading-size": 20, "kv-offloading-backend": "lmcache"}) == (None, False)
    assert told("sglang", {"enable-hierarchical-cache": True}) == (None, False)
    assert told("truth", {"tier": True}) == (None, False)


def test_a_tier_that_loaded_nothing_by_the_bus_whatever_the_log_says() -> None:
    """An H100's counters: 0.1 GiB came where 12 GiB were due. The daemon tells of no loads; the log of LMCache might say anything."""
    daemon = loaded(recorded("lmcache", DAEMON))
    assert daemon is not None and (daemon.severity, daemon.expected) == (
        "invalid",
        "at least 50 % of the 12 GiB that they take",
    )
    assert daemon.saw.endswith("found in LMCache's daemon; 0.114 GiB came over PCIe")
    believed = loaded(recorded("lmcache", LMCACHE, restores=24.0, restored_tokens=98304.0))
    assert believed is not None and believed.severity == "invalid"
    silent = loaded(recorded("lmcache", LMCACHE))
    assert silent is not None and "which told of no load; 0.114 GiB came over PCIe" in silent.saw
    assert "full CUDA graph" in silent.remedy


def test_a_tier_that_loaded_what_it_says() -> None:
    """The same prompts from vLLM's own offloading: 13 GiB came, over a counter that started anew three times."""
    for flags in (OFFLOADING, DAEMON):
        result = loaded(recorded("offloading", flags))
        assert result is not None and result.severity == "ok"
        assert result.saw.endswith("; 13.1 GiB came over PCIe")


def test_looks_that_are_too_far_apart_prove_nothing() -> None:
    assert loaded(recorded("lmcache-warm-gap", DAEMON, external_hit_tokens=98304.0)) is None


def severity(inputs: CellInputs) -> str | None:
    result = loaded(inputs)
    return None if result is None else result.severity


def test_half_of_what_is_due_is_taken_for_a_load_and_more_never_complains() -> None:
    assert severity(came(DAEMON, 0.36)) == "invalid"
    assert severity(came(DAEMON, 0.37)) == severity(came(DAEMON, 400.0)) == "ok"


def test_gpus_that_share_a_model_each_receive_a_part() -> None:
    flags = {**DAEMON, "tensor-parallel-size": 2}
    assert severity(came(flags, 0.75, gpus=2)) == "ok"
    assert severity(came(flags, 0.3, gpus=2)) == "invalid"


def test_what_the_log_says_was_loaded_in_part_is_held_against_that_part() -> None:
    told = {"restores": 24.0, "restored_tokens": 2_000.0}
    assert severity(came(LMCACHE, 0.24, **told)) == "caution"
    assert severity(came(LMCACHE, 0.01, **told)) == "invalid"


@pytest.mark.parametrize(
    ("changes", "server"),
    [
        ({"gpu": None}, {}),
        ({"gpu": came(DAEMON, 0.01).gpu.drop_columns(["pcie_received_bytes"])}, {}),  # type: ignore[union-attr]
        ({"gpu": came(DAEMON, 0.0).gpu}, {}),
        ({"gpu": received([None] * 170, times_s=[0.1 * place for place in range(170)])}, {}),
        ({"requests": requests_table([])}, {}),
        ({"kv_bytes_per_token": None}, {}),
        ({"gpu_names": ["NVIDIA GH200 480GB"]}, {}),
        ({}, {"environment": {"LMCACHE_REMOTE_SERDE": "cachegen"}}),
    ],
    ids=["no GPU", "older table", "stands still", "no counter", "no requests", "bytes unknown", "C2C", "compressed"],
)
def test_where_the_bus_cannot_tell_the_question_of_a_silent_tier_does_not_arise(
    changes: Mapping[str, Any], server: Mapping[str, Any]
) -> None:
    inputs = replace(came(DAEMON, 0.01), **changes)
    identity = {**inputs.specification["server"], **server}
    assert severity(replace(inputs, specification={**inputs.specification, "server": identity})) is None


def burst(gib_a_prompt: float, waited_s: float | None) -> CellInputs:
    """Sixteen prompts that are sent at once at 1 s and each wait `waited_s`, all found in a tier; next to nothing is counted."""
    tokens = int(gib_a_prompt * GIB / LLAMA_8B_KV)
    waits = {"first_token_s": None, "ttft_service_s": None} if waited_s is None else {}
    rows = [request_row(place, 1.0, waited_s or 1.0) | {"prompt_tokens": tokens} | waits for place in range(16)]
    times_s = [0.1 * place for place in range(60)]
    counter = received([1e6 * place for place in range(60)], times_s=times_s)
    found = {"external_queried_tokens": 16.0 * tokens, "external_hit_tokens": 16.0 * tokens}
    return replace(with_tier(DAEMON, **found), requests=requests_table(rows), gpu=counter)


def test_loads_that_a_counter_may_have_gone_round_for_are_not_denied() -> None:
    """More than 4 GiB may have come between two looks, where so much was waited for at once."""
    assert severity(burst(0.5, waited_s=0.3)) is None
    assert severity(burst(0.2, waited_s=0.3)) is None, "3.2 GiB are 4 with other traffic"
    assert severity(burst(0.17, waited_s=0.3)) == "invalid", "2.7 GiB cannot hide"
    assert severity(burst(0.5, waited_s=None)) is None


def test_loads_before_the_first_look_or_after_the_last_are_not_denied() -> None:
    for early in (True, False):
        inputs = burst(0.2, waited_s=0.3)
        assert inputs.gpu is not None
        some = inputs.gpu.slice(13) if early else inputs.gpu.slice(0, 12)
        assert severity(replace(inputs, gpu=some)) is None


def test_bytes_of_a_token_are_known_of_a_made_up_model_by_its_identity() -> None:
    server = with_tier(OFFLOADING).specification["server"]
    assert identified_kv_bytes(server) == LLAMA_8B_KV
    for flags, size in (
        ({"kv-cache-dtype": "fp8"}, LLAMA_8B_KV / 2),
        ({"hf-overrides": {"num_hidden_layers": 16}}, LLAMA_8B_KV / 2),
    ):
        assert identified_kv_bytes({**server, "flags": flags}) == size
    for model in ({"kind": "hub", "name": "m", "revision": "r"}, {"kind": "synthetic", "shape": {}}):
        assert identified_kv_bytes({**server, "model": model}) is None


def in_part(inputs: CellInputs) -> CheckResult | None:
    return loaded(inputs, "tier_loaded_in_part")


def test_a_tier_that_loaded_one_half_of_what_it_says() -> None:
    """LMCache 0.5.3 in the process of vLLM 0.26: 24 loads of 0.5 GiB each by its log, and 7 GiB on the bus of an H100."""
    result = in_part(recorded("lmcache-half", LMCACHE))
    assert result is not None and (result.severity, result.saw, result.expected) == (
        "invalid",
        "7.06 GiB came over PCIe where loads of LMCache take 12 GiB",
        "at least 90 % of that",
    )
    assert "daemon" in result.remedy
    assert severity(recorded("lmcache-half", LMCACHE)) == "ok", "it is no question of whether anything came"


def test_a_tier_that_is_faster_than_the_bus() -> None:
    """The same of a replicate whose bus was not looked at for two seconds: by the log 69.8 GB/s, over 16 lanes of PCIe 5."""
    hidden = recorded("lmcache-half-hidden", LMCACHE)
    assert in_part(hidden) is None
    result = in_part(replace(hidden, pcie_bytes_per_s=PCIE_5_X16))
    assert result is not None and (result.severity, result.saw, result.expected) == (
        "invalid",
        "loads of LMCache at 69.8 GB/s by what it tells of them",
        "at most 63 GB/s, which the bus can carry",
    )
    assert in_part(replace(hidden, pcie_bytes_per_s=2 * PCIE_5_X16)) is None
    assert in_part(replace(hidden, pcie_bytes_per_s=PCIE_5_X16, gpu_names=["NVIDIA GH200 480GB"])) is None


def test_a_time_that_is_too_short_for_bytes_that_came_is_a_time_of_something_else() -> None:
    told = {"restores": 24.0, "restored_bytes": 6000.0 * LLAMA_8B_KV, "restore_s": 0.01}
    result = in_part(replace(came(OFFLOADING, 0.75, **told), pcie_bytes_per_s=PCIE_5_X16))
    assert result is not None and result.severity == "caution" and "other traffic included" in result.remedy


def test_a_tier_that_loaded_all_is_told_so() -> None:
    result = in_part(recorded("offloading", OFFLOADING))
    assert result is not None and (result.severity, result.saw) == (
        "ok",
        "13.1 GiB came over PCIe where loads of vLLM's own offloading take 12 GiB",
    )
    untold = (came(LMCACHE, 0.75), came(OFFLOADING, 0.75, restores=0.0, restored_bytes=0.0))
    for inputs in (recorded("lmcache", LMCACHE), with_tier(LMCACHE), with_tier({}), came(LMCACHE, 0.01), *untold):
        assert in_part(inputs) is None, "nothing came, was found, or was told: the other check's"


def test_what_a_bus_carries_follows_from_what_is_recorded_of_the_gpus() -> None:
    def of(*devices: object) -> float | None:
        return pcie_bytes_per_s(
            {"gpu": {"driver": "580", **{str(place): device for place, device in enumerate(devices)}}}
        )

    link = {"pcie_generation_most": 5, "pcie_lanes_most": 16, "pcie_generation": 1, "pcie_lanes": 16}
    assert of(link) == of(link, link) == of(link, {**link, "pcie_lanes_most": 8}) == pytest.approx(63.0e9, rel=1e-3)
    assert of({"pcie_generation": 5, "pcie_lanes": 16}) == of(link), "of before more was recorded"
    assert of({"pcie_generation": 1, "pcie_lanes": 16}) is None, "it may have been idle"
    for device in ({}, {**link, "pcie_generation_most": "not supported"}, {**link, "pcie_generation_most": 9}):
        assert of(device) is None and of(link, device) is None
    assert pcie_bytes_per_s({"gpu": "no driver"}) is None and pcie_bytes_per_s({}) is None
