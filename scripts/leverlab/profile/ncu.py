"""Nsight Compute round a server: hardware counters of chosen kernels, each of which it runs again and again for them.

Written after NVIDIA's guide, Nsight Compute 2025.3, and seen to count a decode step of vLLM on an H100 (docs/profiles.md). Before it
runs a kernel again it saves the memory that the kernel may write, which takes long of a full GPU, so the kernels are chosen by name and few, and
the KV cache is small (`leverlab.profile.recorders`). Clocks are left alone (`--clock-control none`), as everywhere here. Caches are emptied before each
run, its default: a decode step finds no weights in them either, and a kernel that runs twice in a row would.

The program writes its report when the server has ended, so that the server is ended first, and not by way of the program: what
that does with a signal its guide does not say.
"""

import contextlib
import csv
import io
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd
import psutil

REPORT: Final = "report.ncu-rep"
COUNTERS_FILE: Final = "counters.csv"
_TIMEOUT_S: Final = 600.0

_METRICS: Final = {
    "gpu__time_duration.sum": "duration_s",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "compute_share",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory_share",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "dram_share",
    "dram__bytes.sum.per_second": "dram_bytes_per_s",
    "dram__bytes.sum": "dram_bytes",
}
"""Nsight Compute's name → the column of the table. Every GPU since Volta has them."""

_TENSOR: Final = {
    "sm__ops_path_tensor_src_bf16_dst_fp32.sum": 1.0,
    "sm__ops_path_tensor_src_fp16.sum": 1.0,
    "sm__ops_path_tensor_src_fp16_dst_fp16.sum": 1.0,
    "sm__ops_path_tensor_src_fp16_dst_fp32.sum": 1.0,
    "sm__ops_path_tensor_src_fp8.sum": 1.0,
    "sm__ops_path_tensor_src_tf32_dst_fp32.sum": 1.0,
}
_OPERATIONS: Final = {
    **_TENSOR,
    "smsp__sass_thread_inst_executed_op_fadd_pred_on.sum": 1.0,
    "smsp__sass_thread_inst_executed_op_fmul_pred_on.sum": 1.0,
    "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum": 2.0,
    "smsp__sass_thread_inst_executed_op_hadd_pred_on.sum": 2.0,
    "smsp__sass_thread_inst_executed_op_hmul_pred_on.sum": 2.0,
    "smsp__sass_thread_inst_executed_op_hfma_pred_on.sum": 4.0,
}
"""Counter → floating-point operations that one of it stands for: tensor cores count operations, the others instructions, of which those on 16 bits
hold two values. GPUs differ in which of them they have."""
_TENSOR_INSTRUCTIONS: Final = "sm__inst_executed_pipe_tensor.sum"

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_PREFIXES: Final = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS: Final = {
    "%": 0.01,
    **_SECONDS,
    **{f"{unit.removesuffix('s')}second": factor for unit, factor in _SECONDS.items()},
    **{f"{prefix}byte": factor for prefix, factor in _PREFIXES.items()},
    **dict.fromkeys(("", "inst", "op", "ops"), 1.0),
    **{f"{prefix}byte/{second}": factor for prefix, factor in _PREFIXES.items() for second in ("s", "second")},
}
"""Unit as one version or another writes it → its size in the unit of the column."""
COLUMNS: Final = ("kernel", *_METRICS.values(), "flop")


_COUNTER: Final = re.compile(r"^\s*(\w+__\w+)", re.MULTILINE)
_LAUNCHERS: Final = ("ncu", "TreeLauncher")
_DENIED: Final = "ERR_NVGPUCTRPERM"
"""What the program writes where the driver gives the counters to administrators alone."""


class NcuError(RuntimeError):
    """Nsight Compute did not do what it was asked. The text holds its answer."""


class CountersDeniedError(NcuError):
    """The driver gives this user no counters. The text says what to do."""


def see_whether_denied(log: str) -> None:
    """Raises CountersDeniedError where `log`, which holds what the program wrote, says so."""
    if _DENIED in log:
        raise CountersDeniedError(
            f"the driver gives its performance counters to administrators alone ({_DENIED}): have NVreg_RestrictProfilingToAdminUsers=0 set "
            "for the kernel module nvidia, in a container give it the capability SYS_ADMIN as well; or leave the study's twins out with "
            "`--config profiles=false`"
        )


def metrics(program: str) -> list[str]:
    """What this machine's GPU is asked for. The program ends a run that asks for a name which it does not know, so that it is asked before which
    counters of operations there are; where it does not say, none is asked for."""
    try:
        said = _run([program, "--query-metrics"])
    except NcuError:
        said = ""
    there = set(_COUNTER.findall(said))
    optional = [name for name in (*_OPERATIONS, _TENSOR_INSTRUCTIONS) if name.partition(".")[0] in there]
    # A counter whose name goes on where another's ends counts a part of what that one does.
    wholes = [f"{name.partition('.')[0]}_" for name in optional]
    return [*_METRICS, *(name for name in optional if not any(name.startswith(whole) for whole in wholes))]


