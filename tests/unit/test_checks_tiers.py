"""Whether what a tier was found to hold was loaded: the counters of real cells of an H100, and tiers that do not tell."""

from collections.abc import Mapping
from typing import Any

import pytest

from leverlab.checks import CellInputs, check_cell
from leverlab.engines.tiers import tells_of_loads
from leverlab.records import CheckResult
from leverlab.theory.identified import identified_kv_bytes
from tests.unit.checked_cells import LMCACHE, OFFLOADING, SPECIFICATION, with_tier

LLAMA_8B_KV = 131072.0
DISK = {"kv-transfer-config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}}
DAEMON = {"kv-transfer-config": {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}}


def loaded(inputs: CellInputs) -> CheckResult | None:
    return next((result for result in check_cell(inputs) if result.code == "tier_not_loaded"), None)


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
    def told(kind: str, flags: Mapping[str, Any]) -> str | None:
        return tells_of_loads({**SPECIFICATION["server"], "engine": {"kind": kind}, "flags": flags})

    assert told("vllm", LMCACHE) == "LMCache"
    assert told("vllm", OFFLOADING) == told("vllm", DISK) == "vLLM's own offloading"
    several = {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [*DISK.values()]}}
    assert told("vllm", {"kv-transfer-config": several}) == "vLLM's own offloading"
    assert told("vllm", {"kv-offloading-size": 20, "kv-offloading-backend": "lmcache"}) is None
    assert told("sglang", {"enable-hierarchical-cache": True}) is None
    assert told("truth", {"tier": True}) is None


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
