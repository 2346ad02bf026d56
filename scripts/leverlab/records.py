"""What is kept of a measurement besides tables: cell.json, trial.json, checks.json, the job's specification and record.

These files are the interface between the trial runner, aggregation, reports and reproduction; their form is fixed by
`RECORD_VERSION`.
"""

import json
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

RECORD_VERSION: Final = 1

Status = Literal["measured", "failed", "infeasible", "skipped"]


class Record(BaseModel):
    """A record that is written to a file: frozen, unknown keys kept so that an older program reads a newer file."""

    model_config = ConfigDict(frozen=True, extra="allow")
    record_version: int = RECORD_VERSION


class Reason(BaseModel):
    """Why something is not as it should be."""

    model_config = ConfigDict(frozen=True)
    code: str = Field(description="stable, for programs: `server_died`, `configuration_refused`, `out_of_memory`, …")
    message: str = Field(description="a sentence for a person")
    log: list[str] = Field(default=[], description="the lines of the server's log that show it")


class CheckResult(BaseModel):
    """One check of one cell."""

    model_config = ConfigDict(frozen=True)
    code: str
    severity: Literal["ok", "caution", "invalid"]
    saw: str
    expected: str
    remedy: str = ""


class PhaseSpecification(BaseModel):
    """A cell that a job is to measure."""

    model_config = ConfigDict(frozen=True)
    cell: str
    phase: str
    identity: dict[str, Any]
    workload_file: str = Field(description="requests.jsonl, relative to the working folder")
    request_timeout_s: float
    stop_after_saturation: bool = Field(
        default=False, description="left out where the server does not keep up with a lower rate"
    )
    search_limit_s: float | None = Field(default=None, description="how long a search for the rate goes on")


class JobSpecification(Record):
    """All that one server lifetime needs to know: written before the job is submitted, read by scripts/measure.py."""

    server: str
    identity: dict[str, Any] = Field(description="the server's identity")
    replicate: str
    job: str
    cells: list[PhaseSpecification]
    engine: str = Field(description="name in config/engines.yaml")
    engine_kind: str
    device: Literal["cpu", "cuda"]
    gpu_count: int
    command_prefix: list[str] = Field(description="what runs a Python program in the engine's environment")
    identity_packages: list[str] = Field(description="packages whose installed versions are compared with the identity")
    model_folder: str
    other_model_folders: dict[str, str] = Field(
        default={}, description="name → folder of the models that its flags refer to besides"
    )
    gpu_bandwidth: float | None = Field(default=None, description="bytes/s of one GPU's memory, where it is known")
    gpu_peak: dict[str, float] = Field(default={}, description="dtype → operations/s of one GPU, where it is known")
    start_timeout_s: float
    order_seed: int = Field(description="draws the order of the phases; the same for all servers of a replicate")
    results: str = Field(default=".", description="the folder that holds results/")
    retry_failed: bool = False


class TwinSpecification(Record):
    """A twin: a server and one phase of it, run again under a profiler. Written before its job, read by scripts/profile_cell.py."""

    twin: str = Field(description="hash of server, phase and tool: the name of the twin's record")
    tool: Literal["nsys", "torch", "ncu"]
    window_s: float = Field(description="how long the profiler records")
    program: str | None = Field(default=None, description="path of the profiler's program")
    kernels: str = Field(default="", description="for ncu: a regular expression for the names of kernels")
    launches: int = Field(default=0, description="for ncu: how many are looked at")
    libraries: str | None = Field(default=None, description="folder of libraries that it needs besides the machine's")
    kernel_classes: list[tuple[str, list[str]]] = Field(
        description="(class, patterns) in the order of config/kernel_classes.yaml"
    )
    job: JobSpecification = Field(description="the server and the one cell whose load is repeated")


class TwinRecord(Record):
    """twin.json: how a twin went, and what of it is there. Its numbers are never a measurement."""

    twin: str
    server: str
    phase: str
    cell: str
    replicate: str
    tool: Literal["nsys", "torch", "ncu"]
    outcome: Literal["recorded", "failed", "infeasible", "interrupted"]
    reason: Reason | None = None
    started_at: str
    duration_s: float = 0.0
    command: list[str] = Field(default=[], description="the server's command line, with the profiler's")
    commands: dict[str, list[str]] = Field(
        default={}, description="of several engine servers: name → its command line, and `command` is empty"
    )
    silent: dict[str, str] = Field(
        default={}, description="of several engine servers those whose profiler left nothing that can be read → why"
    )
    partial: Reason | None = Field(
        default=None, description="why it recorded less than it was to; null where it went on to its end"
    )
    window: dict[str, Any] = Field(default={}, description="see leverlab.profile.window.Window")
    requests: dict[str, float] = Field(
        default={},
        description="requests that ended well, and the medians of ttft_s, tpot_s and chunk_gap_s under the profiler; "
        "recorded_chunk_gap_s_p50 of the gaps while it recorded, where the client tells its clock",
    )
    layers: int | None = Field(default=None, description="layers of the model, where its config.json tells")
    step_floor_s: float | None = Field(default=None, description="the least that a decode step takes: leverlab.theory")
    programs: dict[str, str] = Field(default={}, description="profiler → its version")
    provenance: dict[str, Any] = Field(default={}, description="see leverlab.trial.fingerprint")
    files: list[str] = Field(default=[], description="what is kept beside this record")


