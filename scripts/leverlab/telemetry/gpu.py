"""What NVML says of the GPUs, ten times a second: power, energy, clocks, use, memory, transfers, temperature, throttling."""

import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pynvml

from leverlab.telemetry.columns import column
from leverlab.telemetry.server_processes import ServerProcesses

PERIOD_S: Final = 0.1

GPU: Final[pa.Schema] = pa.schema(
    [
        column("time_s", pa.float64(), "s", "when the GPU was asked, from the phase's t = 0"),
        column("gpu", pa.int64(), "1", "index of the GPU, as NVML counts"),
        column("uuid", pa.string(), "", "the GPU's UUID"),
        column("power_w", pa.float64(), "W", "power of the whole board, as NVML averages it (1 s on most GPUs)"),
        column("energy_j", pa.float64(), "J", "energy since the driver was loaded: a counter"),
        column("sm_utilisation", pa.float64(), "1", "share of the last period in which a kernel ran"),
        column("memory_used_bytes", pa.float64(), "bytes", "memory in use on the board"),
        column("sm_clock_hz", pa.float64(), "Hz", "clock of the streaming multiprocessors"),
        column("memory_clock_hz", pa.float64(), "Hz", "clock of the memory"),
        column("temperature_c", pa.float64(), "°C", "temperature of the die"),
        column("throttle_reasons", pa.int64(), "", "NVML's bits for why clocks are below what was asked"),
        column(
            "ecc_corrected",
            pa.float64(),
            "1",
            "memory errors that were corrected, since the driver was loaded: a counter",
        ),
        column(
            "ecc_uncorrected", pa.float64(), "1", "memory errors that were not, since the driver was loaded: a counter"
        ),
        column(
            "foreign_processes",
            pa.float64(),
            "1",
            "processes that compute on the GPU and are not the server's; null where NVML's process ids are not this machine's own",
        ),
        column(
            "server_memory_bytes",
            pa.float64(),
            "bytes",
            "memory on the GPU of the server's own processes; null where NVML does not tell it, or its process ids are not this machine's own",
        ),
        column("throttle_text", pa.string(), "", "the same bits in words; empty where there is none"),
        column("memory_utilisation", pa.float64(), "1", "share of the last period in which memory was read or written"),
        column("pcie_sent_bytes", pa.float64(), "bytes", "what the GPU sent over PCIe: a counter, which may wrap"),
        column("pcie_received_bytes", pa.float64(), "bytes", "what it received over PCIe: a counter, which may wrap"),
        column("nvlink_sent_bytes", pa.float64(), "bytes", "data that it sent over all its NVLinks: a counter"),
        column("nvlink_received_bytes", pa.float64(), "bytes", "data that it received over all its NVLinks: a counter"),
    ]
)

_ALL_LINKS: Final = 0xFFFFFFFF
_FIELDS: Final = {
    "pcie_sent_bytes": (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0, 1),
    "pcie_received_bytes": (pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0, 1),
    "nvlink_sent_bytes": (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _ALL_LINKS, 1024),
    "nvlink_received_bytes": (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _ALL_LINKS, 1024),
}
"""Column → NVML's field, its scope, and the bytes of one of its units."""

_VALUE_PARTS: Final = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
}

THROTTLE_REASONS: Final = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clocks",
}


class GpuUnavailableError(Exception):
    """NVML or a GPU that was named is not there; the text says which."""


def throttle_text(bits: int) -> str:
    """NVML's clock event reasons in words."""
    return ", ".join(words for bit, words in THROTTLE_REASONS.items() if bits & bit)


def handles(gpus: Sequence[str]) -> list[Any]:
    """NVML's handles of `gpus` (UUIDs or indices), or of all that CUDA_VISIBLE_DEVICES names where there are none.

    Raises GpuUnavailableError.
    """
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        wanted = list(gpus) or [name for name in visible.split(",") if name]
        wanted = wanted or [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [_handle(name) for name in wanted]
    except pynvml.NVMLError as error:
        raise GpuUnavailableError(f"NVML: {error}") from error


def _handle(name: str) -> Any:  # noqa: ANN401 - a ctypes pointer
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)


class GpuSampler:
    """Rows of `GPU` for each look at `gpus`, of which `processes` are the server's. A counter that a GPU does not have is null, and is not asked for again.

    Raises GpuUnavailableError.
    """

    def __init__(self, gpus: Sequence[str], processes: ServerProcesses) -> None:
        self._gpus = [_Gpu(handle) for handle in handles(gpus)]
        self._processes = processes
        self._seen: set[int] = set()
        self._rows: list[dict[str, Any]] = []

    def look(self) -> None:
        """One row a GPU."""
        own = frozenset(process.pid for process in self._processes.known())
        for gpu in self._gpus:
            row = {"time_s": time.monotonic(), **gpu.values()}
            there = gpu.processes()
            if not there.keys() <= own | self._seen:
                # What is new on the GPU may be a worker that the server started since the last look.
                own = frozenset(process.pid for process in self._processes.found_anew())
            self._seen |= there.keys()
            row["foreign_processes"] = foreign_processes(there.keys(), own)
            row["server_memory_bytes"] = server_memory_bytes(there, own)
            self._rows.append(row)

    def table(self, origin_s: float) -> pa.Table:
        """All rows, with times from `origin_s` (CLOCK_MONOTONIC)."""
        return pa.Table.from_pylist([{**row, "time_s": row["time_s"] - origin_s} for row in self._rows], GPU)


