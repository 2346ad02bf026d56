"""A folder with config/ alone, in which the scripts run one after another as the rules start them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas

from leverlab.config import load
from leverlab.layout import Layout
from leverlab.matrix.expand import expand
from leverlab.matrix.jobs import write_specifications
from leverlab.matrix.twins import all_twins, twins_by_study, write_twin_specifications

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Checkout:
    """`root` has a copy of config/, and links to what must not be copied."""

    root: Path

    @classmethod
    def make(cls, root: Path, study: str, text: str) -> "Checkout":
        shutil.copytree(REPOSITORY / "config", root / "config")
        (root / "config" / "studies" / f"{study}.yaml").write_text(text)
        (root / "tmp").mkdir()
        for name in ("envs", ".envs"):
            if (REPOSITORY / name).is_dir():
                (root / name).symlink_to(REPOSITORY / name)
        return cls(root)

    def run(self, script: str, *arguments: str, code: int = 0, timeout_s: float = 120) -> str:
        """What the script said. A folder for locks of its own: other tests hold the same cores."""
        given = {**os.environ, "TMPDIR": str(self.root / "tmp")}
        command = [sys.executable, str(REPOSITORY / "scripts" / script), *arguments]
        done = subprocess.run(
            command, cwd=self.root, env=given, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def measure(self, study: str, timeout_s: float = 120) -> None:
        """Make the models, draw the workloads, run every job of `study`, and make its tables."""
        before = Path.cwd()
        os.chdir(self.root)
        try:
            configuration = load(Path(), {"study": study})
            matrix = expand(configuration, [study])
            write_specifications(matrix.jobs, configuration, Layout())
        finally:
            os.chdir(before)
        layout = Layout()
        for model in {server.model for server in matrix.servers.values()}:
            self.run("prepare_model.py", "--model", model, "--output", str(layout.model(model) / "model.json"))
        for job in matrix.jobs:
            replicate = str(job.replicate)
            for workload in job.workloads:
                self.run("draw_workload.py", "--workload", workload.id, "--replicate", replicate)
            spec = layout.job_specification(job.server.id, replicate, job.hash)
            output = layout.job_record(job.server.id, replicate, job.hash)
            self.run("measure.py", "--spec", str(spec), "--output", str(output), timeout_s=timeout_s)
        self.run("aggregate.py", "--study", study)

    def profile(self, study: str, timeout_s: float = 120) -> list[Path]:
        """Run every twin of `study`, whose model is there; their folders."""
        before = Path.cwd()
        os.chdir(self.root)
        try:
            configuration = load(Path(), {"study": study})
            twins = list(all_twins(twins_by_study(expand(configuration, [study]))).values())
            write_twin_specifications(twins, configuration, Layout(), local=True)
        finally:
            os.chdir(before)
        layout = Layout()
        for twin in twins:
            workload, server, phase = twin.cell.phase.workload.id, twin.cell.server.id, twin.cell.phase.id
            self.run("draw_workload.py", "--workload", workload, "--replicate", str(twin.replicate))
            spec, output = layout.twin_specification(server, phase, twin.id), twin.record(layout)
            self.run("profile_cell.py", "--spec", str(spec), "--output", str(output), timeout_s=timeout_s)
        return [self.root / twin.folder(layout) for twin in twins]

    def cells(self, study: str) -> pandas.DataFrame:
        """The study's cells.parquet."""
        return pandas.read_parquet(self.root / "results" / "studies" / study / "cells.parquet")
