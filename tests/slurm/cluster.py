"""A checkout that runs on the one-box Slurm, and two eyes: what Slurm says and what really ran."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.one_box import KILL_WAIT_S, OneBoxSlurm, output_of, wait_until
from tests.workflow.conftest import Checkout, clean_environment, copy_repository

#: The truth engine as if it computed on a GPU: Slurm's stand-ins are counted and handed out, and nobody touches them.
TRUTH_ON_A_GPU = """
truth-gpu:
  kind: truth
  device: cuda
  launch: {kind: pipeline}
  versions: {truth: "1"}
  flags: {enable-prefix-caching: true}
  start_timeout: 60 s
  typical_start: 1 s
"""

#: One server, one replicate, cells of 12, 6 and 5 s in a drawn order: there is time to interfere.
STUDY = """\
title: On a cluster
question: What survives?
engines: [truth-gpu]
models: [tiny-llama]
gpus: ["a100:1"]
workload: {kind: shared-prefix, requests: 24, groups: 2, prefix_tokens: 64, suffix_tokens: 16, output_tokens: 8}
load: {rates: [2, 4, 5]}
levers: {prefix_caching: [on]}
baseline: {prefix_caching: on}
primary: {prefix_caching: ttft_s p50 at rate 2}
replicates: 1
"""


@dataclass(frozen=True)
class QueueEntry:
    """A job as Slurm lists it, living or ended within the last minutes."""

    id: str
    state: str
    node: str
    comment: str


@dataclass(frozen=True)
class Sighting:
    """A measuring process that was there, and what it had been given; without job and node outside of Slurm."""

    job: str
    node: str
    gpus: tuple[int, ...]
    cpus: int
    server: str


class Watch:
    """Looks at the machine's processes several times a second, for what no record of the project could hide."""

    def __init__(self, cluster: "Cluster") -> None:
        self._root = cluster.checkout.root
        #: One entry a look: the measuring processes alive at that instant.
        self.looks: list[frozenset[Sighting]] = []
        #: The same for jobs that had a server.
        self.serving: list[frozenset[str]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def seen(self) -> set[Sighting]:
        return set().union(*self.looks)

    def crowded_servers(self) -> set[str]:
        """Servers of which two jobs had one at the same time."""
        return {
            one.server
            for look, serving in zip(self.looks, self.serving, strict=True)
            for one in look
            for two in look
            if one.server == two.server and one.job != two.job and {one.job, two.job} <= serving
        }

    def took_turns(self) -> bool:
        """Whether one job waited while another had the server that both were to measure."""
        return any(
            one.server == two.server and one.job in serving and two.job not in serving
            for look, serving in zip(self.looks, self.serving, strict=True)
            for one in look
            for two in look
        )

    def shared_gpus(self) -> set[tuple[str, int]]:
        """GPUs that two jobs had at the same time."""
        return {
            (one.node, gpu)
            for look in self.looks
            for one in look
            for two in look
            if one.job != two.job and one.node == two.node
            for gpu in set(one.gpus) & set(two.gpus)
        }

    def _watch(self) -> None:
        while not self._stop.wait(0.15):
            looked = [_look(process, self._root) for process in Path("/proc").glob("[0-9]*")]
            self.looks.append(frozenset(seen for seen in looked if isinstance(seen, Sighting)))
            self.serving.append(frozenset(seen for seen in looked if isinstance(seen, str)))


def _look(process: Path, root: Path) -> Sighting | str | None:
    """What `process` is if it works in the folder `root`: a measurement, or the server of the job that is returned."""
    try:
        command = (process / "cmdline").read_bytes().decode().split("\0")
        measures, serves = "scripts/measure.py" in command[:3], command[1:3] == ["-m", "leverlab.truth"]
        if not (measures or serves) or (process / "cwd").readlink() != root:
            return None
        variables = (process / "environ").read_bytes().decode().split("\0")
    except OSError:
        return None
    given = dict(variable.partition("=")[::2] for variable in variables)
    job = given.get("SLURM_JOB_ID", "")
    if serves:
        return job
    output = Path(command[command.index("--output") + 1])
    gpus = tuple(int(number) for number in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if number)
    cpus, server = int(given.get("SLURM_CPUS_PER_TASK", "0")), "/".join(output.parts[-4:-2])
    return Sighting(job, given.get("SLURMD_NODENAME", ""), gpus, cpus, server)


#: A short first look at the jobs is all that a test changes in the profile.
ON_THE_CLUSTER = ("--profile", "slurm", "--slurm-init-seconds-before-status-checks", "2")


class Run:
    """A Snakemake in the background, as a user would have started it."""

    def __init__(self, checkout: Checkout, study: str, *arguments: str) -> None:
        self.log = checkout.root / f"snakemake-{time.monotonic_ns()}.log"
        # Leases of cores lie in the folder for temporary files, and other tests' runs on this machine have theirs.
        temporary = checkout.root.parent / "tmp"
        temporary.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *arguments, "--config", f"study={study}"],
                cwd=checkout.root,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), "TMPDIR": str(temporary)},
                start_new_session=True,
            )

    def finish(self, timeout_s: float = 300) -> int:
        """Wait for its end; its exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"Snakemake took more than {timeout_s} s\n{self.text()[-6000:]}") from None

    def succeed(self, timeout_s: float = 300) -> None:
        status = self.finish(timeout_s)
        assert status == 0, self.text()[-8000:]

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text()


class Cluster:
    """A checkout on the one-box Slurm, and what a test wants to know of both."""

    def __init__(self, checkout: Checkout, slurm: OneBoxSlurm) -> None:
        self.checkout = checkout
        self.slurm = slurm

    def start(self, *arguments: str, study: str = "cluster") -> Run:
        """A Snakemake that hands its jobs to Slurm."""
        return Run(self.checkout, study, *ON_THE_CLUSTER, *arguments)

    def start_here(self, *arguments: str, study: str = "cluster") -> Run:
        """A Snakemake that measures where it runs."""
        return Run(self.checkout, study, "--cores", "2", *arguments)

    def jobs(self, rule: str = "measure") -> list[QueueEntry]:
        """This checkout's jobs of a rule, in the order in which they were submitted."""
        lines = output_of("squeue", "--noheader", "--states=all", "--format=%i|%T|%N|%Z|%k").splitlines()
        fields = [line.split("|", maxsplit=4) for line in lines]
        jobs = [
            QueueEntry(job, state, node, comment)
            for job, state, node, folder, comment in fields
            if Path(folder) == self.checkout.root and comment.startswith(f"rule_{rule}_")
        ]
        return sorted(jobs, key=lambda job: int(job.id))

    def running(self) -> list[QueueEntry]:
        return [job for job in self.jobs() if job.state == "RUNNING"]

    def cancel_all(self) -> None:
        """Cancel this checkout's jobs and wait until they are gone."""
        ended = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}
        living = [job.id for rule in ("measure", "reproduce") for job in self.jobs(rule) if job.state not in ended]
        if living:
            output_of("scancel", "--quiet", *living)
            wait_until(
                lambda: all(job.state in ended for job in self.jobs()), "cancelled jobs to end", KILL_WAIT_S + 20
            )

    def cell_files(self) -> dict[Path, int]:
        """Every finished cell and when its record was written."""
        found = (self.checkout.root / "results" / "servers").glob("*/*/cells/*/cell.json")
        return {path: path.stat().st_mtime_ns for path in found}

    def trials_of_cells(self) -> list[int]:
        """Number of the trial that measured each cell."""
        return sorted(int(str(cell["trial"])) for cell in self.checkout.cells().values())

    def outcomes(self) -> list[str]:
        """How each trial ended, in the order of their numbers."""
        trials = sorted(
            (self.checkout.root / "results" / "servers").glob("*/*/trials/*"), key=lambda path: int(path.name)
        )
        return [json.loads((trial / "trial.json").read_text())["outcome"] for trial in trials]

    def wait_for_cells(self, count: int, timeout_s: float = 180) -> None:
        wait_until(lambda: len(self.cell_files()) >= count, f"{count} finished cells", timeout_s)


def make_cluster(slurm: OneBoxSlurm, folder: Path) -> Cluster:
    checkout = copy_repository(folder)
    checkout.write_study("cluster", STUDY)
    engines = checkout.root / "config" / "engines.yaml"
    engines.write_text(engines.read_text() + TRUTH_ON_A_GPU)
    return Cluster(checkout, slurm)
