"""What theory needs of a model, from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DTYPE_BYTES: Final[Mapping[str, int]] = {
    "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a decoder-only transformer."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Of a dense MLP, or of one expert."""
    vocabulary: int
    context_tokens: int
    dtype: str
    parameters: int | None
    """Counted for dense Llama-like decoders (Llama, Mistral, Qwen2, Qwen3) and for mixtures of experts that have nothing
    else in place of the MLP (Mixtral, Qwen3-MoE); None for others."""
    kv_bytes_per_token: int | None
    """Keys and values of all layers for one token, in `dtype`: 2 × layers × kv_heads × head_dim × bytes. None where
    `dtype` is not known, or where keys and values are kept in another form."""
    active_parameters: int | None = None
    """The same as `parameters` with the experts that one token is routed to, instead of all."""
    experts: int | None = None
    """Experts of a layer; None for a dense model, and where the architecture is not known."""
    experts_per_token: int | None = None
    tied_embeddings: bool = False
    """Whether one table serves as input and output."""
    quantization: str | None = None
    """How the checkpoint's weights are quantized, as its config.json says it (`fp8`, `awq`, …); None where they are not."""


_DENSE: Final = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
_MIXTURES: Final = {"MixtralForCausalLM": "num_local_experts", "Qwen3MoeForCausalLM": "num_experts"}
"""Architecture → the key of its number of experts."""


def dimensions(configuration: Mapping[str, Any]) -> Dimensions:
    """The dimensions that a Hugging Face config.json states. Raises KeyError with a key that it lacks."""
    # Models that also see or hear keep the decoder's own configuration one level down.
    text: Mapping[str, Any] = configuration.get("text_config", configuration)
    architecture = str((configuration.get("architectures") or ["unknown"])[0])
    layers, hidden, heads = text["num_hidden_layers"], text["hidden_size"], text["num_attention_heads"]
    kv_heads = text.get("num_key_value_heads") or heads
    head_dim = text.get("head_dim") or hidden // heads
    dtype = str(text.get("dtype") or text.get("torch_dtype") or configuration.get("torch_dtype") or "unknown")
    experts, chosen = _experts(architecture, text)
    known = architecture in _DENSE or experts is not None
    counted = [_parameters(architecture, text, kv_heads, head_dim, each) for each in (experts, chosen)]
    quantized = configuration.get("quantization_config") or text.get("quantization_config") or {}
    return Dimensions(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_intermediate(architecture, text),
        vocabulary=text["vocab_size"],
        context_tokens=text["max_position_embeddings"],
        dtype=dtype,
        parameters=counted[0] if known else None,
        kv_bytes_per_token=2 * layers * kv_heads * head_dim * DTYPE_BYTES[dtype]
        if known and dtype in DTYPE_BYTES
        else None,
        active_parameters=counted[1] if known else None,
        experts=experts,
        experts_per_token=chosen,
        tied_embeddings=bool(text.get("tie_word_embeddings")),
        quantization=quantized.get("quant_method"),
    )


def _experts(architecture: str, text: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Experts of every layer, and how many of them a token takes; nothing where some layers have none."""
    key = _MIXTURES.get(architecture)
    uneven = text.get("decoder_sparse_step", 1) != 1 or text.get("mlp_only_layers")
    if key is None or uneven or key not in text or "num_experts_per_tok" not in text:
        return None, None
    return int(text[key]), int(text["num_experts_per_tok"])


def _intermediate(architecture: str, text: Mapping[str, Any]) -> int:
    key = "moe_intermediate_size" if architecture == "Qwen3MoeForCausalLM" else "intermediate_size"
    return int(text[key])


def _parameters(architecture: str, text: Mapping[str, Any], kv_heads: int, head_dim: int, experts: int | None) -> int:
    """Weights of a decoder with gated MLPs (`experts` of them and a router, or one) and RMS norms, as transformers builds it."""
    hidden, vocabulary = text["hidden_size"], text["vocab_size"]
    query, key_value = text["num_attention_heads"] * head_dim, kv_heads * head_dim
    attention = hidden * (query + 2 * key_value) + query * hidden
    if architecture == "Qwen2ForCausalLM":
        attention += query + 2 * key_value
    elif text.get("attention_bias"):
        attention += query + 2 * key_value + hidden
    if architecture in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"):
        attention += 2 * head_dim
    intermediate = _intermediate(architecture, text)
    mlp = 3 * hidden * intermediate
    if text.get("mlp_bias"):
        mlp += 2 * intermediate + hidden
    if experts is not None:
        key = _MIXTURES[architecture]
        mlp = experts * mlp + text[key] * hidden  # the router scores every expert, whichever are taken
    layer = attention + mlp + 2 * hidden
    embeddings = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return int(embeddings + text["num_hidden_layers"] * layer + hidden)
