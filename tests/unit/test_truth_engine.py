"""The truth engine as an engine: its interface, cache, seats, metrics and fault switches."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from leverlab.load.plan import Endpoint, LoadPoint
from leverlab.truth.log import read_truth_chunks, read_truth_requests
from leverlab.truth.model import Engine, PrefixCache, Stream
from leverlab.truth.settings import Settings, parse_settings
from tests.unit.truth_process import KEY, USAGE, Truth, plan, run, truth_engine

pytestmark = pytest.mark.serial


def ask(
    truth: Truth, path: str, body: object = None, method: str | None = None, key: str | None = KEY
) -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{truth.port}{path}", None if body is None else json.dumps(body).encode(), method=method
    )
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def metrics(truth: Truth) -> dict[str, float]:
    text = ask(truth, "/metrics")[1].decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[Truth]:
    folder = tmp_path_factory.mktemp("truth")
    options = (
        "--ttft",
        "0.01",
        "--gap",
        "0.002",
        "--prefill-per-token",
        "0.001",
        "--block-size",
        "4",
        "--enable-prompt-tokens-details",
    )
    with truth_engine(folder, *options) as truth:
        yield truth


def test_its_interface(engine):
    assert ask(engine, "/health", key=None) == (200, b"")
    assert json.loads(ask(engine, "/v1/models")[1])["data"][0]["id"] == "truth"
    assert ask(engine, "/v1/models", key="wrong")[0] == 401
    assert ask(engine, "/v1/models", key=None)[0] == 401
    assert ask(engine, "/nowhere")[0] == 404
    assert ask(engine, "/v1/completions", {"prompt": {"no": 1}})[0] == 400
    configuration = json.loads(ask(engine, "/leverlab/config")[1])
    assert (configuration["ttft"], configuration["enable_prefix_caching"], configuration["block_size"]) == (
        0.01,
        True,
        4,
    )
    assert KEY not in json.dumps(configuration)


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_an_answer_that_is_not_streamed(engine, endpoint):
    prompt = (
        {"prompt": "a b c"}
        if endpoint is Endpoint.COMPLETIONS
        else {"messages": [{"role": "user", "content": "a b c"}]}
    )
    status, body = ask(engine, endpoint.path, {"model": "truth", "max_tokens": 4, **prompt})
    answer = json.loads(body)
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] == 3
    choice = answer["choices"][0]
    text = choice["text"] if endpoint is Endpoint.COMPLETIONS else choice["message"]["content"]
    assert len(text.split()) == 4
    assert choice["finish_reason"] == "length"


def test_a_cached_prefix_is_not_prefilled_again(engine):
    prompt = " ".join(f"w{at}" for at in range(42))
    first, _ = run(engine.target(), plan(1, prompt=prompt, prefix="cold"), LoadPoint("burst"))
    second, _ = run(engine.target(), plan(1, prompt=prompt + " more", prefix="warm"), LoadPoint("burst"))
    assert first.requests["cached_tokens"].to_pylist() == [0]
    assert second.requests["cached_tokens"].to_pylist() == [40], "whole blocks of 4"
    assert first.requests["ttft_service_s"][0].as_py() >= 0.010 + 0.042
    assert 0.010 + 0.003 <= second.requests["ttft_service_s"][0].as_py() < 0.010 + 0.042
    assert json.loads(ask(engine, "/reset_prefix_cache", method="POST")[1]) == {"success": True}
    third, _ = run(engine.target(), plan(1, prompt=prompt, prefix="again"), LoadPoint("burst"))
    assert third.requests["cached_tokens"].to_pylist() == [0]


def test_its_metrics_count_what_was_served(engine):
    before = metrics(engine)
    parsed, _ = run(engine.target(), plan(5, tokens=7, prefix="m"), LoadPoint("burst"))
    after = metrics(engine)

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grew("vllm:prompt_tokens_total") == 5 * 4
    assert grew("vllm:generation_tokens_total") == 5 * 7
    assert grew("vllm:request_success_total") == 5
    assert grew("vllm:prefix_cache_queries_total") == 5 * 4
    assert grew("vllm:time_to_first_token_seconds_count") == 5
    server_ttft_s = grew("vllm:time_to_first_token_seconds_sum") / 5
    client_ttft_s = sum(parsed.requests["ttft_service_s"].to_pylist()) / 5
    assert server_ttft_s <= client_ttft_s < server_ttft_s + 0.01
    assert grew("vllm:request_decode_time_seconds_sum") / 5 == pytest.approx(6 * 0.002, rel=0.5)
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0


def test_no_cache_no_hits():
    cache = PrefixCache(2, enabled=False)
    assert cache.take_in(["a", "b", "c"]) == cache.take_in(["a", "b", "c"]) == 0
    assert (cache.queried_tokens, cache.hit_tokens) == (0, 0)


def test_the_cache_finds_whole_blocks_of_the_same_prefix():
    cache = PrefixCache(2, enabled=True)
    assert cache.take_in(["a", "b", "c", "d", "e"]) == 0
    assert cache.take_in(["a", "b", "c", "d"]) == 2, "the last token is always computed"
    assert cache.take_in(["a", "b", "c", "d", "e", "f"]) == 4
    assert cache.take_in(["x", "b", "c", "d", "e", "f"]) == 0, "a block counts with all that is before it"
    assert (cache.queried_tokens, cache.hit_tokens) == (21, 6)
    cache.reset()
    assert cache.take_in(["a", "b", "c", "d", "e"]) == 0


def test_seats_are_given_first_in_first_out():
    engine = Engine(Settings(max_num_seqs=2, enable_prefix_caching=False))
    streams = [Stream(at, str(at), ["w"], 4, "length", at) for at in range(5)]
    admitted = [stream for stream in streams for _ in [0] if engine.offer(stream, stream.number)]
    assert admitted == streams[:2]
    assert engine.release(streams[3], 10) == [], "one that waited went away"
    assert engine.release(streams[0], 11) == [streams[2]]
    assert engine.release(streams[1], 12) == [streams[4]]
    assert streams[4].admitted_ns == 12
    assert not engine.waiting


def test_a_seat_limit_queues_and_says_so(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.02", "--gap", "0.005", "--max-num-seqs", "2") as truth:
        run(truth.target(), plan(6, tokens=4), LoadPoint("burst"))
        counted = metrics(truth)
        truth.settle()
        queued_s = [(request.admitted_ns - request.received_ns) / 1e9 for request in read_truth_requests(truth.log)]
    # 35 ms a request: two at once, two after them, two after those.
    assert queued_s == pytest.approx([0, 0, 0.035, 0.035, 0.07, 0.07], abs=0.03)
    assert counted["vllm:request_queue_time_seconds_sum"] == pytest.approx(sum(queued_s), abs=1e-6)


def test_a_client_that_goes_away_frees_its_seat(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.01", "--gap", "0.05", "--max-num-seqs", "1") as truth:
        run(truth.target(), plan(1, tokens=1000), LoadPoint("burst"), timeout_s=0.2)
        parsed, _ = run(truth.target(), plan(1, tokens=2, prefix="next"), LoadPoint("burst"), timeout_s=3.0)
        assert parsed.requests["status"].to_pylist() == ["ok"]
        assert metrics(truth)["vllm:num_requests_running"] == 0


def test_the_same_seed_gives_the_same_answers(tmp_path):
    def answers(folder, seed: str) -> list[bytes]:
        folder.mkdir()
        with truth_engine(folder, "--ttft", "0", "--gap", "0", "--natural-tokens", "10", "--seed", seed) as truth:
            bodies = [ask(truth, "/v1/completions", {"prompt": f"p {at}", "max_tokens": 50})[1] for at in range(5)]
        return [json.loads(body)["choices"][0] for body in bodies]

    first = answers(tmp_path / "a", "1")
    assert first == answers(tmp_path / "b", "1")
    assert first != answers(tmp_path / "c", "2")
    lengths = [len(choice["text"].split()) for choice in first]
    assert len(set(lengths)) > 1
    assert {choice["finish_reason"] for choice in first} == {"stop"}


def test_the_truth_log_holds_every_send(engine):
    run(engine.target(), plan(3, tokens=5, prefix="logged"), LoadPoint("burst"))
    engine.settle()
    numbers = {
        request.number: request
        for request in read_truth_requests(engine.log)
        if request.request_id.startswith("logged")
    }
    assert len(numbers) == 3
    columns = read_truth_chunks(engine.log)
    mine = [at for at, number in enumerate(columns["number"]) if number in numbers]
    assert len(mine) == 15
    for at in mine:
        assert columns["due_ns"][at] <= columns["begun_ns"][at] < columns["ended_ns"][at]
        assert columns["tokens"][at] == 1
    assert all(request.received_ns <= request.admitted_ns for request in numbers.values())


def test_a_partly_written_truth_log_can_be_read(tmp_path):
    path = tmp_path / "t"
    path.write_bytes(b"\x01" + b"\0" * 79 + b"cut off")
    assert read_truth_chunks(path)["number"] == [1, 0]


def test_refusing_to_start():
    command = [sys.executable, "-m", "leverlab.truth", "--port", "0", "--refuse", "flag X does not go with flag Y"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert refused.returncode == 1
    assert refused.stderr.rstrip().endswith("ValueError: flag X does not go with flag Y")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-num-seqs", "0"], "--max-num-seqs 0: must be at least 1"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--truth-log", "/nowhere/at/all"], "there is no such folder"),
        (["--ttft", "lognormal(0.05)"], "lognormal(median, sigma)"),
        (["--acceptance", "1.5"], "--acceptance 1.5: must be at most 1"),
        (["--ignore-flag", "gaap"], "--ignore-flag gaap: there is no such flag"),
    ],
)
def test_bad_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_settings(arguments)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_switches_are_read():
    settings = parse_settings(["--no-enable-prefix-caching", "--gap", "0.02", "--refuse", "x"])
    assert (settings.enable_prefix_caching, settings.gap.constant, settings.refuse) == (False, 0.02, "x")


def test_a_taken_port_is_named(engine):
    command = [sys.executable, "-m", "leverlab.truth", "--port", str(engine.port)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{engine.port}" in refused.stderr


def test_it_is_deaf_until_it_has_started(tmp_path):
    begun = time.monotonic()
    with truth_engine(tmp_path, "--startup-s", "0.5") as truth:
        assert time.monotonic() - begun >= 0.5
        assert ask(truth, "/health")[0] == 200


def test_continuous_usage_is_given_when_asked_for_only(engine):
    for options, chunks_with_usage in ((USAGE["stream_options"], 5), ({"include_usage": True}, 1), (None, 0)):
        body = {"prompt": "a b", "max_tokens": 4, "stream": True, "stream_options": options}
        lines = ask(engine, "/v1/completions", body)[1].decode().splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert sum("usage" in event for event in events) == chunks_with_usage
        assert "data: [DONE]" in lines
