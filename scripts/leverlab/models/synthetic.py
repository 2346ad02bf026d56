"""A model without weights: the configuration and tokenizer of a shape, for an engine that fills in dummy weights.

The engine must be started with dummy weights (vLLM: `load-format: dummy`): the folder holds no weights, so that making
it needs neither torch nor a download. What such a model says means nothing; what it costs is what the shape costs.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from leverlab.models.tokenizer import BEGIN, END, PAD, SPECIAL_TOKENS, tokenizer_files

SHAPE_DEFAULTS: Final[Mapping[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "mlp_bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "use_cache": True,
}
"""Keys of config.json that a shape may leave out."""

REQUIRED_KEYS: Final = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)


def configuration_of_shape(shape: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """What config.json holds of a model of this `shape`, but for the ids of its special tokens."""
    return {**SHAPE_DEFAULTS, "vocab_size": vocabulary, **shape}


def synthetic_files(shape: Mapping[str, Any], vocabulary: int) -> dict[str, bytes]:
    """Name → content of a model's folder: the same bytes for the same `shape` and `vocabulary` on every machine.

    `shape` holds keys of a Hugging Face config.json (`dtype` is the weights' type). Raises ValueError where a key that
    gives the model its size is missing, or where the sizes do not fit each other.
    """
    missing = [key for key in REQUIRED_KEYS if key not in shape]
    if missing:
        raise ValueError(f"the shape lacks {', '.join(missing)}")
    if shape.get("vocab_size", vocabulary) != vocabulary:
        raise ValueError(
            f"vocab_size is {shape['vocab_size']}, and the tokenizer has {vocabulary} entries: leave it out"
        )
    heads, groups = shape["num_attention_heads"], shape["num_key_value_heads"]
    if heads % groups or ("head_dim" not in shape and shape["hidden_size"] % heads):
        raise ValueError(
            f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({groups}) and, unless head_dim"
            f" is given, divide hidden_size ({shape['hidden_size']})"
        )
    ids = {name: SPECIAL_TOKENS.index(token) for name, token in (("bos", BEGIN), ("eos", END), ("pad", PAD))}
    tokens = {f"{name}_token_id": id_ for name, id_ in ids.items()}
    configuration = {**tokens, **configuration_of_shape(shape, vocabulary)}
    return {
        "config.json": _json(configuration),
        "generation_config.json": _json(tokens),
        **tokenizer_files(vocabulary, shape["max_position_embeddings"]),
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
