"""Whether the caches of compiled code were cold or warm when a server started.

A start and a first request that compile take minutes longer than ones that find their code. The folders are those that
torch, Triton, FlashInfer and vLLM use unless their own variables say otherwise.
"""

import getpass
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_FOLDERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "vllm": ("VLLM_CACHE_ROOT", "~/.cache/vllm", "torch_compile_cache"),
    "inductor": ("TORCHINDUCTOR_CACHE_DIR", "{temporary}/torchinductor_{user}", ""),
    "triton": ("TRITON_CACHE_DIR", "~/.triton/cache", ""),
    "flashinfer": ("FLASHINFER_WORKSPACE_BASE", "~", ".cache/flashinfer"),
}
"""Cache → the variable that moves its folder, the usual one, and what of it holds compiled code."""


def compiled_entries(environment: Mapping[str, str]) -> dict[str, int]:
    """Cache → entries in it, as a server with `environment` (over this process's own) finds them; 0 where there is none."""
    seen = {**os.environ, **environment}
    counts = {}
    for name, (variable, usual, below) in _FOLDERS.items():
        there = seen.get(variable) or usual.format(temporary=tempfile.gettempdir(), user=getpass.getuser())
        counts[name] = _entries(Path(there).expanduser() / below)
    return counts


def cache_states(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """As trial.json keeps it: each cache's state before the start (cold, warm), and the entries that the start added."""
    return {
        name: {"state": "warm" if before[name] else "cold", "added": max(after[name] - before[name], 0)}
        for name in before
    }


def _entries(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