def command_prefix(program: str, folder: Path, kernels: str, launches: int, asked: Sequence[str]) -> list[str]:
    """What stands before the server's command line. `kernels`: a regular expression; `launches`: how many are looked at; `asked`: `metrics`."""
    return [
        program,
        "--target-processes=all",
        "--profile-from-start=off",
        f"--metrics={','.join(asked)}",
        "--clock-control=none",
        # The bare name of a function, which is the default, lacks what a template is of: FlashAttention's kernels are all called
        # `device_kernel`.
        "--kernel-name-base=demangled",
        f"--kernel-name=regex:{kernels}",
        f"--launch-count={launches}",
        "--force-overwrite",
        f"--export={folder / REPORT}",
    ]


def end_server(processes: Sequence[psutil.Process], folder: Path) -> None:
    """Ask the server that the program looks at to end. `processes`: the program, whose report goes into `folder`, and all below it."""
    program = {process.pid for process in processes if _is_program(process, folder)}
    server = [process for process in processes if process.pid not in program]
    below = {process.pid for process in server}
    for process in server:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() not in below:
                process.send_signal(signal.SIGINT)


def _is_program(process: psutil.Process, folder: Path) -> bool:
    """Whether it is the program, or one of those by which it starts the server."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"--export={folder / REPORT}" in process.cmdline() or process.name().startswith(_LAUNCHERS)
    return False


def version(program: str) -> str:
    """What the program says of itself. Raises NcuError where it does not run."""
    said = _run([program, "--version"]).strip()
    if not said:
        raise NcuError(f"{program} --version says nothing")
    return said.splitlines()[-1]


def export(program: str, folder: Path) -> Path:
    """Write the counters of the report in `folder` as CSV. Raises NcuError."""
    if not (folder / REPORT).is_file():
        raise NcuError("Nsight Compute left no report; the server's log says more")
    command = [
        program,
        f"--import={folder / REPORT}",
        "--page=raw",
        "--csv",
        "--print-units=base",
        "--print-kernel-base=demangled",
    ]
    said = _run(command)
    target = folder / COUNTERS_FILE
    target.write_text(said, encoding="utf-8")
    return target


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NcuError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-1000:]
        raise NcuError(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout


def read_counters(text: str) -> pd.DataFrame:
    """A row a kernel that was looked at: `COLUMNS`, times in seconds, shares of the peak from 0 to 1; null for what is not told.

    `flop` are floating-point operations: null where a counter of them is missing, and where none of the tensor cores' that were asked for
    saw anything though they ran, or may have run: then it was in a type that none is asked for.

    `text`: CSV of the page `raw`: a line of names, a line of units, then a line a kernel. Raises NcuError.
    """
    lines = [row for row in csv.reader(io.StringIO(text)) if len(row) > 1]
    header = next((number for number, row in enumerate(lines) if "Kernel Name" in row), None)
    if header is None or len(lines) < header + 3:
        raise NcuError("the export of Nsight Compute holds no kernel: did one of that name run while it looked?")
    names, units = lines[header], lines[header + 1]
    return pd.DataFrame([_row(names, units, row) for row in lines[header + 2 :]], columns=list(COLUMNS))


def _row(names: Sequence[str], units: Sequence[str], row: Sequence[str]) -> dict[str, object]:
    counted: dict[str, float] = {}
    for name, unit, value in zip(names, units, row, strict=False):
        if name in {*_METRICS, *_OPERATIONS, _TENSOR_INSTRUCTIONS} and (number := _number(value)) is not None:
            if unit not in _UNITS:
                raise NcuError(f"{name} is in {unit!r}, a unit that is not known here: {', '.join(_UNITS)}")
            counted[name] = number * _UNITS[unit]
    return {
        "kernel": row[list(names).index("Kernel Name")],
        **{column: counted[name] for name, column in _METRICS.items() if name in counted},
        "flop": _flop([name for name in names if name in _OPERATIONS], counted),
    }


def _flop(asked: Sequence[str], counted: Mapping[str, float]) -> float | None:
    if not _TENSOR.keys() & set(asked) or any(name not in counted for name in asked):
        return None
    if not any(counted.get(name) for name in _TENSOR) and counted.get(_TENSOR_INSTRUCTIONS) != 0:
        return None
    return sum(_OPERATIONS[name] * counted[name] for name in asked)


def _number(value: str) -> float | None:
    """None for `n/a`, of a metric that the GPU does not have, and for nothing."""
    with contextlib.suppress(ValueError):
        return float(value.replace(",", ""))
    return None
