"""Every quantity for a server: what flags and environment change in it, and what is said where something is missing."""

import dataclasses
from typing import Any

import pytest

from leverlab.config import load
from leverlab.config.workload import SharedPrefix
from leverlab.quantities import QUANTITIES
from leverlab.theory.__main__ import main
from leverlab.theory.configured import is_adapters, model_dimensions, server_of
from leverlab.theory.expected import expected, step_bytes, step_flop
from leverlab.theory.experts import gpu_imbalance
from leverlab.theory.occasion import Occasion
from leverlab.theory.server import TheoryServer
from leverlab.theory.step_kernels import attention_work, products_work
from leverlab.theory.unknown import DoesNotApplyError, NotKnownError
from leverlab.theory.weights import counted
from tests.unit.repository import SOURCE

CONFIGURATION = load(SOURCE, {"study": []})
SERVED = [name for name in CONFIGURATION.models if not is_adapters(name, CONFIGURATION)]
OCCASION = Occasion(prompts=(512, 512), outputs=(128, 128), running=16, ideal_hits={16: 0.5})


def server(flags: dict[str, Any] | None = None, gpu: str = "h200", count: int = 1, **changed: Any) -> TheoryServer:
    """A vLLM server of the shape of Llama 3.1 8B, by its identity, with `changed` fields."""
    identity = {
        "engine": {"kind": changed.pop("engine", "vllm")},
        "model": {"name": changed.pop("model", "llama-3.1-8b-shape")},
        "gpu": {"type": gpu, "count": count},
        "flags": {"gpu-memory-utilization": 0.9, "max-num-seqs": 256, **(flags or {})},
        "environment": changed.pop("environment", {}),
        **changed.pop("topology", {"topology": "single"}),
    }
    return dataclasses.replace(server_of(identity, CONFIGURATION), **changed)


def value(name: str, of: TheoryServer, occasion: Occasion = OCCASION) -> float:
    return expected(name, of, occasion)


@pytest.mark.parametrize("model", SERVED)
@pytest.mark.parametrize("gpu", CONFIGURATION.gpus)
def test_every_model_and_gpu_of_the_configuration_is_known(model: str, gpu: str) -> None:
    of = server(model=model, gpu=gpu)
    for name in ("parameters", "active_parameters", "weights_bytes", "kv_bytes_per_token"):
        assert value(name, of) > 0
    if CONFIGURATION.gpus[gpu].bandwidth:
        assert value("decode_floor_s", of) > 0 and value("prefill_floor_s", of) > 0


@pytest.mark.parametrize("name", QUANTITIES)
def test_every_quantity_is_a_number_or_says_what_it_lacks(name: str) -> None:
    for of in (
        server(),
        server(gpu="cpu"),
        server({"speculative-config": {"method": "eagle", "num_speculative_tokens": 3}}),
    ):
        for occasion in (OCCASION, Occasion()):
            try:
                assert value(name, of, occasion) >= 0
            except NotKnownError as error:
                assert len(str(error)) > 10


def test_the_hub_model_has_the_sizes_of_its_shape() -> None:
    stated, made = (model_dimensions(name, CONFIGURATION) for name in ("llama-3.1-8b", "llama-3.1-8b-shape"))
    assert stated == made and stated.parameters == 8_030_261_248


def test_a_hub_model_without_files_and_dimensions_says_so() -> None:
    source = {"kind": "hub", "id": "nobody/nothing", "revision": "0" * 40}
    bare = load(SOURCE, {"study": [], "models": {"bare": {"source": source}}})
    with pytest.raises(NotKnownError, match="no `dimensions` of bare, and its files are not on this machine"):
        model_dimensions("bare", bare)


