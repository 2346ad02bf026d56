"""Which servers are asked what: from a matrix to the jobs of the rule `accuracy`, and which of them are still to be done."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from leverlab.config import ConfigError, Configuration
from leverlab.config.accuracy import Accuracy
from leverlab.config.model import SyntheticSource
from leverlab.environments import ENVIRONMENTS, identity_versions
from leverlab.identity import canonical, content_hash, make_id
from leverlab.layout import Layout
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import Job, Matrix, StudyMatrix
from leverlab.matrix.jobs import job_specification, write_if_changed
from leverlab.matrix.servers import Server, has_dummy_weights
from leverlab.records import AccuracyJobRecord, AccuracyRecord, AccuracySpecification, read_json

ACCURACY_VERSION: Final = 1
"""Raised by hand when the way of asking changes: every run then gets a new id."""

RECORD_FILE: Final = "accuracy.json"
LM_EVAL: Final = "lm-eval"
"""The package, its lock envs/lm-eval.txt, and its environment .envs/lm-eval."""

_OVERHEAD_S: Final = 600
_QUESTIONS_UNKNOWN: Final = 2000
"""Questions that a task is taken to have where the study sets no limit: more than GSM8K's 1,319."""

_NO_IDENTITY: Final = ("task", "data", "timeout", "random_weights")