class SearchRecord(BaseModel):
    """What a search for the highest rate within the objectives found. The cell's tables are of the run at `kept`."""

    model_config = ConfigDict(frozen=True)
    highest_rate: float | None = Field(
        description="requests/s that arrived; null where no rate that was tried met the objectives"
    )
    missed: float | None = Field(
        description="the same of the lowest rate above it that missed one; null where none did"
    )
    kept: float = Field(
        description="the nominal rate of the run that the tables hold: the highest that met them, or the lowest tried"
    )
    limited_by: str | None = Field(description="what was missed at `missed`: an objective, or `kept_up`")
    runs: int = Field(description="how often the workload was offered, the burst that gave the first rate included")
    settled: bool = Field(description="whether the answer is known to the precision that was asked for")


class SamplingCost(BaseModel):
    """What looking at something again and again, in a thread beside the measurement, took."""

    model_config = ConfigDict(frozen=True)
    looks: int
    rate: float | None = Field(description="looks/s from the first to the last but one, which comes with the end")
    look_s_p50: float = Field(description="the median of how long one took, in s")
    look_s_max: float
    cpu_share: float | None = Field(description="CPU time of the thread / the time that it ran: its share of a core")


class CellRecord(Record):
    """cell.json: a cell's whole specification, its trial, and how it went. Enough to measure the cell again."""

    cell: str
    server: str
    phase: str
    replicate: str
    status: Status
    reason: Reason | None = None
    specification: dict[str, Any] = Field(description="{server: identity, phase: identity}")
    engine: str
    trial: int = Field(description="number of the trial, under trials/")
    position: int = Field(description="which phase of its trial this was, from 0")
    started_at: str = Field(description="UTC, ISO 8601")
    duration_s: float
    request_timeout_s: float | None = Field(
        default=None, description="how long each request was followed; null in records older than this field"
    )
    cache: dict[str, Any] = Field(
        default={}, description="state asked for, how it was brought about, whether it was seen"
    )
    instrument: dict[str, Any] = Field(default={}, description="the client's own stated error")
    search: SearchRecord | None = Field(
        default=None, description="what a search for the rate found; null for other loads"
    )
    server_delta: dict[str, float] = Field(
        default={}, description="differences of the server's counters and histograms, by name"
    )
    server_facts: dict[str, float] = Field(
        default={}, description="what is measured of the server's start: see leverlab.metrics.SERVER_FACTS"
    )
    processes: dict[str, Any] = Field(
        default={}, description="process of several → its GPUs and cores; empty for one server alone"
    )
    provenance: dict[str, Any] = Field(
        default={}, description="what the node was and had installed: see leverlab.trial.fingerprint"
    )
    not_sampled: dict[str, str] = Field(
        default={}, description="table of samples, or column of requests, that is not there, or not whole → why"
    )
    sampling: dict[str, SamplingCost] = Field(
        default={}, description="table of samples → what taking them cost; empty in records older than this field"
    )
    files: dict[str, str] = Field(default={}, description="artifact → SHA-256 of its content")


class TrialRecord(Record):
    """trial.json: one start of a server."""

    server: str
    replicate: str
    trial: int
    outcome: Literal["running", "finished", "server_died", "infeasible", "failed", "interrupted", "killed"]
    reason: Reason | None = None
    started_at: str
    ended_at: str | None = None
    start: dict[str, float] = Field(
        default={}, description="seconds of each step of the start: spawn, healthy, warmup, …"
    )
    restarts: list[dict[str, Any]] = Field(
        default=[],
        description="restarts for a phase that begins after one: its id, how the server before it ended (`stop`), and the seconds "
        "of the start",
    )
    compile_caches: dict[str, Any] = Field(
        default={}, description="cache → its state before the start (cold, warm), and the entries that the start added"
    )
    processes: dict[str, Any] = Field(
        default={},
        description="process → the GPUs and cores that it was given, in the order of start; empty for one server alone",
    )
    warmup: dict[str, Any] = Field(default={}, description="its windows, and whether the last two agreed (`steady`)")
    stop: dict[str, Any] = Field(
        default={},
        description="how the server, after restarts the last one, was ended, and whether the GPUs' memory came back",
    )
    fingerprint: dict[str, Any] = {}
    effective: dict[str, Any] = Field(default={}, description="the configuration that the server reports")
    differences: list[dict[str, Any]] = Field(
        default=[], description="intended against effective: {key, intended, effective, expected}"
    )
    phases: list[str] = Field(default=[], description="phase ids in the order in which they ran")


