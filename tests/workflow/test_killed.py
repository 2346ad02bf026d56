"""Snakemake killed without warning while a server is measured: the measurement goes on, and nobody measures beside it."""

import json
import subprocess
import time

from tests.workflow.conftest import SMALL_STUDY, Checkout, clean_environment

ONE_SERVER = (
    SMALL_STUDY.replace("rates: [20, inf]", "rates: [1.5, 2, 3]")
    .replace("[on, off]", "[on]")
    .replace("[64, 2]", "[64]")
    .replace("ttft_s p50 at rate 20, max_num_seqs: throughput at burst", "ttft_s p50 at rate 2")
    .replace("replicates: 2", "replicates: 1")
)
CELLS, PATIENCE_S = 3, 120


def test_killed_and_started_again_it_waits_for_the_orphan_and_measures_nothing_twice(again: Checkout) -> None:
    again.write_study("slow", ONE_SERVER)
    before = again.recorded()

    def finished() -> dict[str, int]:
        return {path: at for path, at in again.recorded().items() if path not in before}

    started = again.started_servers()
    run = subprocess.Popen(
        again.command("--cores", "2", "--until", "measure", study="slow"),
        cwd=again.root,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + PATIENCE_S
    while not finished() and time.monotonic() < end:
        time.sleep(0.1)
    run.kill()
    run.wait()
    first = finished()
    assert 0 < len(first) < CELLS, "killed in the middle of the trial"
    refused = again.snakemake("--cores", "2", "--until", "measure", study="slow", check=False)
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout + refused.stderr
    again.snakemake("--unlock", "--cores", "1", study="slow")
    again.snakemake("--cores", "2", "--until", "measure", study="slow")
    assert len(finished()) == CELLS
    assert {path: finished()[path] for path in first} == first
    assert again.started_servers() == started + 1
    trials = (again.root / "results" / "servers").glob("*/r1/trials/*/trial.json")
    assert {json.loads(path.read_text())["outcome"] for path in trials} == {"finished"}
