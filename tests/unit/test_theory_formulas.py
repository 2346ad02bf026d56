"""Formulas of theory against published numbers and numbers worked out by hand."""

import math
import random
from typing import Any

import numpy as np
import pytest

from leverlab.models.dimensions import Dimensions, dimensions
from leverlab.theory import communication, cost, experts, memory, roofline, speculation
from leverlab.theory.floors import floors
from leverlab.theory.unknown import NotKnownError
from leverlab.theory.weights import mlp_to_projections, step_weight_bytes, weights_bytes
from leverlab.workloads.card import ideal_hits
from tests.unit.test_theory_floors import H200, LLAMA_8B

MIXTRAL: dict[str, Any] = {
    **LLAMA_8B, "architectures": ["MixtralForCausalLM"], "vocab_size": 32000, "max_position_embeddings": 32768,
    "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN_MIXTURE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768, "vocab_size": 151936,
    "max_position_embeddings": 40960, "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "torch_dtype": "bfloat16",
}  # fmt: skip
A100, H100 = {"bandwidth": 2.039e12, "peak": 312e12}, {"bandwidth": 3.35e12, "peak": 989e12}


@pytest.fixture
def llama() -> Dimensions:
    return dimensions(LLAMA_8B)


@pytest.fixture
def mixtral() -> Dimensions:
    return dimensions(MIXTRAL)


def test_mixtures_have_the_published_sizes(mixtral: Dimensions) -> None:
    # Jiang et al. (2024): 46.7 billion in all, 12.9 billion a token. Qwen3-30B-A3B: 30.5 and 3.3 billion.
    assert mixtral.parameters == 46_702_792_704 and mixtral.active_parameters == 12_879_925_248
    qwen = dimensions(QWEN_MIXTURE)
    assert qwen.parameters == 30_532_122_624 and qwen.active_parameters == pytest.approx(3.35e9, rel=2e-3)
    assert (qwen.experts, qwen.experts_per_token, qwen.intermediate) == (128, 8, 768)


def test_a_mixture_of_another_make_is_not_counted() -> None:
    uneven = dimensions({**QWEN_MIXTURE, "mlp_only_layers": [0]})
    assert uneven.parameters is None and uneven.experts is None
    with pytest.raises(NotKnownError, match="Qwen3MoeForCausalLM"):
        weights_bytes(uneven, "bfloat16", None)


def test_an_mlp_is_held_against_its_attentions_projections(llama: Dimensions, mixtral: Dimensions) -> None:
    # 3 × 4096 × 14336 weights against 4096 × (4096 + 2 × 1024) and 4096 × 4096.
    assert mlp_to_projections(llama) == pytest.approx(176_160_768 / 41_943_040)
    with pytest.raises(NotKnownError, match="mixture"):
        mlp_to_projections(mixtral)


def test_weights_take_what_the_checkpoints_take(llama: Dimensions) -> None:
    assert weights_bytes(llama, "bfloat16", None) == 2 * 8_030_261_248
    # Linear layers of 6,979,588,096 weights, and two tables of 525,336,576 that stay in 16 bits.
    assert weights_bytes(llama, "bfloat16", "fp8") == pytest.approx(6_979_588_096 + 4 * 525_336_576)
    assert weights_bytes(llama, "bfloat16", "awq") / 1e9 == pytest.approx(5.73, abs=0.01)
    with pytest.raises(NotKnownError, match="mxfp4"):
        weights_bytes(llama, "bfloat16", "mxfp4")


def test_the_kv_cache_of_a_token(llama: Dimensions) -> None:
    assert memory.kv_bytes_per_token(llama) == 131_072
    assert memory.kv_bytes_per_token(llama, "fp8") == 65_536
    with pytest.raises(NotKnownError, match="nvfp4"):
        memory.kv_bytes_per_token(llama, "nvfp4")


def test_tokens_that_a_memory_holds() -> None:
    # 0.9 × 80 GB - 16 GB = 56 GB, at 131,072 bytes a token.
    assert memory.kv_cache_tokens(80e9, 0.9, 16e9, 131_072) == 427_246
    with pytest.raises(NotKnownError, match="do not fit"):
        memory.kv_cache_tokens(24e9, 0.5, 16e9, 131_072)


@pytest.mark.parametrize(("block", "waste"), [(1, 0), (16, 15 / 2), (32, 31 / 2), (128, 127 / 2)])
def test_a_last_block_wastes_half_of_it(block: int, waste: float) -> None:
    assert memory.block_waste_tokens(range(1, 10 * 128 + 1), block) == waste


def test_requests_that_a_cache_holds() -> None:
    # Requests of 100 tokens take 7 blocks of 16: 112.
    assert memory.maximum_concurrency(11_200, [100, 100], 16) == 100
    with pytest.raises(ValueError, match="no lengths"):
        memory.maximum_concurrency(11_200, [], 16)