def test_kv_tokens_follow_from_memory_weights_and_type() -> None:
    plain = value("kv_cache_tokens", server())
    assert plain == int((0.9 * 141e9 - 2 * 8_030_261_248) // 131_072)
    assert value("kv_cache_tokens", server({"kv-cache-dtype": "fp8"})) == pytest.approx(2 * plain, rel=1e-5)
    assert value("kv_cache_tokens", server({"tensor-parallel-size": 2}, count=2)) > 2 * plain, "weights are halved too"
    assert value("kv_cache_tokens", server({"num-gpu-blocks-override": 100, "block-size": 32})) == 3200
    assert value("kv_cache_tokens", server({"kv-cache-memory-bytes": 131_072 * 500})) == 500
    assert value("kv_cache_tokens", server({"max-total-tokens": 777}, engine="sglang")) == 777
    cpu = server(gpu="cpu", model="tiny-llama", environment={"VLLM_CPU_KVCACHE_SPACE": "1"})
    assert value("kv_cache_tokens", cpu) == 2**30 // 8192


def test_a_kv_head_is_not_split() -> None:
    of = server({"tensor-parallel-size": 16}, count=16)
    assert of.kv_bytes_of_a_gpu == 131_072 / 8


def test_two_gpus_read_half_each_and_add_up_their_parts() -> None:
    one, two = server(), server({"tensor-parallel-size": 2}, count=2)
    all_reduce_s = 16 * 524_288 / 450e9
    assert value("all_reduce_s", two) == pytest.approx(all_reduce_s)
    assert value("decode_floor_s", two) == pytest.approx(value("decode_floor_s", one) / 2 + all_reduce_s)
    with pytest.raises(DoesNotApplyError):
        value("all_reduce_s", one)
    four = server({"tensor-parallel-size": 4}, count=4)
    assert value("all_reduce_bytes_per_token", two) == 524_288
    two_of_four = server({"tensor-parallel-size": 2, "data-parallel-size": 2}, count=4)
    assert value("all_reduce_bytes_per_token", two_of_four) == 262_144, (
        "half of the GPUs have nothing to do with a token"
    )
    assert value("all_reduce_one_shot_bytes", two) == value("all_reduce_bytes", two)
    assert value("all_reduce_one_shot_bytes", four) == 2 * value("all_reduce_bytes", four)


def test_a_pipeline_splits_memory_and_no_token_comes_sooner() -> None:
    one, two = server(), server({"pipeline-parallel-size": 2}, count=2)
    assert value("decode_floor_s", two) == value("decode_floor_s", one)
    assert value("weights_bytes", two) == value("weights_bytes", one) / 2


def test_replicas_share_the_requests() -> None:
    data = server({"data-parallel-size": 2}, count=2)
    routed = server(count=2, topology={"topology": "replicas", "topology_settings": {"servers": 2}})
    alone = dataclasses.replace(OCCASION, running=8)
    for of in (data, routed):
        assert value("decode_floor_s", of) == value("decode_floor_s", server(), alone)


def test_servers_that_prefill_hand_over_to_those_that_decode() -> None:
    settings = {"connector": "nixl", "prefill": {"servers": 1}, "decode": {"servers": 3}}
    of = server(count=4, topology={"topology": "prefill-decode", "topology_settings": settings})
    cold = dataclasses.replace(OCCASION, hit_ratio=0.0)
    assert value("kv_transfer_s", of, cold) == pytest.approx(512 * 131_072 / 450e9)
    assert value("kv_transfer_s", of, dataclasses.replace(cold, hit_ratio=0.5)) == pytest.approx(256 * 131_072 / 450e9)
    assert value("kv_cache_tokens", of) == 4 * value("kv_cache_tokens", server())
    three = dataclasses.replace(OCCASION, running=16 / 3)
    assert value("decode_floor_s", of) == pytest.approx(value("decode_floor_s", server(), three))
    with pytest.raises(DoesNotApplyError, match="hands the KV cache"):
        value("kv_transfer_s", server(), cold)
    with pytest.raises(NotKnownError, match="topology 'ring' is not known"):
        server(topology={"topology": "ring"})


def test_the_batch_is_bounded_and_at_least_one() -> None:
    limited = value("decode_floor_s", server({"max-num-seqs": 4}))
    assert limited == value("decode_floor_s", server(), dataclasses.replace(OCCASION, running=4))
    few = dataclasses.replace(OCCASION, running=0.2)
    assert value("decode_floor_s", server(), few) == value(
        "decode_floor_s", server(), dataclasses.replace(OCCASION, running=1)
    )


def test_the_floor_of_a_mixture_is_that_of_one_tokens_experts() -> None:
    of = server(model="mixtral-8x7b-shape")
    _, active = counted(of.dimensions)
    read = 2 * (active - of.dimensions.vocabulary * 4096) + 16 * 576 * 131_072
    assert value("decode_floor_s", of) == pytest.approx(read / 4.8e12)
    assert value("experts_read", of) == pytest.approx(8 * (1 - 0.75**16))
    with pytest.raises(DoesNotApplyError, match="router"):
        value("decode_bandwidth_bytes_per_s", of)


def test_the_experts_load_is_that_of_the_gpus_of_one_server() -> None:
    def shared(flags: dict[str, Any], count: int, **changed: Any) -> TheoryServer:
        return server({"enable-expert-parallel": True, **flags}, count=count, model="mixtral-8x7b-shape", **changed)

    two = value("expert_gpu_imbalance", shared({"tensor-parallel-size": 2}, 2))
    assert two == pytest.approx(gpu_imbalance(8, 2, 16, 2))
    halved = {"topology": {"topology": "replicas", "topology_settings": {"servers": 2}}}
    replicas = shared({"tensor-parallel-size": 2}, 4, **halved)
    assert value("expert_gpu_imbalance", replicas) == pytest.approx(gpu_imbalance(8, 2, 8, 2))
    data = shared({"data-parallel-size": 2}, 2)
    assert value("expert_gpu_imbalance", data) == pytest.approx(two), "every rank's tokens come to them"
    with pytest.raises(DoesNotApplyError, match="whole experts"):
        value("expert_gpu_imbalance", server({"tensor-parallel-size": 2}, count=2, model="mixtral-8x7b-shape"))
    with pytest.raises(NotKnownError, match=r"8 experts.*3 GPUs"):
        value("expert_gpu_imbalance", shared({"tensor-parallel-size": 3}, 3))


def test_hit_ratios_follow_the_cards_blocks_and_the_flags() -> None:
    assert value("prefix_hit_ratio", server()) == 0.5
    for of in (server({"enable-prefix-caching": False}), server({"disable-radix-cache": True}, engine="sglang")):
        assert value("prefill_floor_s", of) > value("prefill_floor_s", server()), "nothing is spared"
        with pytest.raises(DoesNotApplyError, match="no prefix cache"):
            value("prefix_hit_ratio", of)
    with pytest.raises(NotKnownError, match="blocks of 64 tokens"):
        value("prefix_hit_ratio", server({"block-size": 64}))
    shared = SharedPrefix(requests=40, groups=4, prefix_tokens=2048, suffix_tokens=128, output_tokens=1)
    drawn = dataclasses.replace(OCCASION, shared=shared)
    assert value("prefix_hit_ratio", server({"block-size": 64}), drawn) == pytest.approx(2048 / 2176 * 0.9)
    assert value("prefix_hit_ratio", server(), drawn) == 0.5, "the prompts themselves know better"
    with pytest.raises(NotKnownError, match="warm"):
        value("prefix_hit_ratio", server(), dataclasses.replace(OCCASION, cold=False))


def test_what_is_cached_is_not_prefilled() -> None:
    none, half = (dataclasses.replace(OCCASION, hit_ratio=ratio) for ratio in (0.0, 0.5))
    assert value("prefill_floor_s", server(), half) < 0.6 * value("prefill_floor_s", server(), none)


def test_drafts_by_a_model_cost_what_it_reads() -> None:
    told = {"method": "draft_model", "model": "{model:llama-3.2-1b-shape}", "num_speculative_tokens": 5}
    rates = [0.8, 0.64, 0.512, 0.4096, 0.32768]
    of = server({"speculative-config": {**told, "synthetic_acceptance_rates": rates}})
    assert value("tokens_per_draft", of) == pytest.approx(3.689, abs=1e-3)
    # 1,235,814,400 weights of the draft, whose table is its output too, against 7,504,924,672.
    assert value("speculative_speedup", of) == pytest.approx(3.689 / (1 + 5 * 1_235_814_400 / 7_504_924_672), abs=2e-3)
    stated = server({"speculative-config": {**told, "synthetic_acceptance_length": 4}})
    assert value("tokens_per_draft", stated) == 4
    head = server({"speculative-config": {**told, "method": "eagle3", "synthetic_acceptance_rates": rates}})
    assert value("tokens_per_draft", head) == pytest.approx(3.689, abs=1e-3)
    with pytest.raises(NotKnownError, match="what a drafted token costs with the method 'eagle3' is not known"):
        value("speculative_speedup", head)
    for flags in ({"speculative-config.num_speculative_tokens": 5}, {"speculative-config": told}):
        with pytest.raises(NotKnownError, match="accepted"):
            value("tokens_per_draft", server(flags))


def test_a_model_that_drafts_takes_its_share_of_the_memory() -> None:
    """vLLM's log counts both models' weights together; every token is kept by the layers of both."""
    told = {"method": "draft_model", "model": "{model:llama-3.2-1b-shape}", "num_speculative_tokens": 5}
    plain, drafting = server(), server({"speculative-config": told})
    draft_bytes = 2 * 1_235_814_400
    assert value("weights_bytes", drafting) == pytest.approx(value("weights_bytes", plain) + draft_bytes, rel=1e-4)
    left = 0.9 * 141e9 - 2 * 8_030_261_248 - draft_bytes
    # 16 layers of 8 KV heads of 64, beside 32 of 8 of 128.
    assert value("kv_cache_tokens", drafting) == pytest.approx(left / (131_072 + 32_768), rel=1e-4)
    looked_up = server({"speculative-config": {"method": "ngram", "num_speculative_tokens": 5}})
    assert value("weights_bytes", looked_up) == value("weights_bytes", plain)
    head = server({"speculative-config": {**told, "method": "eagle3"}})
    with pytest.raises(NotKnownError, match="what the weights of a head of the method 'eagle3' take is not known"):
        value("weights_bytes", head)
    assert value("kv_cache_tokens", head) == value("kv_cache_tokens", plain), "a ceiling all the same"


def test_sglang_counts_the_models_own_token_among_the_drafted() -> None:
    flags = {"speculative-algorithm": "NGRAM", "speculative-num-draft-tokens": 6}
    of = server(flags, engine="sglang")
    seen = dataclasses.replace(OCCASION, accepted_share=0.5)
    assert value("tokens_per_draft", of, seen) == pytest.approx(1 + 5 * 0.5)
    assert value("speculative_speedup", of, seen) == pytest.approx(3.5)
    told = server(flags, engine="sglang", environment={"SGLANG_SIMULATE_ACC_LEN": "3.0"})
    assert value("tokens_per_draft", told) == 3


def test_the_truth_engine_declares_its_acceptance() -> None:
    of = server({"tokens-per-chunk": 6, "acceptance": 0.8}, gpu="cpu", model="tiny-llama", engine="truth")
    assert value("tokens_per_draft", of) == pytest.approx(3.689, abs=1e-3)


def test_quantized_weights_are_read_faster() -> None:
    plain, fp8 = server(), server({"quantization": "fp8"})
    assert 0.5 < value("decode_floor_s", fp8) / value("decode_floor_s", plain) < 0.65
    overridden = server({"hf-overrides": {"quantization_config": {"quant_method": "awq", "bits": 4}}})
    assert overridden.quantization == "awq" and value("weights_bytes", overridden) == pytest.approx(5.73e9, rel=0.01)


def test_that_no_price_is_given_is_said_of_a_gpu_and_not_of_a_cpu() -> None:
    with pytest.raises(NotKnownError, match=r"no price is given.*`price_per_hour` of") as missed:
        value("gpu_cost_per_million_tokens", server())
    assert not isinstance(missed.value, DoesNotApplyError)
    on_cpu = load(SOURCE, {"study": []}).gpus["cpu"]
    with pytest.raises(DoesNotApplyError, match="no price is given"):
        value("gpu_cost_per_million_tokens", dataclasses.replace(server(), gpu=on_cpu))
    priced = load(SOURCE, {"study": [], "gpus": {"h200": {"price_per_hour": 3.6}}})
    of = dataclasses.replace(server(), gpu=priced.gpus["h200"])
    steps_per_s = 1 / value("decode_floor_s", of)
    assert value("gpu_cost_per_million_tokens", of) == pytest.approx(3.6 / 3600 * 1e6 / (16 * steps_per_s))


def test_the_price_of_energy_is_that_of_the_settings_and_is_missed_of_a_gpu_alone() -> None:
    name = "energy_cost_per_million_tokens"
    with pytest.raises(NotKnownError, match=r"config/config.yaml states no `energy_price_per_kwh`") as missed:
        value(name, server())
    assert not isinstance(missed.value, DoesNotApplyError)
    priced = load(SOURCE, {"study": [], "energy_price_per_kwh": 0.36})
    of = dataclasses.replace(server(count=2), energy_price_per_kwh=priced.settings.energy_price_per_kwh)
    tokens_per_s = 16 / value("decode_floor_s", of)
    assert value(name, of) == pytest.approx(0.1 * 2 * 700 / tokens_per_s), "two boards at 700 W"
    with pytest.raises(DoesNotApplyError, match="energy of a CPU"):
        value(name, dataclasses.replace(of, gpu=priced.gpus["cpu"]))
    with pytest.raises(NotKnownError, match="`power`"):
        value(name, dataclasses.replace(of, gpu=of.gpu.model_copy(update={"power": None})))


def test_the_command_prints_every_model_and_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["theory", "--root", str(SOURCE)])
    assert main() == 0
    printed = capsys.readouterr().out
    assert all(f"{model} on {gpu}: " in printed for model in SERVED for gpu in CONFIGURATION.gpus)
    assert "nothing is known" not in printed and "adapters" not in printed
    monkeypatch.setattr("sys.argv", ["theory", "tiny-llama-adapters", "--root", str(SOURCE)])
    assert main() == 1
    assert (
        "tiny-llama-adapters are LoRA adapters, which are served with their base: ask for tiny-llama"
        in capsys.readouterr().err
    )
    monkeypatch.setattr("sys.argv", ["theory", "llama-3.1-8b", "h20", "--root", str(SOURCE)])
    assert main() == 1
    assert "there is no 'h20' in config/gpus.yaml; did you mean 'h200'?" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [{}, {"kv-cache-dtype": "fp8"}, {"quantization": "fp8"}])
