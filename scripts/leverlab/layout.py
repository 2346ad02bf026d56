"""Where everything is under results/ and reports/: the one place that knows the tree (results/README.md describes it)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

REQUESTS_FILE: Final = "requests.jsonl"
CARD_FILE: Final = "card.json"
CELL_FILE: Final = "cell.json"
TWIN_FILE: Final = "twin.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the working folder `root` (the repository, unless a test says otherwise)."""

    root: Path = Path()

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def workload(self, workload: str, replicate: str) -> Path:
        """Folder of a drawn workload: requests.jsonl and card.json."""
        return self.results / "workloads" / workload / replicate

    def workload_record(self, workload: str) -> Path:
        """What is drawn for every replicate: id, identity, model."""
        return self.results / "workloads" / workload / "workload.json"

    def model(self, model: str) -> Path:
        return self.results / "models" / model

    def server(self, server: str) -> Path:
        """Folder of a server, with its identity in server.json."""
        return self.results / "servers" / server

    def replicate(self, server: str, replicate: str) -> Path:
        return self.server(server) / replicate

    def job_record(self, server: str, replicate: str, job: str) -> Path:
        """The only output that a measuring job declares; rebuilt from the cells below it."""
        return self.replicate(server, replicate) / "jobs" / f"{job}.json"

    def job_specification(self, server: str, replicate: str, job: str) -> Path:
        """What the job is to measure, written before it is submitted."""
        return self.replicate(server, replicate) / "jobs" / f"{job}.spec.json"

    def trial(self, server: str, replicate: str, number: int) -> Path:
        return self.replicate(server, replicate) / "trials" / str(number)

    def server_record(self, server: str) -> Path:
        """The server's identity, written before its first job."""
        return self.server(server) / "server.json"

    def cell(self, server: str, replicate: str, phase: str) -> Path:
        return self.replicate(server, replicate) / "cells" / phase

    def lease(self, server: str, replicate: str) -> Path:
        """Names the process or Slurm job that measures this server now."""
        return self.replicate(server, replicate) / "lease.json"

    def profile(self, server: str, phase: str, tool: str) -> Path:
        """Folder of a twin: what the profiler wrote, its tables, and twin.json."""
        return self.results / "profiles" / server / phase / tool

    def twin_record(self, server: str, phase: str, twin: str) -> Path:
        """The only output that a twin's job declares; rebuilt from twin.json."""
        return self.results / "profiles" / server / phase / f"{twin}.json"

    def twin_specification(self, server: str, phase: str, twin: str) -> Path:
        """What the twin's job is told, written before it is submitted."""
        return self.results / "profiles" / server / phase / f"{twin}.spec.json"

    def accuracy(self, server: str, replicate: str = "") -> Path:
        """Folder of what a server's answers were worth; of one of its replicates where one is named."""
        return self.results / "accuracy" / server / replicate

    def accuracy_job(self, server: str, job: str) -> Path:
        """The only output that a job of the rule `accuracy` declares; rebuilt from the run below it."""
        return self.accuracy(server) / "jobs" / f"{job}.json"

    def accuracy_specification(self, server: str, job: str) -> Path:
        """What that job is told, written before it is submitted."""
        return self.accuracy(server) / "jobs" / f"{job}.spec.json"

    def accuracy_run(self, server: str, replicate: str, task: str) -> Path:
        """Folder of a finished run: record, results, samples, answers, logs."""
        return self.accuracy(server, replicate) / "runs" / task

    def study(self, study: str) -> Path:
        return self.results / "studies" / study

    def full_size_flags(self, study: str) -> Path:
        """What the real engines' parsers said to the flags of the study behind a simulated smoke size."""
        return self.results / "flags" / "full-size" / f"{study}.json"

    def reproduction(self, cell: str, number: int) -> Path:
        return self.results / "reproductions" / cell / str(number)

    def reference(self, name: str) -> Path:
        """Folder of a reference: measured studies that the repository keeps."""
        return self.reports / "reference" / name

    def report(self, study: str) -> Path:
        return self.reports / f"{study}.html"
