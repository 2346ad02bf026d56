"""What the identity of a server says of its model without any file: all of one that is made up, whose shape is a part of it."""

from collections.abc import Mapping
from typing import Any

from leverlab.models.dimensions import dimensions
from leverlab.models.synthetic import configuration_of_shape
from leverlab.theory.memory import served_kv_bytes


def identified_kv_bytes(identity: Mapping[str, Any]) -> int | None:
    """Bytes of the KV cache of one token; None where the server's identity does not tell them, as of a model that has files."""
    model, flags = identity.get("model", {}), identity.get("flags", {})
    if model.get("kind") != "synthetic":
        return None
    try:
        stated = configuration_of_shape(model["shape"], model["vocabulary"])
        found = dimensions({**stated, **flags.get("hf-overrides", {})})
    except (KeyError, TypeError):
        return None
    return served_kv_bytes(found, flags)