def test_products_and_attention_are_what_a_step_does(flags: dict[str, Any]) -> None:
    of, context = server(flags), OCCASION.context_tokens
    products, attention = products_work(of, 16, 16), attention_work(of, 16, 16, context)
    assert products.flop + attention.flop == pytest.approx(step_flop(of, OCCASION))
    assert products.bytes_read + attention.bytes_read == pytest.approx(step_bytes(of, OCCASION))
    # 32 heads share 8 heads of keys and values: each byte pair meets 4 queries, with two operations for each of key and value.
    assert attention.intensity == (8 if "kv-cache-dtype" in flags else 4)


def test_gpus_that_share_a_model_share_its_kernels_work() -> None:
    alone, halved = server(), server({"tensor-parallel-size": 2}, count=2)
    assert products_work(halved, 4, 4).bytes_read == products_work(alone, 4, 4).bytes_read / 2
    assert attention_work(halved, 4, 4, 1000).bytes_read == attention_work(alone, 4, 4, 1000).bytes_read / 2
    assert attention_work(halved, 4, 4, 1000).flop == attention_work(alone, 4, 4, 1000).flop / 2


def test_a_verified_draft_computes_more_and_reads_the_same() -> None:
    plain, drafted = products_work(server(), 4, 4), products_work(server(), 4, 16)
    assert drafted.bytes_read == plain.bytes_read and drafted.flop == 4 * plain.flop


def test_of_a_mixture_products_are_of_another_class() -> None:
    with pytest.raises(DoesNotApplyError, match="mixture"):
        products_work(server(model="tiny-mixtral", gpu="cpu"), 4, 4)
