"""Every quantity that theory gives, by name: unit, definition, source, and the metric that it stands beside.

The formulas are in `leverlab.theory`; here are the names by which a study asks for them. docs/theory.md is generated from here.
"""

from dataclasses import dataclass
from typing import Final, Literal

from leverlab.load_point import LoadPoint, parse_load_point

Sense = Literal["floor", "ceiling", "expected", "property"]
"""How a measured value stands to it: never below, never above, about equal; a property is no bound, and most have none beside it."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity of theory. `beside` is a metric's reference, `derived` where the report works the measured value out."""

    name: str
    unit: str
    label: str
    definition: str
    source: str
    sense: Sense = "property"
    beside: str | None = None


def _registry(*quantities: Quantity) -> dict[str, Quantity]:
    return {quantity.name: quantity for quantity in quantities}


DERIVED: Final = "derived"
"""Stands in `beside` where what is measured is no metric, and is worked out from several."""

QUANTITIES: Final[dict[str, Quantity]] = _registry(
    Quantity(
        "parameters",
        "1",
        "weights of the model",
        "weights of a decoder with gated MLPs, embeddings included; of a mixture all experts",
        "the architecture, as transformers builds it",
    ),
    Quantity(
        "active_parameters",
        "1",
        "weights that a token uses",
        "the same with the experts that one token is routed to, instead of all",
        "Jiang et al. (2024), Mixtral of Experts, arXiv:2401.04088",
    ),
    Quantity(
        "weights_bytes",
        "bytes",
        "memory of the weights on a GPU",
        "weights × bytes of each / GPUs that the model is split over, and those of a model that drafts; tables and norms stay in the model's type when "
        "it is quantized",
        "arithmetic; AWQ and GPTQ keep a scale and a zero a group of 128 weights",
        "expected",
        "weights_bytes",
    ),
    Quantity(
        "kv_bytes_per_token",
        "bytes/token",
        "KV cache of a token",
        "2 × layers × KV heads × head size × bytes of the cache's type, of all GPUs together",
        "Ainslie et al. (2023), GQA, arXiv:2305.13245; Kwon et al. (2023), PagedAttention, SOSP",
    ),
    Quantity(
        "kv_cache_tokens",
        "tokens",
        "tokens that the memory holds",
        "(memory × the server's share of it - weights) / KV bytes of a token, of a model that drafts too, or what the server is told to keep; "
        "activations and graphs, which take the rest, are not counted",
        "course weeks 4 and 5; vllm/v1/core/kv_cache_utils.py",
        "ceiling",
        "kv_cache_tokens",
    ),
    Quantity(
        "maximum_concurrency",
        "requests",
        "requests that the KV cache holds",
        "KV tokens (as the server says, else as expected) / tokens of a mean request in whole blocks, each kept to its end and none "
        "shared, at most the batch limit",
        "vllm/v1/core/kv_cache_utils.py, which takes the longest request instead of the mean one",
    ),
    Quantity(
        "block_waste_tokens",
        "tokens",
        "KV memory that the last block wastes",
        "mean over the requests of block size × ⌈length / block size⌉ - length, length being prompt and output",
        "Kwon et al. (2023), PagedAttention, SOSP; course week 4",
    ),
    Quantity(
        "decode_floor_s",
        "s",
        "floor of a decode step",
        "(weights + KV of the batch's contexts) / (memory bandwidth × GPUs), and under tensor parallelism the all-reduces of the "
        "step; of a mixture the experts of one token",
        "Pope et al. (2023), Efficiently Scaling Transformer Inference, MLSys; course week 3",
        "floor",
        "tpot_s p50",
    ),
    Quantity(
        "prefill_floor_s",
        "s",
        "floor of a prefill",
        "the larger of (operations of what of a mean prompt is not cached) / (peak rate × GPUs) and the time to read the weights once; "
        "attention to cached tokens is left out",
        "Pope et al. (2023), Efficiently Scaling Transformer Inference, MLSys",
        "floor",
        "ttft_service_s mean",
    ),
    Quantity(
        "ridge_flop_per_byte",
        "FLOP/byte",
        "ridge of the roofline",
        "peak rate of arithmetic / memory bandwidth: below it a kernel waits for memory",
        "Williams, Waterman and Patterson (2009), Roofline, CACM 52(4); course week 3, corrected",
    ),
    Quantity(
        "decode_intensity_flop_per_byte",
        "FLOP/byte",
        "arithmetic intensity of a decode step",
        "operations of a step / bytes that it reads, at the batch and context that were measured; of a mixture the experts that a "
        "uniform router needs",
        "Williams, Waterman and Patterson (2009), Roofline, CACM 52(4)",
    ),
    Quantity(
        "prefill_intensity_flop_per_byte",
        "FLOP/byte",
        "arithmetic intensity of a prefill",
        "operations of a mean prompt / bytes of the weights and its KV",
        "Williams, Waterman and Patterson (2009), Roofline, CACM 52(4)",
    ),
    Quantity(
        "decode_roof_flop_per_s",
        "FLOP/s",
        "roof over a decode step",
        "the smaller of the peak rate and intensity × bandwidth; beside it operations of a step / measured TPOT",
        "Williams, Waterman and Patterson (2009), Roofline, CACM 52(4)",
        "ceiling",
        DERIVED,
    ),
    Quantity(
        "decode_bandwidth_bytes_per_s",
        "bytes/s",
        "memory bandwidth",
        "peak bandwidth of all GPUs; beside it the bytes that a step reads / measured TPOT",
        "the GPU's data sheet",
        "ceiling",
        DERIVED,
    ),
    Quantity(
        "prefix_hit_ratio",
        "1",
        "hit ratio of an ideal prefix cache",
        "hit tokens / prompt tokens of the workload's own prompts in whole blocks, were each request done before the next one "
        "came and nothing evicted",
        "vllm/v1/core/kv_cache_manager.py; Zheng et al. (2024), SGLang, NeurIPS",
        "expected",
        "cache_hit_ratio",
    ),
    Quantity(
        "tokens_per_draft",
        "tokens",
        "tokens per verified draft",
        "(1 - a^(k+1)) / (1 - a) for k drafted tokens, each accepted with probability a; what a synthetic acceptance is told otherwise",
        "Leviathan, Kalman and Matias (2023), Speculative Decoding, ICML, equation 1",
        "expected",
        "tokens_per_draft",
    ),
    Quantity(
        "speculative_speedup",
        "1",
        "speed-up by speculation",
        "tokens per draft / (1 + k·c), c the cost of a drafted token in steps of the model; beside it TPOT of the same "
        "treatment without speculation / TPOT",
        "Leviathan, Kalman and Matias (2023), Speculative Decoding, ICML, theorem 3.8; course week 11, corrected",
        "ceiling",
        DERIVED,
    ),
    Quantity(
        "all_reduce_bytes",
        "bytes",
        "all-reduces of a decode step",
        "bytes that one GPU sends in a step: 2 all-reduces a layer of batch × hidden values, a ring's 2(n-1)/n of each",
        "Shoeybi et al. (2019), Megatron-LM, arXiv:1909.08053; Thakur, Rabenseifner and Gropp (2005), IJHPCA 19(1)",
    ),
    Quantity(
        "all_reduce_one_shot_bytes",
        "bytes",
        "all-reduces of a decode step in one round",
        "the same where every GPU reads the parts of all others at once: n - 1 messages each instead of 2(n-1)/n, in one round instead "
        "of 2(n-1)",
        "vllm csrc/custom_all_reduce.cuh, for small messages",
    ),
    Quantity(
        "all_reduce_bytes_per_token",
        "bytes/token",
        "all-reduces of a token",
        "bytes that a GPU sends on average for a token that is computed, in a prefill or a decode step: 2 all-reduces a layer of the hidden "
        "values, a ring's 2(n-1)/n of each; gathering the logits and keeping in step are not counted, and a switch that adds up itself spares some",
        "Shoeybi et al. (2019), Megatron-LM, arXiv:1909.08053; Thakur, Rabenseifner and Gropp (2005), IJHPCA 19(1)",
        "expected",
        "nvlink_bytes_per_token",
    ),
    Quantity(
        "all_reduce_s",
        "s",
        "floor of a step's all-reduces",
        "the bytes of rings / bandwidth of a link in one direction; latency, which is most of it at small batches, is not counted",
        "Thakur, Rabenseifner and Gropp (2005), IJHPCA 19(1); course week 13",
    ),
    Quantity(
        "kv_transfer_s",
        "s",
        "floor of a KV transfer",
        "KV bytes of a mean prompt, without what is cached / bandwidth of the link between GPUs, where a server hands it over",
        "Zhong et al. (2024), DistServe, OSDI; course week 16",
        "floor",
        "kv_transfer_s",
    ),
    Quantity(
        "experts_read",
        "1",
        "experts that a decode step reads",
        "E × (1 - (1 - k/E)^batch), expected of E experts in a layer where each token takes k uniformly",
        "arithmetic",
    ),
    Quantity(
        "expert_imbalance",
        "1",
        "load of the busiest expert",
        "expected largest number of tokens of an expert / mean, for a batch that is routed uniformly",
        "arithmetic: the maximum of binomial loads; course week 14",
    ),
    Quantity(
        "expert_gpu_imbalance",
        "1",
        "load of the busiest GPU of an expert-parallel server",
        "expected largest number of tokens that come to a GPU's experts / mean, for a batch that is routed uniformly",
        "arithmetic: the maximum of sums of hypergeometric loads",
    ),
    Quantity(
        "gpu_cost_per_million_tokens",
        "price",
        "price of a million output tokens by GPU-hours",
        "price of a GPU-hour × GPUs × 10⁶ / (3600 × tokens/s), tokens/s of decode steps at their floor; beside it that of the "
        "throughput that was measured",
        "arithmetic",
        "floor",
        DERIVED,
    ),
    Quantity(
        "energy_cost_per_million_tokens",
        "price",
        "price of the energy of a million output tokens",
        "price of a kilowatt-hour × J/token × 10⁶ / 3.6·10⁶, of GPUs at their power limit while decode steps take their floor; "
        "beside it that of `energy_per_token_j`, which may be more (steps take longer) or less (the power limit is not reached)",
        "arithmetic",
        "property",
        DERIVED,
    ),
)  # fmt: skip


class UnknownQuantityError(ValueError):
    """A quantity's name that is not in the registry; `name` is what was written."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no quantity of theory {name!r}; there are {', '.join(QUANTITIES)}")
        self.name = name


@dataclass(frozen=True, slots=True)
class QuantityReference:
    """A quantity, and the load point at which it is wanted: None for every one."""

    quantity: Quantity
    load: LoadPoint | None = None


def parse_quantity_reference(text: str) -> QuantityReference:
    """The reference that `text` makes: `decode_floor_s`, `decode_floor_s at concurrency 1`.

    Raises UnknownQuantityError where there is no such quantity, ValueError where the load point is none.
    """
    name, _, load = text.strip().partition(" at ")
    if name not in QUANTITIES:
        raise UnknownQuantityError(name)
    return QuantityReference(QUANTITIES[name], parse_load_point(load) if load else None)
