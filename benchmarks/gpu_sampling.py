"""What does it cost to look at the GPUs while something is measured, on this machine, now?

python benchmarks/gpu_sampling.py [--seconds 20] [--output FILE.md]

Takes NVML's answers as a measured cell does, ten times a second from a thread of its own, and then each of them alone, so that one that is slow is
seen. Prints a table for docs/metrics.md. Let something run on the GPUs meanwhile to see what looking takes then.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import pynvml

from leverlab.telemetry.gpu import (
    PERIOD_S,
    GpuSampler,
    GpuUnavailableError,
    counters,
    handles,
    running_processes,
    visible_gpus,
)
from leverlab.telemetry.periodic import Periodic
from leverlab.telemetry.server_processes import ServerProcesses

_ALONE = 100
"""Times that each answer is asked for."""


def main() -> int:
    """Print the table; 1 where there is no GPU to look at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the thread looks")
    parser.add_argument("--output", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    try:
        gpus = visible_gpus()
        table = [*together(gpus, arguments.seconds), "", *alone(gpus[0])]
    except GpuUnavailableError as error:
        print(f"gpu_sampling: {error}", file=sys.stderr)
        return 1
    text = "\n".join(table) + "\n"
    print(text, end="")
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    return 0


def together(gpus: list[str], seconds: float) -> list[str]:
    """What the sampler's thread took."""
    periodic = Periodic("sample gpu", PERIOD_S, GpuSampler(gpus, ServerProcesses(list)).look)
    periodic.start()
    time.sleep(seconds)
    periodic.stop()
    cost = periodic.cost()
    if cost is None:
        raise GpuUnavailableError(f"no look ended well: {periodic.error}")
    head = "| GPUs | looks | a second | median | longest | share of a core |"
    row = (
        f"| {len(gpus)} | {cost.looks} | {cost.rate or 0:.2f} | {1e3 * cost.look_s_p50:.2f} ms | {1e3 * cost.look_s_max:.2f} ms | "
        f"{cost.cpu_share or 0:.2%} |"
    )
    return [head, "| --- " * 6 + "|", row]


def alone(gpu: str) -> list[str]:
    """Median and longest time of each answer of one GPU."""
    rows = []
    [handle] = handles([gpu])
    for name, ask in {**counters(handle), "foreign_processes": lambda: running_processes(handle)}.items():
        took_s = []
        try:
            for _ in range(_ALONE):
                begun = time.perf_counter()
                ask()
                took_s.append(time.perf_counter() - begun)
        except pynvml.NVMLError as error:
            rows.append((0.0, f"| `{name}` | {error} | |"))
            continue
        middle_s = statistics.median(took_s)
        rows.append((middle_s, f"| `{name}` | {1e6 * middle_s:.0f} µs | {1e6 * max(took_s):.0f} µs |"))
    return ["| answer | median | longest |", "| --- | --- | --- |", *(row for _, row in sorted(rows, reverse=True))]


if __name__ == "__main__":
    sys.exit(main())
