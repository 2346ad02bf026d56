"""What the KV cache takes, how much of it fits, and what its blocks waste."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from leverlab.models.dimensions import Dimensions
from leverlab.theory.unknown import NotKnownError
from leverlab.theory.weights import bytes_of_type
from leverlab.units import format_share

_KV_BYTES: Final = {
    "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "bfloat16": 2, "float16": 2, "float32": 4,
}  # fmt: skip
"""Type of the KV cache → bytes of a value. Types with a scale for each head take a little more, and are not in it."""


def kv_bytes_per_token(dimensions: Dimensions, kv_dtype: str = "auto") -> int:
    """Keys and values of one token in all layers: 2 × layers × KV heads × head size × bytes.

    Grouped-query attention has fewer KV heads than heads (Ainslie et al. 2023, arXiv:2305.13245): with the hidden size in place of KV heads ×
    head size, Llama 3.1 8B would seem to take 4 times as much. Raises NotKnownError for an unknown type or architecture.
    """
    if dimensions.kv_bytes_per_token is None:
        raise NotKnownError(
            f"how a {dimensions.architecture} of type {dimensions.dtype} keeps keys and values is not known"
        )
    if kv_dtype == "auto":
        return dimensions.kv_bytes_per_token
    if kv_dtype not in _KV_BYTES:
        raise NotKnownError(f"the bytes of a value in a KV cache of type {kv_dtype!r} are not known")
    return dimensions.kv_bytes_per_token // bytes_of_type(dimensions.dtype) * _KV_BYTES[kv_dtype]


def served_kv_bytes(dimensions: Dimensions, flags: Mapping[str, Any]) -> int | None:
    """Bytes of the KV cache of one token on a server with `flags`; None where the model or the cache's type does not tell them.

    A quantized checkpoint may bring a type of its own for the cache, where no flag asks for one.
    """
    asked = str(flags.get("kv-cache-dtype", "auto"))
    if asked == "auto" and dimensions.quantization is not None:
        return None
    try:
        return kv_bytes_per_token(dimensions, asked)
    except NotKnownError:
        return None


def kv_cache_tokens(memory_bytes: float, share: float, weights_bytes: float, kv_bytes: float) -> int:
    """Tokens that one GPU's memory holds at most: (memory × share - weights) / bytes of a token, all of one GPU.

    Activations, graphs and what the driver keeps are not known before the server starts, and not counted, so that the server
    has less. Source: course week 4; vllm/v1/core/kv_cache_utils.py. Raises NotKnownError where the weights do not fit.
    """
    left = memory_bytes * share - weights_bytes
    if left <= 0:
        raise NotKnownError(
            f"weights of {weights_bytes / 1e9:.3g} GB do not fit into {format_share(share)} of {memory_bytes / 1e9:.4g} GB"
        )
    return int(left // kv_bytes)


def block_waste_tokens(lengths: Sequence[int], block_tokens: int) -> float:
    """Tokens that a request's last block keeps free, on average: mean of block × ⌈length / block⌉ - length.

    About (block - 1) / 2 for lengths that fall anywhere. Source: Kwon et al. (2023), Efficient Memory Management for Large
    Language Model Serving with PagedAttention, SOSP. Raises ValueError where there are no lengths.
    """
    if not lengths:
        raise ValueError("there are no lengths")
    return sum(-length % block_tokens for length in lengths) / len(lengths)


def maximum_concurrency(kv_tokens: float, lengths: Sequence[int], block_tokens: int) -> float:
    """Requests of a mean length, in whole blocks, that `kv_tokens` hold at once, each to its end.

    vLLM prints the same for requests of `max-model-len`. Raises ValueError where there are no lengths.
    """
    if not lengths:
        raise ValueError("there are no lengths")
    return kv_tokens / (sum(lengths) / len(lengths) + block_waste_tokens(lengths, block_tokens))


def shared_prefix_hit_ratio(
    prefix_tokens: int, suffix_tokens: int, groups: int, requests: int, block_tokens: int
) -> float:
    """Hit tokens / prompt tokens of an ideal prefix cache where `requests` share `groups` prefixes.

    (whole blocks of the prefix / prompt) × (1 - groups / requests): the first request of a group finds nothing. For a drawn
    workload its card has the ratio of the prompts themselves (`leverlab.workloads.card.ideal_hits`).
    """
    prompt = prefix_tokens + suffix_tokens
    cached = min(prefix_tokens, prompt - 1) // block_tokens * block_tokens
    return cached / prompt * (1 - groups / requests)
