"""What Slurm knows of this project's jobs: which one this process is in, and which of an earlier run still live.

Snakemake forgets its jobs when it is killed; Slurm goes on running them. A restarted Snakemake would submit them again,
and two servers would write into one folder. Slurm's own list is the only record that survives, so it is asked.

Works without Slurm: there is then no job, and nothing to wait for.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from leverlab.layout import Layout

Rule = Literal["measure", "profile", "accuracy"]
"""The rules whose jobs start a server."""

Target = tuple[Rule, str]
"""What two jobs must not do at once: a rule, and `<server>_<replicate>` of a measurement, whose jobs share a folder; otherwise the name
of the one record that the job makes."""

#: How the Slurm plugin of Snakemake labels a job, by the wildcards of its output in their order (its job name is one id for all
#: jobs of a run).
COMMENT = re.compile(r"rule_(?P<rule>measure|profile|accuracy)_wildcards_(?P<where>.+)_(?P<record>[^_]+)")
#: What the commands say where they are installed but belong to no cluster.
NO_CLUSTER = "configuration source"
#: What squeue says of a job that ended so long ago that Slurm has forgotten it.
FORGOTTEN = "Invalid job id"
ASK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """The job that this process runs in, as its environment describes it."""

    id: str
    cluster: str | None
    node: str | None
    partition: str | None
    cpus: int | None
    #: Indices of its GPUs on that node, as Slurm counts them.
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job with a server that Slurm still holds: pending, running, or on its way out."""

    id: str
    state: str
    target: Target


class SlurmUnreachableError(Exception):
    """Slurm is there and does not answer. Its text is what the command said."""


def current_job() -> SlurmJob | None:
    """The Slurm job this process is part of; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    cpus = os.environ.get("SLURM_CPUS_ON_NODE")
    gpus = os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS") or ""
    return SlurmJob(
        id=job,
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
        node=os.environ.get("SLURMD_NODENAME"),
        partition=os.environ.get("SLURM_JOB_PARTITION"),
        cpus=int(cpus) if cpus else None,
        gpus=tuple(int(index) for index in gpus.split(",") if index.isdigit()),
    )


def job_is_alive(job: str) -> bool | None:
    """Whether a Slurm job is pending, running or on its way out; None if Slurm cannot be asked (take it for alive)."""
    try:
        lines = _squeue("--jobs", job, "--format=%T")
    except SlurmUnreachableError as error:
        return False if FORGOTTEN in str(error) else None
    return None if lines is None else bool(lines)


def queued_jobs(layout: Layout) -> list[QueuedJob]:
    """The living jobs of this user that start a server for this results folder; none without Slurm.

    Raises SlurmUnreachableError.
    """
    queued = []
    for line in _squeue("--me", "--format=%i|%T|%Z|%k") or []:
        job, state, folder, comment = line.split("|", maxsplit=3)
        label = COMMENT.fullmatch(comment.strip())
        if label and Layout(Path(folder)).results.resolve() == layout.results.resolve():
            rule = cast(Rule, label["rule"])
            queued.append(QueuedJob(job, state, (rule, label["where" if rule == "measure" else "record"])))
    return queued


def wait_for_previous_jobs(
    targets: Collection[Target],
    layout: Layout,
    log: Callable[[str], None] = print,
    poll_s: float = 10.0,
) -> None:
    """Return once no job that an earlier run left in Slurm works at one of `targets`.

    While Slurm does not answer nothing is known, and nothing could be submitted either: it is asked again.
    """
    told: str | None = None
    while True:
        try:
            living = [job for job in queued_jobs(layout) if job.target in targets]
        except SlurmUnreachableError as error:
            message = f"Slurm does not say whether jobs of an earlier run still live ({error}); asking again."
        else:
            if not living:
                return
            jobs = ", ".join(f"{job.id} ({job.state.lower()})" for job in living)
            message = (
                f"Waiting for {len(living)} jobs that an earlier run of Snakemake left in Slurm: {jobs}. What they finish "
                f"is kept; to do without them: scancel {' '.join(job.id for job in living)}"
            )
        if message != told:
            log(message)
            told = message
        time.sleep(poll_s)


def _squeue(*options: str) -> list[str] | None:
    """Lines of squeue, which by default lists what has not ended; None without Slurm or outside of any cluster."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", *options]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise SlurmUnreachableError(f"squeue took more than {ASK_TIMEOUT_S:g} s") from None
    if answer.returncode == 0:
        return answer.stdout.splitlines()
    if NO_CLUSTER in answer.stderr:
        return None
    raise SlurmUnreachableError(answer.stderr.strip() or f"squeue exited with {answer.returncode}")
