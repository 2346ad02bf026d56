"""A complete study on the cluster with the real engine: vLLM's CPU build inside the jobs, one job at a time."""

from pathlib import Path

import pandas
import pytest

from tests.slurm.cluster import Watch, make_cluster
from tests.slurm.one_box import OneBoxSlurm, why_not_here
from tests.workflow.conftest import REPOSITORY

pytestmark = [pytest.mark.slurm, pytest.mark.engine, pytest.mark.minutes(seconds=240, lacks=why_not_here)]

STUDY = """\
title: One lever on a cluster
question: Does prefix caching pay when every request shares a system prompt?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 8, groups: 2, prefix_tokens: 1024, suffix_tokens: 32, output_tokens: 8}
load: {rates: [1]}
levers: {prefix_caching: [on, off]}
baseline: {prefix_caching: off}
primary: {prefix_caching: ttft_s p50 at rate 1}
replicates: 1
"""


def test_a_complete_study_with_the_cpu_engine(slurm: OneBoxSlurm, tmp_path: Path) -> None:
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    cluster = make_cluster(slurm, tmp_path / "leverlab")
    root = cluster.checkout.root
    (root / ".envs").symlink_to(REPOSITORY / ".envs")
    cluster.checkout.write_study("one-lever", STUDY)
    try:
        with Watch(cluster) as watch:
            # The stand-in nodes have one machine's cores between them.
            cluster.start("--jobs", "1", study="one-lever").succeed(900)
    finally:
        cluster.cancel_all()

    assert [job.state for job in cluster.jobs()] == ["COMPLETED", "COMPLETED"]
    assert max(len(look) for look in watch.looks) == 1
    assert {sighting.job for sighting in watch.seen()} == {job.id for job in cluster.jobs()}

    records = cluster.checkout.cells().values()
    assert [record["status"] for record in records] == ["measured", "measured"]
    assert {record["provenance"]["slurm"]["id"] for record in records} == {job.id for job in cluster.jobs()}

    cells = pandas.read_parquet(root / "results/studies/one-lever/cells.parquet").set_index("treatment")
    assert cells.loc["prefix_caching=on", "cache_hit_ratio"] > 0.5
    assert not cells.loc["baseline", "cache_hit_ratio"] > 0
    assert cells.loc["prefix_caching=on", "ttft_s_p50"] < cells.loc["baseline", "ttft_s_p50"]
    requests = pandas.read_parquet(root / "results/studies/one-lever/requests.parquet")
    assert len(requests) == 16
    assert set(requests["status"]) == {"ok"}
    assert set(requests["completion_tokens"]) == {8}
    for page in ("one-lever.html", "index.html"):
        assert "One lever on a cluster" in (root / "reports" / page).read_text()
