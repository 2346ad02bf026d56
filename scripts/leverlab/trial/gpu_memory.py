"""Whether the GPUs' memory came back after a server was stopped: what stays in use would be missing in the next trial."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pynvml

from leverlab.telemetry.gpu import GpuUnavailableError, handles

_TOLERANCE_BYTES: Final = 256 * 2**20
_TIMEOUT_S: Final = 30.0
_PAUSE_S: Final = 0.25


def used_bytes(gpus: Sequence[str]) -> dict[str, int]:
    """GPU → bytes in use; empty where NVML does not tell."""
    try:
        return {
            str(pynvml.nvmlDeviceGetUUID(handle)): int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
            for handle in handles(gpus)
        }
    except (GpuUnavailableError, pynvml.NVMLError):
        return {}


def memory_returned(gpus: Sequence[str], before: Mapping[str, int]) -> dict[str, Any]:
    """Wait until no GPU uses more than `before` the server's start, half a minute at most.

    `returned` is None where it cannot be seen; `extra_bytes` is what is still in use beyond that.
    """
    end = time.monotonic() + _TIMEOUT_S
    while before:
        now = used_bytes(gpus)
        extra = {gpu: now.get(gpu, 0) - used for gpu, used in before.items()}
        if all(more <= _TOLERANCE_BYTES for more in extra.values()):
            return {"returned": True, "extra_bytes": extra}
        if time.monotonic() > end:
            return {"returned": False, "extra_bytes": extra}
        time.sleep(_PAUSE_S)
    return {"returned": None, "extra_bytes": {}}
