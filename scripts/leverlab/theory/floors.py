"""The least that a decode step and a prefill can take.

Both are bounds from below, as loose as what is not known asks for: a measured time under them is wrong. Source: Williams,
Waterman and Patterson (2009), Roofline, Communications of the ACM 52(4); for transformers Pope et al. (2023), Efficiently
Scaling Transformer Inference, MLSys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from leverlab.models.dimensions import Dimensions

_WEIGHT_BYTES: Final = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
_FP8: Final = {"fp8", "w8a8_fp8", "fp8_e4m3", "w8a8_int8", "experts_int8"}
_SMALLEST_WEIGHT_BYTES: Final = 0.5
"""Of a weight in whatever quantization is not named above."""


@dataclass(frozen=True, slots=True)
class Floors:
    """Times that nothing on these GPUs can go below."""

    step_s: float
    """A decode step: every stored weight that a token uses is read once, whatever the batch, but for the embeddings' table,
    of which a step reads single rows. Of a mixture's experts, those of one token."""
    prefill_s_per_token: float | None
    """A prompt's token that is not cached: two operations a weight. None where the peak rate is not known."""


def floors(
    dimensions: Dimensions, flags: Mapping[str, Any], gpus: int, bandwidth: float, peak: Mapping[str, float]
) -> Floors | None:
    """The floors of a server on `gpus` GPUs together; None where the model's weights are not counted, or of no known type.

    `bandwidth` in bytes/s and `peak` (dtype → operations/s) are those of one GPU; that they add up is the best case of every
    way to split a model. `flags` tells the quantization, or else the checkpoint.
    """
    quantization = flags.get("quantization") or dimensions.quantization
    stored = _bytes_per_weight(dimensions, flags, quantization)
    if dimensions.active_parameters is None or stored is None or gpus < 1:
        return None
    table = dimensions.vocabulary * dimensions.hidden
    rate = max(peak.values(), default=None) if quantization is not None else peak.get("bf16")
    decoder = dimensions.active_parameters - 2 * table
    return Floors(
        step_s=(dimensions.active_parameters - table) * stored / (bandwidth * gpus),
        prefill_s_per_token=2 * decoder / (rate * gpus) if rate and decoder > 0 else None,
    )


def _bytes_per_weight(dimensions: Dimensions, flags: Mapping[str, Any], quantization: object) -> float | None:
    if quantization is None:
        return _WEIGHT_BYTES.get(str(flags.get("dtype", "auto"))) or _WEIGHT_BYTES.get(dimensions.dtype)
    return 1.0 if str(quantization) in _FP8 else _SMALLEST_WEIGHT_BYTES
