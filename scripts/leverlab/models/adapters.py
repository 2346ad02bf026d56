"""LoRA adapters made on the spot: PEFT's two files for each, with random weights.

What such an adapter does to an answer means nothing; what it costs is what its rank and its targets cost. Unlike a fresh adapter
of a training, whose second factor is zero, it changes what the model says, so that a server that leaves it out is found out.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import TensorSpec, serialize

from leverlab.config.model import AdaptersSource
from leverlab.identity import seed_from
from leverlab.models.dimensions import Dimensions, dimensions

CONFIGURATION_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"

_LARGEST: Final = 0.02
"""Weights are even in (-this, this)."""

_ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")


def adapter_names(count: int) -> list[str]:
    """`adapter-1`, `adapter-2`, …: the names by which they are served and asked for, and their folders."""
    return [f"adapter-{number}" for number in range(1, count + 1)]


def adapter_files(source: AdaptersSource, name: str, base: Mapping[str, Any]) -> dict[str, bytes]:
    """File → content of the folder of the adapter `name`: the same bytes for the same arguments on every machine.

    `base` is the config.json of the model that it adapts. Raises KeyError with a key that this lacks, ValueError where the model has
    no such projections.
    """
    size = dimensions(base)
    others = sorted(set(source.targets) - set(_ATTENTION))
    if size.experts is not None and others:
        raise ValueError(
            f"the layers of a mixture of experts have no {', '.join(others)}: take {', '.join(_ATTENTION)}"
        )
    configuration = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": source.base,
        "r": source.rank,
        "lora_alpha": source.rank,
        "target_modules": list(source.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    tensors = dict(_tensors(source, name, size))
    # The library is given addresses: `tensors` keeps the arrays until it is done.
    described = {
        key: TensorSpec(dtype="bfloat16", shape=list(values.shape), data_ptr=values.ctypes.data, data_len=values.nbytes)
        for key, values in tensors.items()
    }
    return {
        CONFIGURATION_FILE: (json.dumps(configuration, indent=1, sort_keys=True) + "\n").encode(),
        WEIGHTS_FILE: serialize(described, {"format": "pt"}),
    }


def _tensors(source: AdaptersSource, name: str, size: Dimensions) -> Iterator[tuple[str, npt.NDArray[np.uint16]]]:
    """Name of a weight, as PEFT calls it, and its values as the bits of bfloat16: A of rank × in, B of out × rank."""
    query, key_value = size.heads * size.head_dim, size.kv_heads * size.head_dim
    shapes = {
        "q_proj": (size.hidden, query),
        "k_proj": (size.hidden, key_value),
        "v_proj": (size.hidden, key_value),
        "o_proj": (query, size.hidden),
        "gate_proj": (size.hidden, size.intermediate),
        "up_proj": (size.hidden, size.intermediate),
        "down_proj": (size.intermediate, size.hidden),
    }
    generator = np.random.Philox(key=seed_from("adapter", source.base, name))
    for layer in range(size.layers):
        for target in source.targets:
            inputs, outputs = shapes[target]
            block = "self_attn" if target in _ATTENTION else "mlp"
            path = f"base_model.model.model.layers.{layer}.{block}.{target}"
            yield f"{path}.lora_A.weight", _weights(generator, source.rank, inputs)
            yield f"{path}.lora_B.weight", _weights(generator, outputs, source.rank)


def _weights(generator: np.random.Philox, rows: int, columns: int) -> npt.NDArray[np.uint16]:
    """Even in (-_LARGEST, _LARGEST), as bfloat16: the upper half of a float32. Only raw words are taken: see `workloads.stream`."""
    words = np.asarray(generator.random_raw(-(-rows * columns // 4)), "<u8").view("<u2")[: rows * columns]
    values = ((words.astype("<f4") + np.float32(0.5)) / np.float32(2**15) - np.float32(1)) * np.float32(_LARGEST)
    bits: npt.NDArray[np.uint16] = (values.view("<u4") >> 16).astype("<u2").reshape(rows, columns)
    return bits
