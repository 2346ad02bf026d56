"""Cells in which nothing is wrong, of many shapes and loads: none may be called invalid.

pytest tests/doubt --clean-runs 1000
"""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from leverlab.checks import read_checks
from leverlab.trial.cell_files import CHECKS_FILE
from tests.integration.trial_job import TrialJob

pytestmark = [pytest.mark.doubt, pytest.mark.minutes(seconds=90)]

CELLS_PER_SERVER = 10


def drawn_load(draw: random.Random) -> dict[str, Any]:
    requests = draw.randint(20, 36)
    kind = draw.choice(["rate", "rate", "concurrency", "burst"])
    value = {"rate": round(draw.uniform(25, 80), 1), "concurrency": draw.randint(4, 16)}.get(kind)
    return {"kind": kind, "requests": requests} | ({} if value is None else {"value": value})


def drawn_time(draw: random.Random, seconds: float) -> str | float:
    """A constant, or a distribution around it."""
    at = round(seconds, 4)
    return draw.choice([at, at, f"lognormal({at}, 0.1)", f"gamma({at}, 20)"])


def drawn_job(root: Path, number: int) -> TrialJob:
    """A server and ten load points, the same for a number on every machine."""
    draw = random.Random(f"clean {number}")
    flags = {
        "seed": number,
        "ttft": drawn_time(draw, draw.uniform(0.08, 0.14)),
        "gap": drawn_time(draw, draw.uniform(0.003, 0.01)),
        "prefill-per-token": draw.choice([0.0, 0.0001]),
        "serial-prefill": draw.random() < 0.3,
        "gap-per-stream": draw.choice([0.0, 0.0001]),
        "max-num-seqs": draw.choice([8, 16, 64]),
        "tokens-per-chunk": draw.choice([1, 1, 2, 4]),
        "acceptance": draw.choice([1.0, 0.7]),
        "enable-prefix-caching": draw.random() < 0.8,
        "split-chunks": draw.random() < 0.3,
        "split-json": draw.random() < 0.3,
        "empty-first-chunk": draw.random() < 0.3,
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


def played(root: Path, number: int) -> dict[str, list[str]]:
    """What was said of each cell of a drawn job: `severity code: what was seen`."""
    job = drawn_job(root / str(number), number)
    code, shown = job.measure(timeout_s=300)
    assert code == 0, shown
    found = {}
    for phase, load in job.phases.items():
        checks = read_checks(job.cell_folder(phase) / CHECKS_FILE).checks
        told = [f"{check.severity} {check.code}: {check.saw}" for check in checks if check.severity != "ok"]
        found[f"{number} {phase} {load} {job.flags}"] = told
    return found


def test_no_clean_cell_is_invalid(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = request.config.getoption("--clean-runs")
    with ThreadPoolExecutor(request.config.getoption("--clean-at-a-time")) as pool:
        parts = pool.map(lambda number: played(tmp_path, number), range(-(-wanted // CELLS_PER_SERVER)))
        found = {cell: told for part in parts for cell, told in part.items()}
    marked = Counter(line.partition(":")[0] for told in found.values() for line in told)
    with capsys.disabled():
        print(f"\n{len(found)} clean cells; marked: {dict(marked.most_common())}")
    assert len(found) >= wanted
    assert not {cell: told for cell, told in found.items() if any(line.startswith("invalid") for line in told)}
