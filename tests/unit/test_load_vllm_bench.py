"""The adapter for `vllm bench serve`: what it asks for, and what it makes of a result."""

import json
import os
import sys
from pathlib import Path

import pytest

from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.load.schema import CHUNKS, REQUESTS
from leverlab.load.vllm_bench import BenchError, bench_arguments, bench_serve, from_result

pytestmark = pytest.mark.serial

KEY = "secret-key-of-this-test"
REQUESTS_SENT = [PlannedRequest(at, f"r{at}", f"prompt number {at}", 3, 4, float(at)) for at in range(4)]
EXTRAS = {"ignore_eos": True, "stream_options": {"include_usage": True}, "min_tokens": 4}

# Four requests at a rate: two that ended well, one refused, one cut. Failed ones keep zeros, as vLLM 0.32 writes them.
RESULT = {
    "completed": 2,
    "duration": 3.0,
    "mean_ttft_ms": 51.0,
    "start_times": [100.001, 101.002, 102.001, 103.0],
    "queue_times": [0.001, 0.002, 0.001, 0.0],
    "ttfts": [0.05, 0.06, 0.0, 0.0],
    "itls": [[0.01, 0.02, 0.03], [0.01, 0.01, 0.01], [], []],
    "latencies": [0.11, 0.09, 0.0, 0.0],
    "output_lens": [4, 4, 0, 0],
    "input_lens": [3, 3, 3, 3],
    "errors": [
        "",
        "",
        "Too Many Requests",
        "Traceback (most recent call last):\n  ...\naiohttp.ClientPayloadError: not completed\n",
    ],
    "generated_texts": ["", "", "", ""],
}


def target(endpoint: Endpoint = Endpoint.COMPLETIONS) -> Target:
    return Target("127.0.0.1", 8000, "m", KEY, endpoint, EXTRAS)


def test_a_result_becomes_the_same_tables():
    replayed = from_result(RESULT, REQUESTS_SENT, Endpoint.COMPLETIONS, LoadPoint("rate", 1.0))
    assert replayed.requests.schema.equals(REQUESTS, check_metadata=True)
    assert replayed.chunks.schema.equals(CHUNKS, check_metadata=True)
    first, second, refused, cut = replayed.requests.to_pylist()
    assert first["scheduled_s"] == pytest.approx(0.0)
    assert first["ttft_s"] == pytest.approx(0.051)
    assert first["ttft_service_s"] == pytest.approx(0.05)
    assert first["tpot_s"] == pytest.approx(0.02)
    assert first["e2e_s"] == pytest.approx(0.111)
    assert (first["first_chunk_tokens"], first["token_source"], first["prompt_tokens"]) == (1, "chunks", 3)
    assert first["send_lag_s"] is None
    assert first["ttft_error_s"] is None, "it does not know its own error"
    assert second["sent_s"] == pytest.approx(1.002)
    assert (refused["status"], refused["error"], refused["ttft_s"]) == ("http_error", "Too Many Requests", None)
    assert (cut["status"], cut["error"]) == ("cut", "aiohttp.ClientPayloadError: not completed")
    assert replayed.chunks["arrival_s"].to_pylist()[:4] == pytest.approx([0.051, 0.061, 0.081, 0.111])
    assert replayed.origin_ns == 100_000_000_000
    assert replayed.summary == {"completed": 2, "duration": 3.0, "mean_ttft_ms": 51.0}


def test_a_closed_loop_does_not_count_the_wait_for_a_slot():
    waited = RESULT | {"queue_times": [0.0, 0.9, 0.0, 0.0]}
    closed = from_result(waited, REQUESTS_SENT, Endpoint.COMPLETIONS, LoadPoint("concurrency", 1.0))
    assert closed.requests["ttft_s"].to_pylist()[1] == pytest.approx(0.06)
    burst = from_result(waited, REQUESTS_SENT, Endpoint.COMPLETIONS, LoadPoint("burst"))
    assert burst.requests["ttft_s"].to_pylist()[1] == pytest.approx(0.96)


