"""Twins: which cells of the selected studies are run again under a profiler, and what of that is still to be done."""

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from leverlab.config import ConfigError, Configuration
from leverlab.config.base import nearest
from leverlab.config.kernel_classes import kernel_class_rules
from leverlab.config.profile import NCU_LAUNCH_S, PROFILED_KINDS, Profile, Tool
from leverlab.config.topology import topology_of
from leverlab.identity import content_hash
from leverlab.layout import TWIN_FILE, Layout
from leverlab.matrix.cells import Cell, ReplicateKey
from leverlab.matrix.expand import Job, Matrix, StudyMatrix
from leverlab.matrix.jobs import job_specification, walltime_s, write_if_changed
from leverlab.matrix.progress import measured, missing_phases
from leverlab.records import TwinSpecification, write_bytes

TWIN_OVERHEAD_S: Final = 900
"""A start under a profiler takes up to twice as long; then its report is written and exported."""

_INSTEAD: Final = (
    "or write `tool: torch` under the study's `profile`, or leave twins out with `--config profiles=false`"
)
MISSING: Final[dict[str, str]] = {
    "nsys": "the study asks for a profile by Nsight Systems, and {what}: install it (package nsight-systems-cli of NVIDIA's "
    "repositories; it also lies in the folder host/target-linux-x64 of Nsight Compute) and name its program with `--config nsys=PATH` "
    f"where it is not on PATH; {_INSTEAD}",
    "ncu": "the study asks for counters by Nsight Compute, and {what}: install it (package nsight-compute of NVIDIA's repositories, or "
    f"the CUDA toolkit) and name its program with `--config ncu=PATH` where it is not on PATH; {_INSTEAD}",
}
"""What is said before anything is submitted."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A cell in one replicate, under one profiler."""

    cell: Cell
    replicate: ReplicateKey
    tool: Tool
    window_s: float
    kernels: str = ""
    launches: int = 0

    @property
    def id(self) -> str:
        """Hash of what it is a twin of, and by what: the name of its record. The window's length may change."""
        return content_hash([self.cell.server.id, self.cell.phase.id, self.tool])

    @property
    def job(self) -> Job:
        """The job that would measure this cell alone."""
        return Job(self.cell.server, self.replicate, (self.cell,))

    def folder(self, layout: Layout) -> Path:
        return layout.profile(self.cell.server.id, self.cell.phase.id, self.tool)

    def record(self, layout: Layout) -> Path:
        """What its job declares as its output."""
        return layout.twin_record(self.cell.server.id, self.cell.phase.id, self.id)


def twins_of(study: StudyMatrix, configuration: Configuration) -> tuple[Twin, ...]:
    """The twins that `study` asks for, each once, of its first replicate. Raises ConfigError."""
    profile = study.study.profile
    if profile is None or not configuration.settings.profiles:
        return ()
    names = dict.fromkeys(entry.treatment.name for entry in study.cells if not entry.treatment.copy)
    for name in profile.treatments:
        if name not in names:
            raise ConfigError(
                f"config/studies/{study.name}.yaml: profile.treatments: there is no treatment {name!r}{nearest(name, names)}"
            )
    wanted = profile.treatments or list(names)
    found: dict[str, Twin] = {}
    for entry in study.cells:
        if entry.treatment.copy or entry.treatment.name not in wanted or str(entry.load) not in profile.at:
            continue
        tool = _tool(study.name, profile, entry.cell, configuration)
        chosen = (profile.kernels, profile.launches) if tool == "ncu" else ()
        twin = Twin(entry.cell, study.replicates[0], tool, profile.window, *chosen)
        found.setdefault(twin.id, twin)
    return tuple(found.values())


def _tool(study: str, profile: Profile, cell: Cell, configuration: Configuration) -> Tool:
    engine = configuration.engines[cell.server.engine]
    tool = profile.tool or ("nsys" if engine.device == "cuda" else "torch")
    where = f"config/studies/{study}.yaml: profile"
    if engine.kind not in PROFILED_KINDS:
        raise ConfigError(
            f"{where}: an engine of kind {engine.kind!r} has no profiler; name in `profile.treatments` those that another serves, "
            f"or take an engine of kind {' or '.join(PROFILED_KINDS)}"
        )
    if tool == "ncu" and topology_of(cell.server.identity).engine_servers > 1:
        raise ConfigError(
            f"{where}.tool: ncu counts in one engine server, and a {cell.server.identity['topology']} has several: name in "
            "`profile.treatments` those that one serves, or take nsys"
        )
    if cell.phase.cache == "restarted":
        raise ConfigError(
            f"{where}: a twin is started once, and a phase that begins `restarted` needs two starts: name in `profile.treatments` "
            "those that begin otherwise"
        )
    if tool != "torch" and engine.device == "cpu":
        raise ConfigError(f"{where}.tool: {tool} looks at GPUs, and {cell.server.engine} computes on a CPU: torch")
    return tool


def twins_by_study(matrix: Matrix) -> dict[str, tuple[Twin, ...]]:
    """Study → its twins; the longest window that is asked for of a twin that studies share."""
    found = {study.name: twins_of(study, matrix.configuration) for study in matrix.studies}
    windows: dict[str, float] = {}
    for twin in (twin for twins in found.values() for twin in twins):
        windows[twin.id] = max(twin.window_s, windows.get(twin.id, 0.0))
    return {study: tuple(replace(twin, window_s=windows[twin.id]) for twin in twins) for study, twins in found.items()}


