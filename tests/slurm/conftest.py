"""The one-box Slurm, a checkout that runs on it, and two eyes: what Slurm says and what really ran."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slurm.one_box import KILL_WAIT_S, OneBoxSlurm, output_of, wait_until, why_not_here
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

#: One server, one replicate, a cell of about 6 s, one of 12 s, and a burst, so that there is time to interfere.
STUDY = """\
title: On a cluster
question: What survives?
engines: [truth-gpu]
models: [tiny-llama]
gpus: ["a100:2"]
workload: {kind: shared-prefix, requests: 24, groups: 2, prefix_tokens: 64, suffix_tokens: 16, output_tokens: 8}
load: {rates: [2, 4, inf]}
levers: {prefix_caching: [on]}
baseline: {prefix_caching: on}
primary: {prefix_caching: ttft_s p50 at rate 2}
replicates: 1
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[OneBoxSlurm]:
    """A running cluster; skips with the reason where there can be none."""
    if reason := why_not_here():
        pytest.skip(reason)
    with OneBoxSlurm() as cluster:
        yield cluster


@dataclass(frozen=True)
class QueueEntry:
    """A job as Slurm lists it, living or ended within the last minutes."""

    id: str
    state: str
    node: str
    comment: str


@dataclass(frozen=True)
class Sighting:
    """A measuring process that was there, and what it had been given."""

    job: str
    node: str
    gpus: tuple[int, ...]
    server: str


class Watch:
    """Looks at the machine's processes several times a second, for what no record of the project could hide."""

    def __init__(self) -> None:
        #: One entry a look: the measuring processes alive at that instant.
        self.looks: list[frozenset[Sighting]] = []
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

    def now(self) -> frozenset[Sighting]:
        return self.looks[-1] if self.looks else frozenset()

    def crowded_servers(self) -> set[str]:
        """Servers that two jobs measured at the same time."""
        return {
            one.server
            for look in self.looks
            for one in look
            for two in look
            if one.server == two.server and one.job != two.job
        }

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
            self.looks.append(frozenset(filter(None, map(_sighting, Path("/proc").glob("[0-9]*")))))


def _sighting(process: Path) -> Sighting | None:
    try:
        command = (process / "cmdline").read_bytes().decode().split("\0")
        if "scripts/measure.py" not in command[:3]:
            return None
        variables = (process / "environ").read_bytes().decode().split("\0")
    except OSError:
        return None
    given = dict(variable.partition("=")[::2] for variable in variables)
    if "SLURM_JOB_ID" not in given:
        return None
    output = Path(command[command.index("--output") + 1])
    gpus = tuple(int(number) for number in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if number)
    return Sighting(given["SLURM_JOB_ID"], given["SLURMD_NODENAME"], gpus, "/".join(output.parts[-4:-2]))


class Run:
    """A Snakemake in the background, as a user would have started it."""

    def __init__(self, checkout: Checkout, study: str, *arguments: str) -> None:
        self.log = checkout.root / f"snakemake-{time.monotonic_ns()}.log"
        # A short first look at the jobs is all that a test changes in the profile.
        quick = ("--slurm-init-seconds-before-status-checks", "2")
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--profile",
            "slurm",
            *quick,
            *arguments,
            "--config",
            f"study={study}",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=checkout.root,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
                start_new_session=True,
            )

    def finish(self, timeout_s: float = 180) -> int:
        """Wait for its end; its exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"Snakemake took more than {timeout_s} s\n{self.text()[-6000:]}") from None

    def succeed(self, timeout_s: float = 180) -> None:
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
        return Run(self.checkout, study, *arguments)

    def jobs(self) -> list[QueueEntry]:
        """This checkout's measuring jobs, in the order in which they were submitted."""
        lines = output_of("squeue", "--noheader", "--states=all", "--format=%i|%T|%N|%Z|%k").splitlines()
        fields = [line.split("|", maxsplit=4) for line in lines]
        jobs = [
            QueueEntry(job, state, node, comment)
            for job, state, node, folder, comment in fields
            if Path(folder) == self.checkout.root and comment.startswith("rule_measure_")
        ]
        return sorted(jobs, key=lambda job: int(job.id))

    def running(self) -> list[QueueEntry]:
        return [job for job in self.jobs() if job.state == "RUNNING"]

    def cancel_all(self) -> None:
        """Cancel this checkout's jobs and wait until they are gone."""
        ended = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}
        living = [job.id for job in self.jobs() if job.state not in ended]
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

    def wait_for_cells(self, count: int, timeout_s: float = 90) -> None:
        wait_until(lambda: len(self.cell_files()) >= count, f"{count} finished cells", timeout_s)

    def wait_for_a_measuring_process(self, watch: Watch, timeout_s: float = 60) -> None:
        wait_until(lambda: bool(watch.now()), "a measuring process", timeout_s)


@pytest.fixture
def cluster(slurm: OneBoxSlurm, tmp_path: Path) -> Iterator[Cluster]:
    """A fresh checkout with the study `cluster`; its jobs are cancelled at the end, whatever happened."""
    made = make_cluster(slurm, tmp_path / "leverlab")
    yield made
    made.cancel_all()


def make_cluster(slurm: OneBoxSlurm, folder: Path) -> Cluster:
    checkout = copy_repository(folder)
    checkout.write_study("cluster", STUDY)
    engines = checkout.root / "config" / "engines.yaml"
    engines.write_text(engines.read_text() + TRUTH_ON_A_GPU)
    return Cluster(checkout, slurm)