@pytest.mark.parametrize(("prefix", "suffix", "block"), [(2048, 128, 16), (2050, 128, 16), (100, 28, 128), (256, 1, 1)])
def test_the_hit_ratio_of_shared_prefixes_is_that_of_such_prompts(prefix: int, suffix: int, block: int) -> None:
    prompts = [[group] * prefix + [1000 + 10 * number + group] * suffix for number in range(5) for group in range(4)]
    hits = ideal_hits(prompts, block) / sum(map(len, prompts))
    assert memory.shared_prefix_hit_ratio(prefix, suffix, 4, len(prompts), block) == pytest.approx(hits)


@pytest.mark.parametrize(("bandwidth", "floor_ms"), [(2.039e12, 7.9), (3.35e12, 4.8), (4.8e12, 3.35)])
def test_the_decode_floor_that_the_course_asks_for(llama: Dimensions, bandwidth: float, floor_ms: float) -> None:
    all_weights = weights_bytes(llama, "bfloat16", None)
    assert 1e3 * roofline.decode_floor_s(all_weights, bandwidth) == pytest.approx(floor_ms, abs=0.05)


def test_a_step_reads_single_rows_of_the_embeddings(llama: Dimensions) -> None:
    read = step_weight_bytes(llama, "bfloat16", None, 64)
    assert read == 2 * (8_030_261_248 - 525_336_576)
    found = floors(llama, {}, 1, **H200)
    assert found is not None and roofline.decode_floor_s(read, H200["bandwidth"]) == pytest.approx(found.step_s)


def test_a_step_of_a_mixture_reads_the_experts_that_its_batch_needs(mixtral: Dimensions) -> None:
    one, many = (step_weight_bytes(mixtral, "bfloat16", None, batch) for batch in (1, 1000))
    assert one == pytest.approx(2 * (12_879_925_248 - 131_072_000))
    assert many == pytest.approx(2 * (46_702_792_704 - 131_072_000))
    # Two tokens need 8 × (1 - (6/8)²) = 3.5 experts.
    assert experts.experts_read(8, 2, 2) == 3.5


def test_the_checks_know_the_floor_of_a_mixture_and_of_a_quantized_checkpoint(mixtral: Dimensions) -> None:
    found = floors(mixtral, {}, 1, **H200)
    assert found is not None and found.step_s == pytest.approx(2 * (12_879_925_248 - 131_072_000) / 4.8e12)
    awq = dimensions({**LLAMA_8B, "quantization_config": {"quant_method": "awq", "bits": 4}})
    plain, quantized = floors(dimensions(LLAMA_8B), {}, 1, **H200), floors(awq, {}, 1, **H200)
    assert plain and quantized and plain.step_s == pytest.approx(4 * quantized.step_s)


def test_the_ridge_is_a_thousand_times_the_courses() -> None:
    assert roofline.ridge_flop_per_byte(A100["peak"], A100["bandwidth"]) == pytest.approx(153, abs=0.1)
    assert roofline.ridge_flop_per_byte(H100["peak"], H100["bandwidth"]) == pytest.approx(295, abs=0.3)
    assert roofline.ridge_flop_per_byte(H200["peak"]["bf16"], H200["bandwidth"]) == pytest.approx(206, abs=0.1)


def test_decoding_has_an_intensity_of_about_its_batch(llama: Dimensions) -> None:
    for batch in (1, 4, 16, 64):
        flop = roofline.decode_flop(llama, batch, 0)
        read = roofline.decode_bytes(step_weight_bytes(llama, "bfloat16", None, batch), 131_072, batch, 0)
        assert flop / read == pytest.approx(batch)
    # With a context the KV is read too, at 4 heads × head size operations for 4 KV heads × head size bytes: 4 a byte.
    long = roofline.decode_flop(llama, 64, 1e9) / roofline.decode_bytes(1.5e10, 131_072, 64, 1e9)
    assert long == pytest.approx(32 / 8, rel=1e-3)


def test_operations_of_a_prefill(llama: Dimensions) -> None:
    # 2 × 6,979,588,096 × 2048, attention of 2 × 32 × 4096 × 2048², and the last token's logits: 28.6 + 1.1 TFLOP.
    whole = roofline.prefill_flop(llama, 2048)
    assert whole == pytest.approx(2 * 6_979_588_096 * 2048 + 262_144 * 2048**2 + 2 * 525_336_576)
    assert roofline.prefill_flop(llama, 2048, 1024) + roofline.prefill_flop(llama, 1024) == pytest.approx(
        whole + 2 * 525_336_576
    )


def test_a_short_prefill_waits_for_the_weights() -> None:
    assert roofline.prefill_floor_s(1e12, 1e15, 1.5e10, 4.8e12) == pytest.approx(3.125e-3)
    assert roofline.prefill_floor_s(1e14, 1e15, 1.5e10, 4.8e12, gpus=2) == pytest.approx(0.05)


def test_the_roof_has_its_bend_at_the_ridge() -> None:
    assert roofline.roof_flop_per_s(1, 312e12, 2.039e12) == 2.039e12
    assert roofline.roof_flop_per_s(153.1, 312e12, 2.039e12) == 312e12


