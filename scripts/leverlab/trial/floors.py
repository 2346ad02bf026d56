"""What theory says of a trial's server for its checks, from the job's specification and the model's own files."""

import json
from pathlib import Path

from leverlab.config.topology import topology_of
from leverlab.models.dimensions import Dimensions, dimensions
from leverlab.records import JobSpecification
from leverlab.theory.floors import Floors, floors
from leverlab.theory.memory import served_kv_bytes


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
    """Bytes of the KV cache of one token; None where the model's config.json or the cache's type does not tell them."""
    found = _dimensions(specification)
    return None if found is None else served_kv_bytes(found, specification.identity["flags"])


def _dimensions(specification: JobSpecification) -> Dimensions | None:
    """Those of the model's config.json, and of what flags override in it; None where it does not tell them."""
    try:
        text = (Path(specification.model_folder) / "config.json").read_text(encoding="utf-8")
        return dimensions({**json.loads(text), **specification.identity["flags"].get("hf-overrides", {})})
    except (OSError, ValueError, KeyError, TypeError):
        return None
