"""What theory says of a trial's server for its checks, from the job's specification and the model's own files."""

import json
from pathlib import Path

from leverlab.config.topology import topology_of
from leverlab.models.dimensions import Dimensions, dimensions
from leverlab.records import JobSpecification
from leverlab.theory.floors import Floors, floors
from leverlab.theory.memory import kv_bytes_per_token
from leverlab.theory.unknown import NotKnownError


def expected_floors(specification: JobSpecification) -> Floors | None:
    """None where the GPU's bandwidth is not declared, or the model's config.json does not tell its dimensions.

    What the flags override of that file counts: by it a model without weights is served as if its checkpoint were quantized.
    """
    found = _dimensions(specification)
    if specification.gpu_bandwidth is None or found is None:
        return None
    # A request is computed on the GPUs of one server. With a prefill server two share in it, and the bound only gets looser.
    gpus = specification.gpu_count // topology_of(specification.identity).engine_servers
    return floors(found, specification.identity["flags"], gpus, specification.gpu_bandwidth, specification.gpu_peak)


def expected_kv_bytes(specification: JobSpecification) -> int | None:
    """Bytes of the KV cache of one token; None where the model's config.json or the cache's type does not tell them.

    A quantized checkpoint may bring a type of its own for the cache, where no flag asks for one.
    """
    found, asked = _dimensions(specification), str(specification.identity["flags"].get("kv-cache-dtype", "auto"))
    if found is None or (asked == "auto" and found.quantization is not None):
        return None
    try:
        return kv_bytes_per_token(found, asked)
    except NotKnownError:
        return None


def _dimensions(specification: JobSpecification) -> Dimensions | None:
    """Those of the model's config.json, and of what flags override in it; None where it does not tell them."""
    try:
        text = (Path(specification.model_folder) / "config.json").read_text(encoding="utf-8")
        return dimensions({**json.loads(text), **specification.identity["flags"].get("hf-overrides", {})})
    except (OSError, ValueError, KeyError, TypeError):
        return None
