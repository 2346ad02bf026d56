"""A working copy of the repository in which the whole workflow runs on the truth engine, in seconds."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

USER_TOKEN = "hf_QQexampleTokenOfTheUser0123456789"
"""Every run is one of a user who has a token in the environment."""

SMALL_STUDY = """\
title: Small
question: What do prefix caching and the batch limit do to an engine whose times are declared?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 8, groups: 2, prefix_tokens: 128, suffix_tokens: 16, output_tokens: 8}
load: {rates: [20, inf]}
levers:
  prefix_caching: [on, off]
  max_num_seqs: [64, 2]
baseline: {prefix_caching: on, max_num_seqs: 64}
primary: {prefix_caching: ttft_s p50 at rate 20, max_num_seqs: throughput at burst}
replicates: 2
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository's files."""

    root: Path

    def write_study(self, name: str, text: str) -> None:
        (self.root / "config" / "studies" / f"{name}.yaml").write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.root / path
        text = file.read_text()
        assert old in text, f"{path} does not hold {old!r}"
        file.write_text(text.replace(old, new))

    def command(self, *arguments: str, study: str = "small", settings: Sequence[str] = ()) -> list[str]:
        return [sys.executable, "-m", "snakemake", *arguments, "--config", f"study={study}", *settings]

    def snakemake(
        self,
        *arguments: str,
        study: str = "small",
        settings: Sequence[str] = (),
        check: bool = True,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, study=study, settings=settings)
        done = subprocess.run(
            command,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=clean_environment(),
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(command)} exited with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
            )
        return done

    def planned(self, *arguments: str, study: str = "small", settings: Sequence[str] = ()) -> dict[str, int]:
        """Jobs per rule that a dry run would start."""
        dry = ("--dry-run", "--cores", "2", "--quiet", "rules")
        done = self.snakemake(*dry, *arguments, study=study, settings=settings)
        counts = re.findall(r"^(\w+)\s+(\d+)\s*$", done.stdout + done.stderr, flags=re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule not in ("total", "all")}

    def cells(self) -> dict[str, dict[str, object]]:
        """cell.json of every measured cell, by its path under results/servers."""
        base = self.root / "results" / "servers"
        return {
            str(path.parent.relative_to(base)): json.loads(path.read_text())
            for path in base.glob("*/*/cells/*/cell.json")
        }

    def recorded(self) -> dict[str, int]:
        """When each cell was recorded: what is not written again keeps its time."""
        base = self.root / "results" / "servers"
        return {
            str(path.parent.relative_to(base)): path.stat().st_mtime_ns for path in base.glob("*/*/cells/*/cell.json")
        }

    def started_servers(self) -> int:
        return len(list((self.root / "results" / "servers").glob("*/*/trials/*")))


def clean_environment() -> dict[str, str]:
    """The environment without the coverage and Snakemake settings of the test run itself, and with a token."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE_", "PYTEST_"))}
    return {**kept, "HF_TOKEN": USER_TOKEN}


def copy_repository(target: Path) -> Checkout:
    """The files that git tracks or would track, copied to `target`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        source = REPOSITORY / name
        if source.is_symlink() or source.is_file():
            destination = target / name
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination, follow_symlinks=False)
    return Checkout(target)


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which `small` has been measured. Tests only look at it."""
    copy = copy_repository(tmp_path_factory.mktemp("measured") / "leverlab")
    copy.write_study("small", SMALL_STUDY)
    copy.snakemake("--cores", "2")
    return copy


@pytest.fixture
def again(measured: Checkout, tmp_path: Path) -> Checkout:
    """The measured copy once more, as it is on disk, for a test that changes it."""
    shutil.copytree(measured.root, tmp_path / "leverlab", symlinks=True)
    return Checkout(tmp_path / "leverlab")