class JobRecord(Record):
    """The declared output of a measuring job, made from the cell records below it."""

    server: str
    replicate: str
    job: str
    cells: dict[str, Status] = Field(description="phase → status")


class AccuracySpecification(Record):
    """All that a job of the rule `accuracy` needs to know: written before it is submitted, read by scripts/accuracy.py."""

    job: JobSpecification = Field(description="the server, as a measuring job is told of it, with no cells")
    task_id: str = Field(description="id of what is asked")
    task: dict[str, Any] = Field(description="identity of what is asked")
    data_files: dict[str, str] = Field(
        default={}, description="split → file that was hashed; empty: the task's own data"
    )
    timeout_s: float = Field(description="how long an answer is waited for")
    lm_eval_prefix: list[str] = Field(description="what runs a Python program where lm_eval is installed")


class Score(BaseModel):
    """What lm_eval made of the answers to a task's questions."""

    model_config = ConfigDict(frozen=True)
    metric: str
    filter: str = Field(description="which part of an answer was compared, in the task's words; `none` where all of it")
    value: float
    standard_error: float | None
    questions: int
    higher_is_better: bool = True


class AccuracyRecord(Record):
    """accuracy.json: what one server was asked, and what its answers were worth."""

    server: str
    replicate: str
    task_id: str
    status: Literal["measured", "failed", "infeasible"]
    reason: Reason | None = None
    specification: dict[str, Any] = Field(description="{server: identity, task: identity}")
    engine: str
    started_at: str = Field(description="UTC, ISO 8601")
    duration_s: float
    scores: list[Score] = []
    start: dict[str, float] = Field(default={}, description="seconds of each step of the server's start")
    effective: dict[str, Any] = Field(default={}, description="the configuration that the server reports")
    differences: list[dict[str, Any]] = Field(default=[], description="intended against effective, as in trial.json")
    stop: dict[str, Any] = Field(default={}, description="how the server was ended")
    lm_eval: dict[str, Any] = Field(
        default={}, description="its version and arguments, the task's hash and configuration"
    )
    provenance: dict[str, Any] = Field(default={}, description="what the node was and had installed")
    files: dict[str, str] = Field(default={}, description="artifact → SHA-256 of its content")


class AccuracyJobRecord(Record):
    """The declared output of a job of the rule `accuracy`, made from the record of its run."""

    server: str
    replicate: str
    task_id: str
    status: Literal["measured", "failed", "infeasible"]


def write_json(path: Path, value: BaseModel | Mapping[str, Any]) -> None:
    """Write `value` to `path` so that a reader sees the old file or the whole new one, whatever happens meanwhile."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value)
    write_bytes(path, (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` by rename, and see that it reached the disk first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in the JSON file `path`."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path}: not a JSON object")
    return data


def flattened_provenance(provenance: Mapping[str, Any]) -> dict[str, str]:
    """A fingerprint as `area.key` → text, with GPUs numbered by their place among the cell's own: `gpu.0.name`.

    The record numbers them by the node's index, which is the fact `gpu.0.index` here. Otherwise what two cells say of their only
    GPU would stand under two names, and be compared with nothing.
    """
    devices = provenance.get("gpu")
    if not isinstance(devices, Mapping):
        return _flattened(provenance)  # the driver did not answer
    indices = sorted((key for key in devices if str(key).isdigit()), key=int)
    placed = {key: value for key, value in devices.items() if key not in indices}
    placed |= {str(place): {"index": index, **devices[index]} for place, index in enumerate(indices)}
    return _flattened({**provenance, "gpu": placed})


def gpu_names(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """What NVML calls the GPUs of a fingerprint; none where it does not tell."""
    devices = provenance.get("gpu")
    told = devices.values() if isinstance(devices, Mapping) else ()
    return tuple(str(device["name"]) for device in told if isinstance(device, Mapping) and device.get("name"))


def cards_of(flat: Mapping[str, str]) -> list[str]:
    """The UUIDs of the cell's own GPUs in a `flattened_provenance`, as they are recorded."""
    return [value for key, value in flat.items() if fnmatchcase(key, "gpu.*.uuid")]


def short_name(card: str) -> str:
    """A GPU's UUID as far as people tell cards apart by it: `86b4e8d4` of `GPU-86b4e8d4-…`."""
    return card.partition("-")[2][:8] or card


def _flattened(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """A nested record as `area.key` → text, without what is empty: for what compares and prints fingerprints."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            flat |= _flattened(item, here)
        elif item not in (None, []):
            flat[here] = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
    return flat