Weights = Literal["real", "random", "simulated"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a study asks. `identity` is the whole of it, with the hash of each file of local data; `files` are these by split."""

    id: str
    identity: Mapping[str, Any]
    files: Mapping[str, Path]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class AccuracyJob:
    """One server, started once and asked one task: a twin of the measuring jobs, and never part of one."""

    server: Server
    replicate: ReplicateKey
    task: Task

    @property
    def hash(self) -> str:
        """Identifies the server, the replicate and what is asked: the name of the job's record."""
        return content_hash([self.server.id, str(self.replicate), self.task.id])


def build_task(accuracy: Accuracy, root: Path) -> Task:
    """What `accuracy` asks, below the repository `root`. Raises ConfigError where its data or the lock cannot be read."""
    lock = root / "envs" / f"{LM_EVAL}.txt"
    try:
        version = identity_versions(lock, [LM_EVAL])[LM_EVAL]
    except (OSError, KeyError):
        raise ConfigError(
            f"envs/{LM_EVAL}.txt: there is no such lock, or it does not pin {LM_EVAL}: `make lock`"
        ) from None
    files: dict[str, Path] = {}
    if accuracy.data is not None:
        files = {path.stem: path for path in sorted((root / Path(accuracy.data).expanduser()).glob("*.jsonl"))}
    identity = canonical(
        {
            "accuracy_version": ACCURACY_VERSION,
            "lm_eval": version,
            "task": accuracy.task,
            **accuracy.identity(*_NO_IDENTITY),
            # Where a machine keeps the files is no part of it; what they hold is.
            **({"data": {split: _sha256(path) for split, path in files.items()}} if files else {}),
        }
    )
    parts = [accuracy.task, *([f"{accuracy.limit}"] if accuracy.limit else [])]
    return Task(make_id(parts, identity, 60), identity, files, accuracy.timeout)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_of(server: Server, configuration: Configuration) -> Weights:
    """Whether the server's answers can mean anything: `simulated` of a stand-in, `random` of dummy weights."""
    if configuration.engines[server.engine].kind == "truth":
        return "simulated"
    synthetic = isinstance(configuration.models[server.model].source, SyntheticSource)
    return "random" if has_dummy_weights(server.identity["flags"]) or synthetic else "real"


def study_jobs(matrix: StudyMatrix, configuration: Configuration) -> tuple[AccuracyJob, ...]:
    """The jobs of a study, one for each of its servers; the baseline's copy is asked too, on a start of its own.

    Nothing is asked of random weights unless the study says so.
    """
    asked = matrix.study.accuracy
    if asked is None:
        return ()
    task = build_task(asked, configuration.root)
    found: dict[tuple[str, int], AccuracyJob] = {}
    for entry in matrix.cells:
        server = entry.cell.server
        if asked.random_weights or weights_of(server, configuration) != "random":
            key = ReplicateKey(1, entry.treatment.copy)
            found.setdefault((server.id, key.copy), AccuracyJob(server, key, task))
    return tuple(found.values())


def jobs_by_study(matrix: Matrix) -> dict[str, tuple[AccuracyJob, ...]]:
    """Study → its jobs; studies that ask the same of the same server share the job."""
    return {study.name: study_jobs(study, matrix.configuration) for study in matrix.studies}


def all_jobs(by_study: Mapping[str, Sequence[AccuracyJob]]) -> dict[str, AccuracyJob]:
    """Hash → job, each once."""
    return {job.hash: job for jobs in by_study.values() for job in jobs}


def run_folder(job: AccuracyJob, layout: Layout) -> Path:
    """Where the finished run of `job` is."""
    return layout.accuracy_run(job.server.id, str(job.replicate), job.task.id)


def read_run(folder: Path) -> AccuracyRecord | None:
    """The record of the run kept in `folder`; None where there is none, or none that can be read."""
    try:
        return AccuracyRecord.model_validate(read_json(folder / RECORD_FILE))
    except (OSError, ValueError):
        return None


def incomplete_jobs(jobs: Iterable[AccuracyJob], layout: Layout, *, retry_failed: bool) -> list[AccuracyJob]:
    """The jobs that have no run yet, as `leverlab.matrix.jobs.incomplete_jobs` does it for cells.

    The record of every other job is seen to be there, as a plain file; that of an incomplete one is removed.
    """
    incomplete = []
    for job in jobs:
        run, path = read_run(run_folder(job, layout)), layout.accuracy_job(job.server.id, job.hash)
        if run is None or (run.status == "failed" and retry_failed):
            if path.exists():
                path.unlink(missing_ok=True)
            incomplete.append(job)
        elif write_if_changed(path, job_record(run).model_dump(mode="json")):
            time_ns = (run_folder(job, layout) / RECORD_FILE).stat().st_mtime_ns
            os.utime(path, ns=(time_ns, time_ns))
    return incomplete


def job_record(run: AccuracyRecord) -> AccuracyJobRecord:
    """The declared output of the job whose run this is."""
    return AccuracyJobRecord(server=run.server, replicate=run.replicate, task_id=run.task_id, status=run.status)


def write_specifications(jobs: Iterable[AccuracyJob], configuration: Configuration, layout: Layout) -> None:
    """Write what each of `jobs` is told, where that is not there yet."""
    for job in jobs:
        path = layout.accuracy_specification(job.server.id, job.hash)
        write_if_changed(path, specification(job, configuration, layout).model_dump(mode="json"))


def specification(job: AccuracyJob, configuration: Configuration, layout: Layout) -> AccuracySpecification:
    """All that the job needs to know."""
    return AccuracySpecification(
        job=job_specification(Job(job.server, job.replicate, ()), configuration, layout),
        task_id=job.task.id,
        task=dict(job.task.identity),
        data_files={split: str(path) for split, path in job.task.files.items()},
        timeout_s=job.task.timeout_s,
        lm_eval_prefix=[configuration.settings.lm_eval_python or str(ENVIRONMENTS / LM_EVAL / "bin" / "python")],
    )


def walltime_s(job: AccuracyJob, configuration: Configuration) -> int:
    """How long the job is given: the server's start, and the questions, each at a tenth of the time that it is waited for."""
    limit = int(job.task.identity.get("limit", _QUESTIONS_UNKNOWN))
    streams = int(job.task.identity.get("concurrency", Accuracy.model_fields["concurrency"].default))
    engine = configuration.engines[job.server.engine]
    return round(
        engine.start_timeout + _OVERHEAD_S + -(-limit // streams) * job.task.timeout_s / 10 + job.task.timeout_s
    )
