"""Operations, bytes and what bounds them: the roofline of decoding and prefilling.

Operations count a multiplication and an addition as two. Source of all: Williams, Waterman and Patterson (2009), Roofline, CACM
52(4); for transformers Pope et al. (2023), Efficiently Scaling Transformer Inference, MLSys.
"""

from leverlab.models.dimensions import Dimensions
from leverlab.theory.weights import counted


def matrix_parameters(dimensions: Dimensions) -> int:
    """Weights that a token is multiplied with: those it uses, without the embeddings' table, which is only looked up."""
    _, active = counted(dimensions)
    return active - (0 if dimensions.tied_embeddings else dimensions.vocabulary * dimensions.hidden)


def decode_flop(dimensions: Dimensions, batch: float, context_tokens: float) -> float:
    """Operations of a decode step: batch × (2 × weights + 4 × layers × heads × head size × context).

    Scores and weighted values are 2 × heads × head size each, for every token of the context, in every layer.
    """
    attention = 4 * dimensions.layers * dimensions.heads * dimensions.head_dim * context_tokens
    return batch * (2 * matrix_parameters(dimensions) + attention)


def decode_bytes(weight_bytes: float, kv_bytes_per_token: float, batch: float, context_tokens: float) -> float:
    """Bytes that a decode step reads: the weights once (`weights.step_weight_bytes`), and the KV of every request's context."""
    return weight_bytes + batch * context_tokens * kv_bytes_per_token


def prefill_flop(dimensions: Dimensions, prompt_tokens: float, cached_tokens: float = 0) -> float:
    """Operations of a prefill of which `cached_tokens` are in the cache: 2 × weights a token, and attention to all before it.

    Causal attention of the tokens from c to n: 4 × layers × heads × head size × (n² - c²) / 2. The output's table is multiplied
    with the last token alone.
    """
    table = dimensions.vocabulary * dimensions.hidden
    linear = 2 * (matrix_parameters(dimensions) - table) * (prompt_tokens - cached_tokens) + 2 * table
    width = dimensions.layers * dimensions.heads * dimensions.head_dim
    return linear + 2 * width * (prompt_tokens**2 - cached_tokens**2)


def decode_floor_s(bytes_read: float, bandwidth_bytes_per_s: float, gpus: int = 1) -> float:
    """The least that a step takes which reads `bytes_read`, spread over `gpus` that each read at peak bandwidth.

    Llama 3.1 8B in BF16, counted with all its 16.06 GB: 7.9 ms on an A100, 4.8 ms on an H100, 3.35 ms on an H200 (course week 3).
    """
    return bytes_read / (bandwidth_bytes_per_s * gpus)


def prefill_floor_s(
    flop: float, peak_flop_per_s: float, weight_bytes: float, bandwidth_bytes_per_s: float, gpus: int = 1
) -> float:
    """The least that a prefill takes: its operations at peak rate, or reading the weights once, whichever is longer."""
    return max(flop / peak_flop_per_s, weight_bytes / bandwidth_bytes_per_s) / gpus


def ridge_flop_per_byte(peak_flop_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Intensity from which on arithmetic is the bound and not memory: peak rate / bandwidth.

    153 FLOP/byte on an A100 (312e12 / 2.039e12), 295 on an H100, 206 on an H200. The course divides 312 by 2000 and has 0.156:
    a factor of 1000, as 312 are TFLOP/s and 2000 GB/s.
    """
    return peak_flop_per_s / bandwidth_bytes_per_s


def roof_flop_per_s(intensity: float, peak_flop_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """The highest rate of arithmetic at an intensity (FLOP/byte): the smaller of the peak and intensity × bandwidth."""
    return min(peak_flop_per_s, intensity * bandwidth_bytes_per_s)
