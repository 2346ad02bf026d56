"""Several truth engines and what stands before them, declared as a treatment would."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leverlab.engines.base import Launch
from leverlab.topology import LOOPBACK, free_port

KEY = "a-key-that-nobody-knows"

PREFILL_DECODE = {"connector": "nixl"}


def launch_of(folder: Path, topology: str, settings: Mapping[str, Any] | None = None, **flags: object) -> Launch:
    """A launch of truth engines in a topology; flags with `_` for `-`."""
    identity = {
        "engine": {"kind": "truth", "device": "cpu"},
        "gpu": {"type": "cpu", "count": 1},
        "flags": {"ttft": 0.01, "gap": 0.002, **{name.replace("_", "-"): value for name, value in flags.items()}},
        "environment": {},
        "topology": topology,
        **({"topology_settings": dict(settings)} if settings else {}),
    }
    return Launch([sys.executable], folder, identity, LOOPBACK, free_port(), KEY, [], folder)
