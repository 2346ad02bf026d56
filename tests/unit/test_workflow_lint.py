"""Snakemake's own linter finds nothing in the workflow but what is meant."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

MEANT = {
    # The pipeline runs in the interpreter that runs Snakemake, and each engine in its own locked environment: envs/.
    "Specify a conda environment or container for each rule.",
}


def test_linter_finds_nothing_but_what_is_meant() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert "Lints for rule" in done.stderr, f"the linter did not get to the rules:\n{done.stderr[-2000:]}"
    lints = set(re.findall(r"^    \* (.*?):$", done.stderr, flags=re.MULTILINE))
    assert lints - MEANT == set(), done.stderr[-3000:]
