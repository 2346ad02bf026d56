"""Floors against numbers worked out by hand from published dimensions and rates."""

import json
from pathlib import Path
from typing import Any

import pytest

from leverlab.models.dimensions import Dimensions, dimensions
from leverlab.records import JobSpecification
from leverlab.theory.floors import floors
from leverlab.trial.floors import expected_floors, expected_kv_bytes

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}  # fmt: skip
H200 = {"bandwidth": 4.8e12, "peak": {"bf16": 989e12, "fp8": 1979e12}}


@pytest.fixture
def llama() -> Dimensions:
    return dimensions(LLAMA_8B)


def test_a_decode_step_reads_the_weights_once(llama: Dimensions) -> None:
    # 8,030,261,248 weights, of which 128,256 × 4,096 are the embeddings: 7,504,924,672 × 2 bytes / 4.8 TB/s.
    found = floors(llama, {}, 1, **H200)
    assert found is not None and found.step_s == pytest.approx(3.12705e-3, rel=1e-4)
    # 6,979,588,096 weights outside both tables, two operations each, at 989 TFLOP/s: 14.1 µs a token.
    assert found.prefill_s_per_token == pytest.approx(1.41144e-5, rel=1e-4)


def test_quantization_and_more_gpus_lower_it(llama: Dimensions) -> None:
    plain, fp8, four = (
        floors(llama, flags, 1, **H200) for flags in ({}, {"quantization": "fp8"}, {"quantization": "awq"})
    )
    two = floors(llama, {}, 2, **H200)
    assert plain and fp8 and four and two
    assert (plain.step_s / fp8.step_s, plain.step_s / four.step_s, plain.step_s / two.step_s) == pytest.approx(
        (2, 4, 2)
    )
    assert fp8.prefill_s_per_token == pytest.approx((plain.prefill_s_per_token or 0) * 989 / 1979)


def test_what_is_not_known_bounds_nothing(llama: Dimensions) -> None:
    experts = dimensions({**LLAMA_8B, "architectures": ["MixtralForCausalLM"]})
    assert floors(experts, {}, 1, **H200) is None
    assert floors(dimensions({**LLAMA_8B, "torch_dtype": "mxfp4"}), {}, 1, **H200) is None
    without = floors(llama, {}, 1, 4.8e12, {})
    assert without is not None and without.prefill_s_per_token is None


def test_a_checkpoint_that_flags_call_quantized_has_the_floor_of_one(tmp_path: Path) -> None:
    """Dummy weights of four bits: their steps are faster than those of the shape as its config.json has it."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))

    def step_s(flags: dict[str, Any]) -> float:
        found = expected_floors(
            JobSpecification.model_construct(
                model_folder=str(tmp_path),
                identity={"flags": flags, "topology": "single"},
                gpu_count=1,
                gpu_bandwidth=4.8e12,
                gpu_peak={},
            )
        )
        assert found is not None
        return found.step_s

    overridden = {"hf-overrides": {"quantization_config": {"quant_method": "awq", "bits": 4}}}
    assert step_s({}) / step_s(overridden) == pytest.approx(4)


def test_the_bytes_of_a_token_in_the_kv_cache_or_nothing(tmp_path: Path) -> None:
    """What a tier's loads are counted by: 2 × 32 layers × 8 heads × 128 × 2 bytes."""

    def kv_bytes(flags: dict[str, Any]) -> int | None:
        return expected_kv_bytes(
            JobSpecification.model_construct(model_folder=str(tmp_path), identity={"flags": flags})
        )

    assert kv_bytes({}) is None, "no config.json"
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    assert kv_bytes({}) == kv_bytes({"kv-cache-dtype": "auto"}) == 131072
    assert kv_bytes({"kv-cache-dtype": "fp8"}) == 65536
    assert kv_bytes({"kv-cache-dtype": "of tomorrow"}) is None
    quantized = {"hf-overrides": {"quantization_config": {"quant_method": "fp8"}}}
    assert kv_bytes(quantized) is None, "the checkpoint may say how its cache is kept"
    assert kv_bytes({**quantized, "kv-cache-dtype": "fp8"}) == 65536
