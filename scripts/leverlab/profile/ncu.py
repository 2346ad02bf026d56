"""Nsight Compute round a server: hardware counters of chosen kernels, each of which it runs again and again for them.

Not run yet with an engine: written after NVIDIA's guide, Nsight Compute 2025.3. It costs about a second a kernel, so the kernels
are chosen by name and few. Clocks are left alone (`--clock-control none`), as everywhere here.
"""

import csv
import io
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

REPORT: Final = "report.ncu-rep"
COUNTERS_FILE: Final = "counters.csv"
_TIMEOUT_S: Final = 600.0

_METRICS: Final = {
    "gpu__time_duration.sum": "duration_s",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "compute_share",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory_share",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "dram_share",
    "dram__bytes.sum.per_second": "dram_bytes_per_s",
}
"""Nsight Compute's name → the column of the table."""

_UNITS: Final = {
    "nsecond": 1e-9,
    "ns": 1e-9,
    "usecond": 1e-6,
    "us": 1e-6,
    "msecond": 1e-3,
    "ms": 1e-3,
    "second": 1.0,
    "s": 1.0,
    "%": 0.01,
}
COLUMNS: Final = ("kernel", *_METRICS.values())


class NcuError(RuntimeError):
    """Nsight Compute did not do what it was asked. The text holds its answer."""


def command_prefix(program: str, folder: Path, kernels: str, launches: int) -> list[str]:
    """What stands before the server's command line. `kernels`: a regular expression; `launches`: how many are looked at."""
    return [
        program,
        "--target-processes=all",
        "--profile-from-start=off",
        "--set=roofline",
        "--clock-control=none",
        f"--kernel-name=regex:{kernels}",
        f"--launch-count={launches}",
        "--force-overwrite",
        f"--export={folder / REPORT}",
    ]


def export(program: str, folder: Path) -> Path:
    """Write the counters of the report in `folder` as CSV. Raises NcuError."""
    command = [program, f"--import={folder / REPORT}", "--page=raw", "--csv", "--print-units=base"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NcuError(f"{program}: {error}") from error
    if done.returncode != 0:
        raise NcuError(f"{program} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}")
    target = folder / COUNTERS_FILE
    target.write_text(done.stdout, encoding="utf-8")
    return target


def read_counters(text: str) -> pd.DataFrame:
    """A row a kernel that was looked at: `COLUMNS`, times in seconds, shares of the peak from 0 to 1; null for what is not told.

    `text`: CSV of the page `raw`: a line of names, a line of units, then a line a kernel. Raises NcuError.
    """
    lines = [row for row in csv.reader(io.StringIO(text)) if len(row) > 1]
    header = next((number for number, row in enumerate(lines) if "Kernel Name" in row), None)
    if header is None or len(lines) < header + 3:
        raise NcuError("the export of Nsight Compute holds no kernel: did one of that name run while it looked?")
    names, units = lines[header], lines[header + 1]
    return pd.DataFrame([_row(names, units, row) for row in lines[header + 2 :]], columns=list(COLUMNS))


def _row(names: Sequence[str], units: Sequence[str], row: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {"kernel": row[list(names).index("Kernel Name")]}
    for name, unit, value in zip(names, units, row, strict=False):
        if name in _METRICS and value:
            found[_METRICS[name]] = float(value.replace(",", "")) * _UNITS.get(unit, 1.0)
    return found
