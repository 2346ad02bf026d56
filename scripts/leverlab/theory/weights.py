"""How many bytes a model's weights take, and how many of them a step reads."""

from typing import Final

from leverlab.models.dimensions import DTYPE_BYTES, Dimensions
from leverlab.theory.experts import experts_read
from leverlab.theory.unknown import NotKnownError

_GROUP: Final = 128
"""Weights that share a scale and a zero in AWQ and GPTQ checkpoints, as these are usually made."""

_BYTES_OF_A_WEIGHT: Final = {
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_per_tensor", "fp8_per_channel", "w8a8_fp8", "w8a8_int8", "experts_int8"), 1.0),
    **dict.fromkeys(("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin"), 0.5 + (2 + 0.5) / _GROUP),
}  # fmt: skip
"""Quantization → bytes of a linear layer's weight, with its share of a 16-bit scale and a 4-bit zero."""


def linear_parameters(dimensions: Dimensions, experts: float | None = None) -> float:
    """Weights of the layers' matrices, with `experts` of a mixture's (all where None): what quantization makes smaller.

    Norms, a few thousand weights a layer, are counted with them. Raises NotKnownError for an architecture that is not known.
    """
    total, _ = counted(dimensions)
    decoder = total - tables(dimensions)
    if dimensions.experts is None or experts is None:
        return decoder
    expert = 3 * dimensions.hidden * dimensions.intermediate
    return decoder - dimensions.layers * (dimensions.experts - experts) * expert


def mlp_to_projections(dimensions: Dimensions) -> float:
    """Weights of a layer's MLP (gate, up and down) / those of its attention's projections (queries, keys, values and output).

    4.2 for Llama 3.1 8B (176 and 42 million). Raises NotKnownError for an architecture that is not known, and for a mixture, of
    whose experts a batch takes some.
    """
    counted(dimensions)
    if dimensions.experts is not None:
        raise NotKnownError("of a mixture's experts a batch takes some")
    width = dimensions.head_dim * (2 * dimensions.heads + 2 * dimensions.kv_heads)
    return 3 * dimensions.intermediate / width


def tables(dimensions: Dimensions) -> int:
    """Weights of the embeddings' table and of the output's, one where they are tied."""
    return dimensions.vocabulary * dimensions.hidden * (1 if dimensions.tied_embeddings else 2)


def counted(dimensions: Dimensions) -> tuple[int, int]:
    """All weights, and those that a token uses. Raises NotKnownError where the architecture's are not counted."""
    if dimensions.parameters is None or dimensions.active_parameters is None:
        raise NotKnownError(f"the weights of a {dimensions.architecture} are not counted (models/dimensions.py)")
    return dimensions.parameters, dimensions.active_parameters


def bytes_of_type(dtype: str) -> int:
    """Bytes of a number of `dtype`. Raises NotKnownError for an unknown one."""
    if dtype not in DTYPE_BYTES:
        raise NotKnownError(f"the size of a number of type {dtype!r} is not known")
    return DTYPE_BYTES[dtype]


def bytes_of_weight(dtype: str, quantization: str | None) -> float:
    """Bytes of a weight of a linear layer. Raises NotKnownError for a quantization that is not in the table above."""
    if quantization is None:
        return bytes_of_type(dtype)
    if quantization not in _BYTES_OF_A_WEIGHT:
        raise NotKnownError(f"the bytes of a weight under the quantization {quantization!r} are not known")
    return _BYTES_OF_A_WEIGHT[quantization]


def weights_bytes(dimensions: Dimensions, dtype: str, quantization: str | None) -> float:
    """Memory of all weights: linear layers as they are quantized, tables in the model's own type.

    Source: vLLM and AWQ/GPTQ leave the embeddings and the output layer alone (course week 12: 16, 9 and 5.7 GB for Llama 3.1
    8B in BF16, FP8 and INT4; a bare 4 GB counts neither tables nor scales).
    """
    return linear_parameters(dimensions) * bytes_of_weight(dtype, quantization) + tables(dimensions) * bytes_of_type(
        dtype
    )


def step_weight_bytes(dimensions: Dimensions, dtype: str, quantization: str | None, batch: float) -> float:
    """Bytes of the weights that one decode step of `batch` requests reads: every matrix once, and of the embeddings single rows.

    Of a mixture, the experts that the batch is expected to need (`leverlab.theory.experts.experts_read`). Source: Pope et al.
    (2023), Efficiently Scaling Transformer Inference, MLSys, section 2.
    """
    read = None
    if dimensions.experts is not None and dimensions.experts_per_token is not None:
        read = experts_read(dimensions.experts, dimensions.experts_per_token, batch)
    output_table = dimensions.vocabulary * dimensions.hidden
    return linear_parameters(dimensions, read) * bytes_of_weight(dtype, quantization) + output_table * bytes_of_type(
        dtype
    )
