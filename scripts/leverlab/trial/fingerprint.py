"""What the node is, as seen from inside the job: provenance, not identity.

Every probe stands alone. One that fails is recorded as `unknown` and fails nothing: a measurement is worth more than a
line about it.
"""

import os
import platform
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import psutil
import pynvml

from leverlab import MEASUREMENT_VERSION, __version__
from leverlab.environments import installed_versions
from leverlab.records import JobSpecification
from leverlab.redaction import is_secret_name
from leverlab.scheduler import current_job
from leverlab.static_batching import STATIC_VERSION
from leverlab.telemetry.gpu import handles, throttle_text
from leverlab.trial.owner import boot_id
from leverlab.truth import TRUTH_VERSION

UNKNOWN: Final = "unknown"

_GIT_TIMEOUT_S: Final = 20
_SITE_VARIABLES: Final = ("CUDA_*", "NCCL_*", "UCX_*", "MALLOC_*", "LD_PRELOAD", "NVIDIA_*")
_CPU: Final = Path("/sys/devices/system/cpu")


def fingerprint(job: JobSpecification, gpus: Sequence[str] = ()) -> dict[str, Any]:
    """The node, its devices, what is installed and checked out, by area. `gpus`: those of the trial; none for all visible.

    `versions` holds the installed versions of the packages that identify the engine, its Python, and the image's digest.
    """
    return {
        "node": probe(_node),
        "cpu": probe(_cpu),
        "memory": probe(lambda: {"total_bytes": psutil.virtual_memory().total}),
        "gpu": probe(lambda: _gpus(gpus)) if job.device == "cuda" else {},
        "slurm": probe(_slurm),
        "versions": probe(lambda: _versions(job)),
        "environment": probe(_environment),
        "git": probe(_git),
        "leverlab": {
            "version": __version__,
            "measurement_version": MEASUREMENT_VERSION,
            "python": platform.python_version(),
        },
    }


def probe(ask: Callable[[], Any]) -> Any:  # noqa: ANN401 - any JSON value
    """What `ask` finds; `unknown` where it fails or finds nothing."""
    try:
        found = ask()
    except Exception:
        return UNKNOWN
    return UNKNOWN if found is None else found


def _node() -> dict[str, Any]:
    return {
        "hostname": socket.gethostname(),
        # Machines that share a name, as virtual ones and containers often do, share no boot.
        "boot_id": boot_id() or UNKNOWN,
        "kernel": platform.release(),
        "system": probe(lambda: platform.freedesktop_os_release()["PRETTY_NAME"]),
        "container": probe(_container),
    }


def _container() -> str:
    for name, variable in (("apptainer", "APPTAINER_CONTAINER"), ("singularity", "SINGULARITY_CONTAINER")):
        if os.environ.get(variable):
            return f"{name} {os.environ[variable]}"
    marks = {"docker": Path("/.dockerenv"), "podman": Path("/run/.containerenv")}
    return next((name for name, mark in marks.items() if mark.exists()), "none")


def _cpu() -> dict[str, Any]:
    return {
        "model": probe(_cpu_model),
        "logical": os.cpu_count(),
        "physical": probe(lambda: psutil.cpu_count(logical=False)),
        "allowed": sorted(os.sched_getaffinity(0)),
        "smt": probe(lambda: (_CPU / "smt/active").read_text().strip() == "1"),
        "governor": probe(lambda: (_CPU / "cpu0/cpufreq/scaling_governor").read_text().strip()),
        "turbo": probe(lambda: (_CPU / "intel_pstate/no_turbo").read_text().strip() == "0"),
    }


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _environment() -> dict[str, str]:
    """Variables of the site that reach the server and may change its speed: they belong to the node, not to the identity."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if any(fnmatchcase(name, pattern) for pattern in _SITE_VARIABLES) and not is_secret_name(name)
    }


def _slurm() -> dict[str, Any]:
    job = current_job()
    if job is None:
        return {}
    return {**asdict(job), "gpus": list(job.gpus), "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", UNKNOWN)}


def _versions(job: JobSpecification) -> dict[str, str]:
    if job.engine_kind == "truth":
        return {"truth": TRUTH_VERSION}
    versions = installed_versions(job.command_prefix, job.identity_packages)
    if job.engine_kind == "static":
        versions["static"] = STATIC_VERSION
    image = next((word.partition("@")[2] for word in job.command_prefix if "@sha256:" in word), None)
    return versions | ({"image": image} if image else {})


def _git() -> dict[str, Any]:
    return {
        "commit": _ask_git("rev-parse", "HEAD"),
        "dirty": bool(_ask_git("status", "--porcelain", "--untracked-files=no")),
    }


def _ask_git(*arguments: str) -> str:
    done = subprocess.run(
        # Looking must not write: another process may hold the index.
        ["git", "--no-optional-locks", *arguments],
        capture_output=True,
        text=True,
        timeout=_GIT_TIMEOUT_S,
        check=True,
    )
    return done.stdout.strip()


def _gpus(gpus: Sequence[str]) -> dict[str, Any]:
    """`driver`, `cuda`, and each GPU under its index."""
    found: dict[str, Any] = {str(_index(handle)): _gpu(handle) for handle in handles(gpus)}
    driver = probe(pynvml.nvmlSystemGetDriverVersion)
    return {"driver": driver, "cuda": probe(pynvml.nvmlSystemGetCudaDriverVersion), **found}


def _gpu(handle: Any) -> dict[str, Any]:  # noqa: ANN401 - a ctypes pointer
    asked: Mapping[str, Callable[[], Any]] = {
        "name": lambda: pynvml.nvmlDeviceGetName(handle),
        "uuid": lambda: pynvml.nvmlDeviceGetUUID(handle),
        "memory_bytes": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        "sm_clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 10**6,
        "sm_clock_most_hz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM) * 10**6,
        "memory_clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) * 10**6,
        "power_limit_w": lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3,
        "throttle": lambda: throttle_text(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or "none",
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "ecc": lambda: bool(pynvml.nvmlDeviceGetEccMode(handle)[0]),
        "mig": lambda: bool(pynvml.nvmlDeviceGetMigMode(handle)[0]),
        "persistence": lambda: bool(pynvml.nvmlDeviceGetPersistenceMode(handle)),
        "pcie_generation": lambda: pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
        "pcie_lanes": lambda: pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
        # What GPU and slot can do: an idle link may be slowed down for the moment.
        "pcie_generation_most": lambda: pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle),
        "pcie_lanes_most": lambda: pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
    }
    return {name: probe(ask) for name, ask in asked.items()}


def _index(handle: Any) -> Any:  # noqa: ANN401
    return probe(lambda: pynvml.nvmlDeviceGetIndex(handle))
