"""Record what NVML says of a GPU in a few known situations, as samples for the tests of the checks.

usage: python record.py OUT        (needs a GPU to itself, torch, pyarrow and nvidia-ml-py; takes two minutes)

Writes one Parquet file a situation, with the columns of `leverlab.telemetry.gpu.GPU` and some more that NVML tells:
the clock's maximum, the board's power limit, volatile ECC errors, and the processes that compute on the GPU.
"""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pynvml
import torch

from leverlab.telemetry.gpu import GPU, PERIOD_S, GpuSampler, probe
from leverlab.telemetry.periodic import Periodic
from leverlab.telemetry.server_processes import ServerProcesses

LENGTH_S = 12.0
NEIGHBOUR = """
import time, torch
a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
kept = torch.empty(8 * 2**30, dtype=torch.uint8, device="cuda")
print("ready", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    a @ a
    torch.cuda.synchronize(); time.sleep(0.002)
"""


class More:
    """What NVML tells beyond the sampler's columns, at the same instants."""

    def __init__(self) -> None:
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.rows: list[dict[str, object]] = []

    def look(self) -> None:
        handle = self.handle
        errors = {
            name: probe(lambda kind=kind: pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC))
            for name, kind in (
                ("ecc_corrected", pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
                ("ecc_uncorrected", pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            )
        }
        processes = probe(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
        maximum = probe(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM))
        limit = probe(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        self.rows.append(
            {
                **errors,
                "processes": None if processes is None else len(processes),
                "process_bytes": None if processes is None else float(sum(p.usedGpuMemory or 0 for p in processes)),
                "maximum_sm_clock_hz": maximum and maximum * 1e6,
                "power_limit_w": limit and limit / 1e3,
            }
        )


def record(out: Path, name: str, work) -> None:
    sampler, more = GpuSampler(["0"], ServerProcesses(list)), More()
    origin = time.monotonic()

    def look() -> None:
        sampler.look()
        more.look()

    thread = Periodic("record", PERIOD_S, look)
    thread.start()
    end = origin + LENGTH_S
    while time.monotonic() < end:
        work()
    thread.stop()
    table = sampler.table(origin)
    extra = pa.Table.from_pylist(more.rows)
    for column in extra.column_names:
        table = table.append_column(column, extra[column])
    table = table.set_column(GPU.get_field_index("uuid"), "uuid", pa.array(["GPU-recorded"] * table.num_rows))
    pq.write_table(table, out / f"{name}.parquet", compression="zstd")
    frame = table.to_pandas()
    print(name, len(frame), "rows", thread.error or "")
    print(
        frame.drop(columns=["uuid", "gpu"]).describe(include="all").T[["min", "50%", "max", "top"]].to_string(),
        flush=True,
    )


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    record(out, "idle-no-context", lambda: time.sleep(0.05))
    small = torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16)
    weights = torch.empty(16 * 2**30, dtype=torch.uint8, device="cuda")
    record(out, "idle", lambda: time.sleep(0.05))

    def decode() -> None:
        """One step that reads all weights once, as a decode step of a small batch does."""
        weights.view(torch.int64).sum()
        small @ small
        torch.cuda.synchronize()

    record(out, "decode", decode)

    def light() -> None:
        decode()
        time.sleep(0.1)

    record(out, "light-load", light)
    del weights
    torch.cuda.empty_cache()
    big = torch.randn(16384, 16384, device="cuda", dtype=torch.bfloat16)

    def multiply(big: torch.Tensor = big) -> None:
        for _ in range(4):
            big @ big
        torch.cuda.synchronize()

    multiply()
    record(out, "power-capped", multiply)
    del big, multiply
    torch.cuda.empty_cache()
    neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE, text=True)
    neighbour.stdout.readline()
    weights = torch.empty(16 * 2**30, dtype=torch.uint8, device="cuda")
    record(out, "shared", decode)
    neighbour.kill()
    neighbour.wait()
    time.sleep(2)
    record(out, "decode-after", decode)


if __name__ == "__main__":
    main()
