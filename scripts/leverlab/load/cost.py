"""What the client itself took from the machine while it measured."""

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True, slots=True)
class ClientCost:
    """CPU, wall and run-queue wait (runnable, but without a core) in seconds, and how often a core was taken away.

    `run_queue_wait_s` is None where the kernel keeps no such statistics.
    """

    cpu_s: float
    wall_s: float
    run_queue_wait_s: float | None
    involuntary_switches: int


def _run_queue_wait_s() -> float | None:
    try:
        return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


class CostMeter:
    """Counts for the calling thread, from its making to `stop`."""

    def __init__(self) -> None:
        self._wait_s = _run_queue_wait_s()
        self._usage = resource.getrusage(resource.RUSAGE_THREAD)
        self._wall_s = time.monotonic()

    def stop(self) -> ClientCost:
        """The cost so far."""
        wall_s = time.monotonic() - self._wall_s
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        wait_s = _run_queue_wait_s()
        return ClientCost(
            cpu_s=usage.ru_utime + usage.ru_stime - self._usage.ru_utime - self._usage.ru_stime,
            wall_s=wall_s,
            run_queue_wait_s=None if wait_s is None or self._wait_s is None else wait_s - self._wait_s,
            involuntary_switches=usage.ru_nivcsw - self._usage.ru_nivcsw,
        )
