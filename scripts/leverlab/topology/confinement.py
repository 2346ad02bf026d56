"""Keeping a server's processes on the cores that they were given."""

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Final

from leverlab.topology.running import RunningServer

_SETTLED_S: Final = 1.0


def confine(server: RunningServer, settle_s: float = _SETTLED_S) -> int:
    """Keep every thread of each process on the cores that its plan names; how many threads were moved.

    A start may use all cores, a measurement leaves one to the client. A thread that the engine has bound to some of its
    cores stays on those. Looks again until no new thread appears, `settle_s` at most.
    """
    moved = 0
    end = time.monotonic() + settle_s
    while True:
        before = moved
        for cores, pids in _pids(server):
            for pid in pids:
                moved += _confine_threads(pid, set(cores))
        if moved == before or time.monotonic() >= end:
            return moved


def _pids(server: RunningServer) -> Sequence[tuple[Sequence[int], Sequence[int]]]:
    return [
        (part.plan.cores, [process.pid for process in part.processes()]) for part in server.parts if part.plan.cores
    ]


def _confine_threads(pid: int, wanted: set[int]) -> int:
    moved = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                allowed = os.sched_getaffinity(int(name))
                if not allowed <= wanted:
                    os.sched_setaffinity(int(name), allowed & wanted or wanted)
                    moved += 1
    return moved
