"""Snakemake's own linter finds nothing in the workflow but what is meant."""

import json
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
        [sys.executable, "-m", "snakemake", "--lint", "json"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    lints = {(rule["for"]["rule"], lint["title"]) for rule in found["rules"] for lint in rule["lints"]}
    lints |= {("Snakefile", lint["title"]) for file in found["snakefiles"] for lint in file["lints"]}
    assert {(rule, title) for rule, title in lints if title not in MEANT} == set()
