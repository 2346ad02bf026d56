"""Faults of the truth engine as a client and a look at its interface see them."""

import itertools
import json
import urllib.request

import pytest

from leverlab.engines.prometheus import VLLM_METRICS, canonical_metrics
from leverlab.load.plan import Endpoint, LoadPoint
from leverlab.truth.faults import Faults
from leverlab.truth.log import read_truth_chunks
from leverlab.truth.settings import Settings
from tests.unit.truth_process import Truth, arrivals_against_truth, plan, run, truth_engine

pytestmark = pytest.mark.serial


def looked(truth: Truth, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{truth.port}{path}", timeout=5) as answer:
        return answer.read()


def test_a_flag_that_is_ignored_shows_its_default(tmp_path):
    with truth_engine(tmp_path, "--max-num-seqs", "2", "--ignore-flag", "max-num-seqs") as truth:
        shown = json.loads(looked(truth, "/leverlab/config"))
        run(truth.target(), plan(4), LoadPoint("burst"))
        queued_s = canonical_metrics(looked(truth, "/metrics").decode(), VLLM_METRICS)["queue_time_s_sum"]
    assert (shown["max_num_seqs"], shown["ignore_flag"]) == (Settings().max_num_seqs, "max-num-seqs")
    assert queued_s < 0.02, "all four had a seat at once"


@pytest.mark.parametrize("logged", [True, False])
def test_a_pause_stops_every_stream_and_is_logged_as_told(tmp_path, logged):
    told = ["--ttft", "0.05", "--gap", "0.01", "--pause-at-request", "3", "--pause-s", "0.3"]
    told += [] if logged else ["--no-pause-is-logged"]
    with truth_engine(tmp_path, *told) as truth:
        run(truth.target(), plan(2, prefix="warmup-"), LoadPoint("burst"))
        parsed, _ = run(truth.target(), plan(4, tokens=20, every_s=0.05), LoadPoint("rate", 1.0))
        truth.settle()
        columns = read_truth_chunks(truth.log)
        truth.stop()
        said = truth.process.stderr.read()
    assert parsed.requests["status"].to_pylist() == ["ok"] * 4
    sends = sorted(columns["begun_ns"])[2 * 8 :]
    assert 0.29e9 < max(after - before for before, after in itertools.pairwise(sends)) < 0.45e9
    assert ("Compiling a graph for compile range (1, 2048) takes 0.30 s" in said) is logged


def test_counters_begin_again(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.01", "--gap", "0.001", "--reset-counters-at-request", "4") as truth:
        run(truth.target(), plan(3, tokens=6), LoadPoint("burst"))
        before = canonical_metrics(looked(truth, "/metrics").decode(), VLLM_METRICS)
        run(truth.target(), plan(2, tokens=6, prefix="again"), LoadPoint("burst"))
        after = canonical_metrics(looked(truth, "/metrics").decode(), VLLM_METRICS)
    assert (before["generation_tokens"], before["requests_finished"], before["ttft_s_count"]) == (18, 3, 3)
    assert (after["generation_tokens"], after["requests_finished"], after["ttft_s_count"]) == (12, 2, 2)


def test_drift_is_seen_by_the_client(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.05", "--gap", "0.01", "--drift-per-s", "2") as truth:
        parsed, _ = run(truth.target(), plan(2, tokens=2, every_s=0.5), LoadPoint("rate", 1.0))
    first_s, second_s = parsed.requests["ttft_service_s"].to_pylist()
    assert 0.05 <= first_s < 0.07
    # It drifts from when the first came in, which may have been a little later than it was sent.
    assert second_s >= 0.05 * (1 + 2 * 0.45)


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("harmless", ["--empty-first-chunk", "--split-json", "--split-chunks"])
def test_what_is_harmless_is_measured_right(tmp_path, endpoint, harmless):
    with truth_engine(tmp_path, "--ttft", "0.05", "--gap", "0.005", "--tokens-per-chunk", "2", harmless) as truth:
        parsed, origin_ns = run(truth.target(endpoint), plan(5, tokens=7), LoadPoint("burst"))
        truth.settle()
    assert parsed.requests["status"].to_pylist() == ["ok"] * 5
    assert parsed.requests["completion_tokens"].to_pylist() == [7] * 5
    after_begin, before_end = arrivals_against_truth(parsed, origin_ns, truth.log)
    assert after_begin.min() > -1e-6, "the first token is not taken to be the chunk before it"
    assert before_end.min() > -0.005


def test_a_json_string_is_cut_open():
    data = b'data: {"id":"x","choices":[{"index":0,"text":"","finish_reason":null}]}'
    pieces = Faults(Settings(split_json=True)).pieces(data)
    assert pieces == (b'data: {"id":"x","choices":[{"index":0,"text":"', b'","finish_reason":null}]}')
    assert Faults(Settings(split_json=True)).pieces(b"0\r\n\r\n") is None


def test_it_says_how_late_it_was(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.01", "--gap", "0.001") as truth:
        assert json.loads(looked(truth, "/leverlab/lateness")) == {
            "chunks": 0, "late_mean_s": None, "late_p50_s": None, "late_p99_s": None, "late_max_s": None,
        }  # fmt: skip
        run(truth.target(), plan(5, tokens=10), LoadPoint("burst"))
        truth.settle()
        report = json.loads(looked(truth, "/leverlab/lateness"))
        columns = read_truth_chunks(truth.log)
        truth.stop()
        said = truth.process.stderr.read()
    late_s = sorted((begun - due) / 1e9 for begun, due in zip(columns["begun_ns"], columns["due_ns"], strict=True))
    assert report["chunks"] == 50
    assert report["late_max_s"] == late_s[-1]
    assert report["late_mean_s"] == pytest.approx(sum(late_s) / 50)
    assert late_s[24] <= report["late_p50_s"] < 2 * late_s[24] + 2e-9
    assert "50 chunks sent; late by" in said


def test_accepted_drafts_are_in_the_metrics_under_their_names(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.01", "--gap", "0.001", "--tokens-per-chunk", "4") as truth:
        run(truth.target(), plan(2, tokens=8), LoadPoint("burst"))
        text = looked(truth, "/metrics").decode()
    values = {
        line.partition("{")[0]: float(line.split()[-1])
        for line in text.splitlines()
        if "spec_decode" in line and "{" in line
    }
    counted = {name: value for name, value in values.items() if name.endswith("_total")}
    assert counted == {
        "vllm:spec_decode_num_drafts_total": 4,
        "vllm:spec_decode_num_draft_tokens_total": 12,
        "vllm:spec_decode_num_accepted_tokens_total": 12,
    }
