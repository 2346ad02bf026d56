"""Cells in which nothing is wrong, of many shapes and loads: none may be called invalid.

pytest tests/doubt --clean-runs 1000
"""

import random
from pathlib import Path
from typing import Any

import pytest

from leverlab.checks import read_checks
from leverlab.trial.cell_files import CHECKS_FILE
from tests.integration.trial_job import TrialJob

pytestmark = pytest.mark.doubt

CELLS_PER_SERVER = 10


def drawn_load(draw: random.Random) -> dict[str, Any]:
    requests = draw.randint(20, 40)
    kind = draw.choice(["rate", "rate", "concurrency", "burst"])
    value = {"rate": round(draw.uniform(15, 80), 1), "concurrency": draw.randint(4, 16)}.get(kind)
    return {"kind": kind, "requests": requests} | ({} if value is None else {"value": value})


def drawn_job(root: Path, number: int) -> TrialJob:
    """A server and ten load points, the same for a number on every machine."""
    draw = random.Random(f"clean {number}")
    flags = {
        "seed": number,
        "ttft": round(draw.uniform(0.1, 0.2), 3),
        "gap": round(draw.uniform(0.004, 0.02), 4),
        "prefill-per-token": draw.choice([0.0, 0.0005]),
        "max-num-seqs": draw.choice([4, 16, 64]),
        "tokens-per-chunk": draw.choice([1, 1, 2, 4]),
        "enable-prefix-caching": draw.random() < 0.8,
        "split-chunks": draw.random() < 0.3,
        "empty-text-every": draw.choice([0, 3]),
    }
    shape = {
        "groups": draw.randint(1, 4),
        "prefix_tokens": draw.choice([16, 96, 512]),
        "suffix_tokens": draw.choice([8, 64]),
        "output_tokens": draw.choice([1, 8, 24]),
    }
    phases = {f"drawn-{at:010d}": drawn_load(draw) for at in range(CELLS_PER_SERVER)}
    return TrialJob(root, flags=flags, shape=shape, phases=phases).prepare()


def test_no_clean_cell_is_invalid(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    wanted = request.config.getoption("--clean-runs")
    invalid: dict[str, list[str]] = {}
    played = 0
    for number in range(-(-wanted // CELLS_PER_SERVER)):
        job = drawn_job(tmp_path / str(number), number)
        code, shown = job.measure(timeout_s=300)
        assert code == 0, shown
        for phase, load in job.phases.items():
            checks = read_checks(job.cell_folder(phase) / CHECKS_FILE)
            played += 1
            if checks.worst == "invalid":
                told = [f"{check.code}: {check.saw}" for check in checks.checks if check.severity == "invalid"]
                invalid[f"{number} {load} {job.flags}"] = told
    assert played >= wanted
    assert invalid == {}
