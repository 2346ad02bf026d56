"""What an engine's process sees of the environment that this one has."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from leverlab.redaction import is_secret_name

LIBRARY_VARIABLES: Final = (
    "LMCACHE_*",
    "PYTHONHASHSEED",
    "PROMETHEUS_MULTIPROC_DIR",
    "FLASHINFER_*",
    "TORCH*",
    "PYTORCH_*",
    "TRITON_*",
    "CUDA_LAUNCH_BLOCKING",
    "KMP_*",
    "GOMP_*",
    "OMP_*",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
"""Variables that change how a library below an engine computes."""

_PLACES: Final = ("*_CACHE_DIR", "*_CACHE_ROOT", "*_WORKSPACE_BASE")
"""Where a machine keeps caches: no setting of the engine, and often the only place with room."""


def inherited_environment(own_variables: Sequence[str]) -> dict[str, str]:
    """The environment of the calling process without secrets, and without what would change how the engine serves.

    `own_variables`: patterns of the latter, as `leverlab.engines.base.Engine` has them.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not is_secret_name(name) and (_matches(name, _PLACES) or not _matches(name, own_variables))
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