def test_all_reduces_of_a_step(llama: Dimensions) -> None:
    # 2 a layer × 32 layers × 4096 values of 2 bytes, of which a GPU of two sends as much as the message is long: 524,288.
    assert communication.decode_all_reduce_bytes(llama, 1, 2, "bfloat16") == 524_288
    assert communication.decode_all_reduce_bytes(llama, 1, 1, "bfloat16") == 0
    assert communication.ring_bytes(1, 4) == 1.5 and communication.one_shot_bytes(1, 4) == 3
    assert communication.transfer_s(4096 * 131_072, 450e9) == pytest.approx(1.193e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("acceptance", "drafted", "tokens"), [(0.8, 1, 1.8), (0.8, 3, 2.952), (0.8, 5, 3.689), (0.8, 7, 4.161), (0, 5, 1), (1, 5, 6)]
)  # fmt: skip
def test_tokens_of_a_draft(acceptance: float, drafted: int, tokens: float) -> None:
    assert speculation.tokens_per_draft(acceptance, drafted) == pytest.approx(tokens, abs=6e-4)


@pytest.mark.parametrize("acceptance", [0, 0.1, 0.5, 0.8, 0.99, 1])
@pytest.mark.parametrize("drafted", [1, 3, 7])
def test_the_share_that_servers_count_leads_back_to_the_acceptance(acceptance: float, drafted: int) -> None:
    share = (speculation.tokens_per_draft(acceptance, drafted) - 1) / drafted
    assert speculation.acceptance_of(share, drafted) == pytest.approx(acceptance, abs=1e-9)
    assert share <= acceptance + 1e-12


def test_what_is_no_probability_is_refused() -> None:
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="no probability"):
            speculation.tokens_per_draft(wrong, 3)
        with pytest.raises(ValueError, match="no share"):
            speculation.acceptance_of(wrong, 3)


def test_a_draft_costs_what_it_computes() -> None:
    assert speculation.speedup(3.689, 5, 0) == 3.689
    assert speculation.speedup(3.689, 5, 0.15) == pytest.approx(2.108, abs=1e-3)
    assert speculation.speedup(1.0, 5, 0.15) < 1


@pytest.mark.parametrize(("number", "taken", "batch"), [(8, 2, 1), (8, 2, 64), (128, 8, 32)])
def test_the_busiest_expert_of_a_uniform_router(number: int, taken: int, batch: int) -> None:
    draw = random.Random(1)
    loads = []
    for _ in range(600):
        counts = [0] * number
        for _ in range(batch):
            for chosen in draw.sample(range(number), taken):
                counts[chosen] += 1
        loads.append(max(counts) * number / (taken * batch))
    assert experts.expert_imbalance(number, taken, batch) == pytest.approx(sum(loads) / len(loads), rel=0.12)


def test_no_batch_has_no_busiest_expert() -> None:
    with pytest.raises(ValueError, match="empty"):
        experts.expert_imbalance(8, 2, 0)


def test_the_price_of_a_million_tokens() -> None:
    # 2 a GPU-hour on 4 GPUs that make 1000 tokens a second: 8 an hour for 3.6 million.
    assert cost.gpu_cost_per_million_tokens(2, 4, 1000) == pytest.approx(8 / 3.6)
    with pytest.raises(ValueError, match="no tokens"):
        cost.gpu_cost_per_million_tokens(2, 4, 0)
    # A kilowatt that makes 1000 tokens a second takes a joule for each: a million tokens are 1 MJ, of 3.6 in a kilowatt-hour.
    assert cost.energy_cost_per_million_tokens(0.36, 1.0) == pytest.approx(0.1)


def test_the_busiest_gpu_of_those_that_share_the_experts() -> None:
    """One token that takes two of four experts: both on one of two GPUs with a chance of 1/3, so that the busiest has 4/3 on average."""
    assert experts.gpu_imbalance(4, 2, 1, 2) == pytest.approx(4 / 3)
    assert experts.gpu_imbalance(8, 2, 64, 2) == pytest.approx(_drawn(8, 2, 64, 2), rel=0.01)
    assert experts.gpu_imbalance(8, 2, 64, 4) == pytest.approx(_drawn(8, 2, 64, 4), rel=0.03), "taken as independent"
    assert experts.gpu_imbalance(8, 2, 4096, 2) < 1.02
    for batch, gpus in ((0, 2), (1, 3)):
        with pytest.raises(ValueError, match="no token is routed, or the experts are not shared evenly"):
            experts.gpu_imbalance(8, 2, batch, gpus)


def _drawn(of: int, per_token: int, batch: int, gpus: int) -> float:
    draw = np.random.default_rng(1)
    taken = draw.random((4000, batch, of)).argsort(axis=2)[:, :, :per_token] // (of // gpus)
    loads = np.stack([(taken == gpu).sum(axis=(1, 2)) for gpu in range(gpus)])
    return float(loads.max(axis=0).mean() / loads.mean())
