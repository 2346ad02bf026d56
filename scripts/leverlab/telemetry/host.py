"""What the host does while a phase is measured: use of the engine's and the client's cores, the server's CPU time and memory."""

import os
import time
from collections.abc import Sequence
from typing import Any, Final

import psutil
import pyarrow as pa

from leverlab.telemetry.columns import column
from leverlab.telemetry.server_processes import ServerProcesses

PERIOD_S: Final = 0.5

HOST: Final[pa.Schema] = pa.schema(
    [
        column("time_s", pa.float64(), "s", "when the host was looked at, from the phase's t = 0"),
        column("engine_cores_share", pa.float64(), "1", "share of the time since the last look that the engine's cores were busy, with whatever"),
        column("client_cores_share", pa.float64(), "1", "the same of the load client's cores"),
        column("machine_share", pa.float64(), "1", "the same of all cores of the machine"),
        column("server_cpu_s", pa.float64(), "s", "CPU time of the server's processes since sampling began: a counter"),
        column("server_rss_bytes", pa.float64(), "bytes", "resident memory of the server's processes; shared pages count in each"),
        column("load_1m", pa.float64(), "1", "the machine's load average over a minute"),
        column("memory_available_bytes", pa.float64(), "bytes", "memory that can be had without swapping"),
    ]
)  # fmt: skip

_IDLE: Final = ("idle", "iowait")


class HostSampler:
    """Rows of `HOST`. `processes` are the server's; empty core sets mean all cores that this process may use."""

    def __init__(
        self,
        processes: ServerProcesses,
        engine_cores: Sequence[int],
        client_cores: Sequence[int],
    ) -> None:
        allowed = sorted(os.sched_getaffinity(0))
        self._cores = {
            "engine_cores_share": list(engine_cores) or allowed,
            "client_cores_share": list(client_cores) or allowed,
            "machine_share": list(range(psutil.cpu_count() or 1)),
        }
        self._processes = processes
        self._cpu_s: dict[psutil.Process, float] = {}
        self._unsampled_s: dict[psutil.Process, float] = {}
        self._begun_s: float | None = None
        self._rows: list[dict[str, Any]] = []
        self._before = _busy_and_total()

    def look(self) -> None:
        """One row."""
        now = time.monotonic()
        processes = self._processes.known()
        times = _busy_and_total()
        row: dict[str, Any] = {"time_s": now}
        for name, cores in self._cores.items():
            row[name] = _share(self._before, times, cores)
        self._before = times
        begun_s = self._begun_s = self._begun_s or time.time()
        rss = 0
        for process in processes:
            try:
                used = process.cpu_times()
                cpu_s = used.user + used.system
                # A process may be found late. What one used that began meanwhile belongs to this time, what an older one used does not.
                before_s = cpu_s if process.create_time() < begun_s else 0.0
                self._cpu_s[process] = cpu_s - self._unsampled_s.setdefault(process, before_s)
                rss += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        row["server_cpu_s"] = sum(self._cpu_s.values()) if self._cpu_s else None
        row["server_rss_bytes"] = float(rss) if rss else None
        row["load_1m"] = os.getloadavg()[0]
        row["memory_available_bytes"] = float(psutil.virtual_memory().available)
        self._rows.append(row)

    def table(self, origin_s: float) -> pa.Table:
        """All rows, with times from `origin_s` (CLOCK_MONOTONIC)."""
        return pa.Table.from_pylist([{**row, "time_s": row["time_s"] - origin_s} for row in self._rows], HOST)


def _busy_and_total() -> list[tuple[float, float]]:
    """For each core the seconds it was busy, and all seconds, since the machine started."""
    times = []
    for core in psutil.cpu_times(percpu=True):
        # A guest's time is part of the user's already.
        total = sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0)
        times.append((total - sum(getattr(core, name, 0.0) for name in _IDLE), total))
    return times


def _share(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]], cores: Sequence[int]
) -> float | None:
    there = [core for core in cores if core < len(after)]
    passed = sum(after[core][1] - before[core][1] for core in there)
    busy = sum(after[core][0] - before[core][0] for core in there)
    return min(max(busy / passed, 0.0), 1.0) if passed > 0 else None
