"""Nsight Systems round a server: its command line, whether its report is whole, and what is made of the report.

The command line worked with Nsight Systems 2025.3 and vLLM 0.26 on an H200. `--sample` and `--cpuctxsw` are off because they
need rights that few machines give, and slow the CPU; graphs are traced by their nodes because a graph as a whole hides its
kernels.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

REPORT: Final = "report"
_SUFFIX: Final = ".nsys-rep"
_GENERATED: Final = "Generated:"
_WHOLE_AFTER_S: Final = 10.0
_TOOL_TIMEOUT_S: Final = 900.0
STATISTICS: Final = ("cuda_gpu_kern_sum", "cuda_api_sum")


class NsysError(RuntimeError):
    """Nsight Systems did not do what it was asked. The text holds its answer and the remedy."""


def command_prefix(program: str, folder: Path) -> list[str]:
    """What stands before the server's command line; the report goes into `folder`."""
    return [
        program,
        "profile",
        "--trace=cuda,nvtx",
        "--sample=none",
        "--cpuctxsw=none",
        "--cuda-graph-trace=node",
        "--capture-range=cudaProfilerApi",
        "--capture-range-end=stop-shutdown",
        "--kill=none",
        "--force-overwrite=true",
        f"--output={folder / REPORT}",
    ]


def report_file(folder: Path) -> Path:
    """The report in `folder`, there or not."""
    return folder / f"{REPORT}{_SUFFIX}"


def library_environment(libraries: str | None, environment: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Variables with which the program finds the folder `libraries`, before what a server's `environment` or this process's says."""
    if libraries is None:
        return {}
    there = environment.get("LD_LIBRARY_PATH") or os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{libraries}:{there}" if there else libraries}


def wait_for_report(folder: Path, log: Callable[[], str], ended: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the report is whole, waiting for it: Nsight Systems has said so, has ended, or no longer writes to it."""
    path, deadline = report_file(folder), time.monotonic() + timeout_s
    size, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        now = path.stat().st_size if path.is_file() else -1
        if now != size:
            size, since = now, time.monotonic()
        settled = size > 0 and time.monotonic() - since > _WHOLE_AFTER_S
        if size > 0 and (ended() or settled or _GENERATED in log()):
            return True
        if size < 0 and ended():
            return False
        time.sleep(0.5)
    return False


def version(program: str, environment: Mapping[str, str]) -> str:
    """What the program says of itself. Raises NsysError where it does not run."""
    return _run([program, "--version"], environment).strip().splitlines()[-1]


def export(program: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """Make Parquet tables of the report in `folder`, and the statistics that people know. Raises NsysError."""
    target = folder / "export"
    report = str(report_file(folder))
    try:
        _run(
            [program, "export", "--type=parquetdir", "--force-overwrite=true", f"--output={target}", report],
            environment,
        )
    except BaseException:
        for half_made in folder.rglob("*.parquet"):  # some of the tables would be read as if they were all
            half_made.unlink()
        raise
    for name in STATISTICS:
        # Beside what was asked for: a statistic that fails costs nobody the kernels.
        with contextlib.suppress(NsysError):
            said = _run(
                [program, "stats", "--force-export=true", f"--report={name}", "--format=csv", report], environment
            )
            (folder / f"{name}.csv").write_text(said, encoding="utf-8")
    report_file(folder).with_suffix(".sqlite").unlink(missing_ok=True)
    return _tables(folder, target)


def _tables(folder: Path, target: Path) -> Path:
    """The folder that holds the tables: versions differ in what they make of the name they are given."""
    found = sorted(folder.rglob("StringIds.parquet")) or sorted(folder.rglob("CUPTI_ACTIVITY_KIND_KERNEL.parquet"))
    if not found:
        raise NsysError(f"{target}: the export holds no tables; does the report open in Nsight Systems?")
    return found[0].parent


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TOOL_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise NsysError(f"{command[0]}: {error.strerror}: {INSTALL}") from error
    except subprocess.TimeoutExpired:
        raise NsysError(f"{' '.join(command[:2])} took longer than {_TOOL_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-1000:]
        hint = f" {LIBRARIES}" if "cannot open shared object" in said or "Importer" in said else ""
        raise NsysError(f"{' '.join(command[:2])} ended with status {done.returncode}: {said}{hint}")
    return done.stdout


INSTALL: Final = (
    "install NVIDIA Nsight Systems (package nsight-systems-cli of NVIDIA's repositories; it also lies in the folder "
    "host/target-linux-x64 of Nsight Compute), and name its program with `--config nsys=PATH` where it is not on PATH; "
    "or take `tool: torch` in the study, or leave twins out with `--config profiles=false`"
)
LIBRARIES: Final = "If it lacks libdw or libelf, name a folder that holds them with `--config nsys_libraries=FOLDER`."