class _Partial(msgspec.Struct):
    code: str


class _Outcome(msgspec.Struct):
    outcome: str
    partial: _Partial | None = None


_BROKEN_OFF: Final = "interrupted"
"""What a twin is, and what its reason is called, whose job was told to end."""


def due_twins(twins: Iterable[Twin], layout: Layout, retry_failed: bool) -> set[str]:
    """Ids of the twins that are still to be run.

    For every other one this sees that its record is there, with the time of twin.json, as `incomplete_jobs` does for jobs.
    """
    due = set()
    for twin in twins:
        kept, record = twin.folder(layout) / TWIN_FILE, twin.record(layout)
        outcome = outcome_of(twin, layout)
        if outcome is None or (outcome == "failed" and retry_failed):
            record.unlink(missing_ok=True)
            due.add(twin.id)
        elif not record.is_file() or record.read_bytes() != kept.read_bytes():
            write_bytes(record, kept.read_bytes())
            shutil.copystat(kept, record)
    return due


def jobs_before(twin: Twin, jobs: Iterable[Job], layout: Layout, retry_failed: bool) -> list[Job]:
    """Those of `jobs` that the twin waits for: which measure its cell, and none where that has a record.

    A job that measures several cells and fails for another's sake costs the twin nothing then: the next run has it. It need not come after the
    rest of that job, as what it compiles is in the record of the next start (`compile_caches`).
    """
    if not missing_phases(twin.job, measured(layout, twin.job), retry_failed):
        return []
    return [job for job in jobs if (job.server.id, job.replicate) == (twin.cell.server.id, twin.replicate)]


def outcome_of(twin: Twin, layout: Layout) -> str | None:
    """How the twin went, as its record says: `failed` also of one that recorded a part because its server died.

    None where there is none that can be read, and where its job was told to end: the part that there is stays until a whole one is there.
    """
    try:
        told = msgspec.json.decode((twin.folder(layout) / TWIN_FILE).read_bytes(), type=_Outcome)
    except (OSError, msgspec.MsgspecError):
        return None
    if told.outcome == _BROKEN_OFF or (told.partial is not None and told.partial.code == _BROKEN_OFF):
        return None
    return told.outcome if told.partial is None else "failed"


def write_twin_specifications(twins: Iterable[Twin], configuration: Configuration, layout: Layout, local: bool) -> None:
    """Write what each of `twins` is told, and what its workload is. Raises ConfigError where a profiler's program is not there, or
    config/kernel_classes.yaml is wrong."""
    classes = kernel_class_rules(configuration.root)
    for twin in twins:
        specification = TwinSpecification(
            twin=twin.id,
            tool=twin.tool,
            window_s=twin.window_s,
            program=None if twin.tool == "torch" else profiler_program(twin.tool, configuration, local),
            kernels=twin.kernels,
            launches=twin.launches,
            libraries=configuration.settings.nsys_libraries if twin.tool == "nsys" else None,
            kernel_classes=classes,
            job=job_specification(twin.job, configuration, layout),
        )
        path = layout.twin_specification(twin.cell.server.id, twin.cell.phase.id, twin.id)
        write_if_changed(path, specification.model_dump(mode="json"))
        workload = twin.cell.phase.workload
        record = {"id": workload.id, "model": workload.model, "identity": workload.identity}
        write_if_changed(layout.workload_record(workload.id), record)


def profiler_missing(twin: Twin, configuration: Configuration, local: bool) -> str | None:
    """What is missing of the twin's profiler, and the remedy; None where it is there."""
    if twin.tool == "torch":
        return None
    try:
        profiler_program(twin.tool, configuration, local)
    except ConfigError as error:
        return str(error)
    return None


def profiler_program(tool: Tool, configuration: Configuration, local: bool) -> str:
    """Path of a profiler's program, as it is named or found on PATH. Raises ConfigError.

    A path that is named need not be on this machine where jobs run on others.
    """
    named = configuration.settings.nsys if tool == "nsys" else configuration.settings.ncu
    if named is None:
        found = shutil.which(tool)
        if found is None:
            raise ConfigError(MISSING[tool].format(what=f"there is no `{tool}` on PATH"))
        return found
    path = Path(named).expanduser()
    if local and not path.is_file():
        raise ConfigError(MISSING[tool].format(what=f"`{tool}: {named}` names no file"))
    return str(path)


def twin_minutes(twin: Twin, configuration: Configuration) -> int:
    """The wall time that a twin is given at first."""
    engine = configuration.engines[twin.cell.server.engine]
    counting_s = twin.launches * NCU_LAUNCH_S
    return math.ceil((walltime_s(twin.job, configuration) + engine.start_timeout + TWIN_OVERHEAD_S + counting_s) / 60)


def all_twins(by_study: Mapping[str, Iterable[Twin]]) -> dict[str, Twin]:
    """Id → twin, of all studies."""
    return {twin.id: twin for twins in by_study.values() for twin in twins}