def test_several_tokens_a_chunk_leave_tpot_unknown():
    row = from_result(RESULT | {"output_lens": [9, 4, 0, 0]}, REQUESTS_SENT, Endpoint.COMPLETIONS, LoadPoint("burst"))
    assert row.requests["tpot_s"].to_pylist()[0] is None
    assert row.requests["first_chunk_tokens"].to_pylist()[0] is None


def test_the_chunk_that_names_the_role_is_no_token():
    result = RESULT | {"output_lens": [3, 4, 0, 0]}
    chat = from_result(result, REQUESTS_SENT, Endpoint.CHAT, LoadPoint("burst")).requests.to_pylist()
    assert chat[0]["ttft_service_s"] == pytest.approx(0.06)
    assert chat[0]["tpot_s"] == pytest.approx(0.025)
    assert chat[1]["ttft_service_s"] == pytest.approx(0.06)


def test_a_result_of_another_length_is_refused():
    with pytest.raises(BenchError, match="4 entries in start_times for 3 requests"):
        from_result(RESULT, REQUESTS_SENT[:3], Endpoint.COMPLETIONS, LoadPoint("burst"))


def test_arguments_keep_the_requests_as_they_are():
    arguments = bench_arguments(
        target(), 4, LoadPoint("rate", 2.5), Path("d.jsonl"), Path("out/r.json"), Path("tok"), 7
    )
    text = " ".join(arguments)
    for wanted in (
        "--custom-output-len -1", "--skip-chat-template", "--disable-shuffle", "--no-oversample", "--num-warmups 0",
        "--ready-check-timeout-sec 0", "--ignore-eos", "--temperature 0", "--request-rate 2.5", "--seed 7", "--num-prompts 4",
    ):  # fmt: skip
        assert wanted in text
    assert json.loads(arguments[arguments.index("--extra-body") + 1]) == {"min_tokens": 4}
    assert "--max-concurrency" not in arguments
    closed = bench_arguments(
        target(Endpoint.CHAT), 4, LoadPoint("concurrency", 8.0), Path("d"), Path("r"), Path("t"), 0
    )
    assert closed[closed.index("--max-concurrency") + 1] == "8"
    assert closed[closed.index("--request-rate") + 1] == "inf"
    assert closed[closed.index("--backend") + 1] == "openai-chat"


FAKE = """
import json, os, sys
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
rows = [json.loads(line) for line in open(value("--dataset-path"))]
assert [set(row) for row in rows] == [{"prompt", "output_tokens"}] * 4
seen = {"argv": arguments, "key": os.environ.get("OPENAI_API_KEY"), "cores": sorted(os.sched_getaffinity(0))}
json.dump(seen, open(sys.argv[0] + ".seen", "w"))
if not os.environ.get("BENCH_FAILS"):
    json.dump(RESULT, open(os.path.join(value("--result-dir"), value("--result-filename")), "w"))
print("client says: nothing to see")
"""


def test_the_key_goes_by_the_environment_alone(tmp_path, monkeypatch):
    fake = tmp_path / "vllm.py"
    fake.write_text(f"RESULT = {RESULT!r}\n{FAKE}")
    before = os.sched_getaffinity(0)
    options = {
        "command": [sys.executable, str(fake)],
        "tokenizer": tmp_path,
        "seed": 1,
        "timeout_s": 20.0,
        "directory": tmp_path,
    }
    replayed = bench_serve(target(), REQUESTS_SENT, LoadPoint("burst"), cores=[min(before)], **options)
    seen = json.loads((tmp_path / "vllm.py.seen").read_text())
    assert replayed.requests.num_rows == 4
    assert seen["key"] == KEY
    assert KEY not in " ".join(seen["argv"])
    assert seen["cores"] == [min(before)]
    assert os.sched_getaffinity(0) == before

    monkeypatch.setenv("BENCH_FAILS", "1")
    with pytest.raises(BenchError, match="saved no result: client says"):
        bench_serve(target(), REQUESTS_SENT, LoadPoint("burst"), **options)