def counters(handle: Any) -> dict[str, Callable[[], float | None]]:  # noqa: ANN401
    """Column of `GPU` → the question to NVML of which it holds the answer, which may raise NVMLError."""
    return {
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "energy_j": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,
        "sm_utilisation": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        "memory_used_bytes": lambda: float(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        "sm_clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6,
        "memory_clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) * 1e6,
        "temperature_c": lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        "throttle_reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
        "ecc_corrected": lambda: _memory_errors(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        "ecc_uncorrected": lambda: _memory_errors(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        "memory_utilisation": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).memory / 100,
        **{name: partial(_field, handle, *field) for name, field in _FIELDS.items()},
    }


def running_processes(handle: Any) -> dict[int, int | None]:  # noqa: ANN401
    """Id, as NVML tells it, of each process that computes on the GPU → its memory there (bytes). Raises NVMLError."""
    return {found.pid: found.usedGpuMemory for found in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}


class _Gpu:
    """One GPU and the counters that it has."""

    def __init__(self, handle: Any) -> None:  # noqa: ANN401
        self._index = probe(lambda: pynvml.nvmlDeviceGetIndex(handle))
        self._uuid = probe(lambda: pynvml.nvmlDeviceGetUUID(handle))
        self._counters = counters(handle)
        self._processes = lambda: running_processes(handle)

    def processes(self) -> dict[int, int | None]:
        """As `running_processes` gives them; empty where NVML does not tell."""
        return probe(self._processes) or {}

    def values(self) -> dict[str, Any]:
        """What every counter says now."""
        values: dict[str, Any] = {"gpu": self._index, "uuid": self._uuid}
        for name, ask in list(self._counters.items()):
            try:
                values[name] = ask()
            except pynvml.NVMLError_NotSupported:
                del self._counters[name]
            except pynvml.NVMLError:
                values[name] = None
        bits = values.get("throttle_reasons")
        values["throttle_text"] = None if bits is None else throttle_text(bits)
        return values


def foreign_processes(there: Set[int], own: Set[int]) -> float | None:
    """How many of the processes `there` on a GPU are not the server's `own`; None where NVML's ids are of another namespace.

    In a container NVML may tell ids of the host: then none of the server's is among them, or one is by coincidence and the
    others run nowhere here.
    """
    others = there - own
    return float(len(others)) if there & own and all(map(_runs, others)) else None


def server_memory_bytes(there: Mapping[int, int | None], own: Set[int]) -> float | None:
    """Memory on a GPU of the server's `own` among the processes `there`; None where `foreign_processes` is, or one's memory is not told."""
    used = [there[process] for process in there.keys() & own]
    known = [each for each in used if each is not None]
    if len(known) < len(used) or foreign_processes(there.keys(), own) is None:
        return None
    return float(sum(known))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _memory_errors(handle: Any, kind: int) -> float:  # noqa: ANN401
    return float(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC))


def _field(handle: Any, field: int, scope: int, unit_bytes: int) -> float:  # noqa: ANN401
    """One of NVML's field values. Raises NVMLError, NotSupported for what the GPU does not count."""
    [value] = pynvml.nvmlDeviceGetFieldValues(handle, [(field, scope)])
    if value.nvmlReturn != pynvml.NVML_SUCCESS or value.valueType not in _VALUE_PARTS:
        raise pynvml.NVMLError(value.nvmlReturn or pynvml.NVML_ERROR_NOT_SUPPORTED)
    return float(getattr(value.value, _VALUE_PARTS[value.valueType])) * unit_bytes


def probe(ask: Callable[[], Any]) -> Any:  # noqa: ANN401
    """What NVML answers, None where it has no answer."""
    try:
        answer = ask()
    except pynvml.NVMLError:
        return None
    return answer.decode() if isinstance(answer, bytes) else answer


def visible_gpus() -> list[str]:
    """UUIDs of the GPUs that this process may use. Where there is no NVML, the names in CUDA_VISIBLE_DEVICES.

    Raises GpuUnavailableError where neither tells.
    """
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    try:
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles(())]
        return [uuid.decode() if isinstance(uuid, bytes) else str(uuid) for uuid in uuids]
    except GpuUnavailableError:
        if named:
            return named
        raise
