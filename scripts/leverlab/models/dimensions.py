"""What theory needs of a model, from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


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
    vocabulary: int
    context_tokens: int
    dtype: str
    parameters: int | None
    """Counted for dense Llama-like decoders (Llama, Mistral, Qwen2, Qwen3); None for others, such as mixtures of experts."""
    kv_bytes_per_token: int | None
    """Keys and values of all layers for one token, in `dtype`: 2 × layers × kv_heads × head_dim × bytes. None where
    `dtype` is not known, or where keys and values are kept in another form."""


_DENSE: Final = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}


def dimensions(configuration: Mapping[str, Any]) -> Dimensions:
    """The dimensions that a Hugging Face config.json states. Raises KeyError with a key that it lacks."""
    # Models that also see or hear keep the decoder's own configuration one level down.
    text: Mapping[str, Any] = configuration.get("text_config", configuration)
    architecture = str((configuration.get("architectures") or ["unknown"])[0])
    layers, hidden, heads = text["num_hidden_layers"], text["hidden_size"], text["num_attention_heads"]
    kv_heads = text.get("num_key_value_heads") or heads
    head_dim = text.get("head_dim") or hidden // heads
    dtype = str(text.get("dtype") or text.get("torch_dtype") or configuration.get("torch_dtype") or "unknown")
    known = architecture in _DENSE
    return Dimensions(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        context_tokens=text["max_position_embeddings"],
        dtype=dtype,
        parameters=_dense_parameters(architecture, text, kv_heads, head_dim) if known else None,
        kv_bytes_per_token=2 * layers * kv_heads * head_dim * _DTYPE_BYTES[dtype]
        if known and dtype in _DTYPE_BYTES
        else None,
    )


def _dense_parameters(architecture: str, text: Mapping[str, Any], kv_heads: int, head_dim: int) -> int:
    """Weights of a dense decoder with gated MLPs and RMS norms, as transformers builds it."""
    hidden, vocabulary = text["hidden_size"], text["vocab_size"]
    query, key_value = text["num_attention_heads"] * head_dim, kv_heads * head_dim
    attention = hidden * (query + 2 * key_value) + query * hidden
    if architecture == "Qwen2ForCausalLM":
        attention += query + 2 * key_value
    elif text.get("attention_bias"):
        attention += query + 2 * key_value + hidden
    if architecture == "Qwen3ForCausalLM":
        attention += 2 * head_dim
    mlp = 3 * hidden * text["intermediate_size"]
    if text.get("mlp_bias"):
        mlp += 2 * text["intermediate_size"] + hidden
    layer = attention + mlp + 2 * hidden
    embeddings = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return int(embeddings + text["num_hidden_layers"] * layer + hidden)
