"""What theory says that a trial's server cannot go below, from the job's specification and the model's own files."""

import json
from pathlib import Path

from leverlab.config.topology import topology_of
from leverlab.models.dimensions import dimensions
from leverlab.records import JobSpecification
from leverlab.theory.floors import Floors, floors


def expected_floors(specification: JobSpecification) -> Floors | None:
    """None where the GPU's bandwidth is not declared, or the model's config.json does not tell its dimensions.

    What the flags override of that file counts: by it a model without weights is served as if its checkpoint were quantized.
    """
    if specification.gpu_bandwidth is None:
        return None
    flags = specification.identity["flags"]
    try:
        text = (Path(specification.model_folder) / "config.json").read_text(encoding="utf-8")
        found = dimensions({**json.loads(text), **flags.get("hf-overrides", {})})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A request is computed on the GPUs of one server. With a prefill server two share in it, and the bound only gets looser.
    gpus = specification.gpu_count // topology_of(specification.identity).engine_servers
    return floors(found, flags, gpus, specification.gpu_bandwidth, specification.gpu_peak)
