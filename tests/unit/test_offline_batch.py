"""Offline batches: the program's front around a model that answers at once, and the adapter that hands it whole batches."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from leverlab import offline_batch
from leverlab.engines.base import Launch
from leverlab.engines.sglang import SglangEngine
from leverlab.engines.vllm import VllmEngine
from leverlab.load.offline import OfflineError, batches, offer_offline
from leverlab.load.parse import parse
from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.load.replay import replay
from leverlab.load.schema import CHUNKS, REQUESTS
from leverlab.offline_batch.front import Front
from leverlab.offline_batch.generation import Answered, Done, Wanted

KEY = "a-key-that-nobody-knows"
MS = 1_000_000
ASKED = [PlannedRequest(at, f"r{at}", f"w{at} again", 2, 3 + at, float(at)) for at in range(5)]
EXTRAS = {
    "ignore_eos": True,
    "temperature": 0,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


class AtOnce:
    """Answers with as many tokens as were asked for. A batch is called at 1 s, 2 s, … and takes 100 ms and 10 ms a token of its
    longest; every request has its first token after 100 ms."""

    version = "0.0"
    context_tokens = 100
    vocabulary = 100

    def __init__(self) -> None:
        self.batches: list[list[Wanted]] = []
        self.resets: list[bool] = []

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        raise NotImplementedError

    def generate(self, batch: list[Wanted]) -> Done:
        if any(one.output_tokens > self.context_tokens for one in batch):
            raise ValueError("longer than the context")
        self.batches.append(batch)
        called_ns = 1000 * MS * len(self.batches)
        longest = max(one.output_tokens for one in batch)
        return Done(
            called_ns, called_ns + (100 + 10 * (longest - 1)) * MS, [self._answer(one, called_ns) for one in batch]
        )

    def _answer(self, one: Wanted, called_ns: int) -> Answered:
        prompt: Sequence[int] = self.encode(one.prompt) if isinstance(one.prompt, str) else one.prompt
        first_s = called_ns / 1e9 + 0.1
        tokens = [7] * one.output_tokens
        return Answered(
            len(prompt), tokens, "x" * len(tokens), 1, "length", first_s, first_s + 0.01 * (len(tokens) - 1)
        )

    def reset_prefix_cache(self, *, tiers: bool) -> bool:
        self.resets.append(tiers)
        return True

    def metrics(self) -> bytes:
        return b"vllm:num_requests_running 0.0\n"

    def told(self) -> Mapping[str, Any]:
        return {"vllm_config": {}}


@pytest.fixture
def model() -> AtOnce:
    return AtOnce()


@pytest.fixture
def target(model: AtOnce) -> Iterator[Target]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    front = Front(model, "model", KEY)
    front.start(listener)

    def compute() -> None:
        while True:
            front.line.get().run()

    threading.Thread(target=compute, daemon=True).start()
    yield Target("127.0.0.1", listener.getsockname()[1], "model", KEY, Endpoint.COMPLETIONS, EXTRAS)


def offered(
    target: Target, load: LoadPoint, requests: Sequence[PlannedRequest] = ASKED
) -> tuple[Any, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return offer_offline(target, requests, load, timeout_s=20, progress=lambda *seen: told.append(seen)), told


def test_a_burst_is_one_batch_whose_answers_all_end_with_it(target: Target, model: AtOnce) -> None:
    run, told = offered(target, LoadPoint("burst"))
    assert [[one.prompt for one in batch] for batch in model.batches] == [[request.prompt for request in ASKED]]
    assert run.requests.schema.equals(REQUESTS) and run.chunks.equals(CHUNKS.empty_table())
    assert run.origin_ns == 1000 * MS and told[-1] == (5, 5)
    rows = run.requests.to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 5
    assert [row["completion_tokens"] for row in rows] == [3, 4, 5, 6, 7]
    assert {round(row["e2e_s"], 6) for row in rows} == {0.16}, "the longest has seven tokens"
    assert [row["tpot_s"] for row in rows] == pytest.approx([0.01] * 5), "by the engine's stamps"
    assert [row["first_token_s"] for row in rows] == pytest.approx([0.1] * 5)
    assert {(row["ttft_s"], row["ttft_service_s"], row["send_lag_s"]) for row in rows} == {(None, None, None)}
    assert {(row["prompt_tokens"], row["cached_tokens"]) for row in rows} == {(2, 1)}


def test_a_concurrency_is_the_size_of_batches_one_after_another(target: Target, model: AtOnce) -> None:
    run, _ = offered(target, LoadPoint("concurrency", 2.0))
    assert [len(batch) for batch in model.batches] == [2, 2, 1]
    assert run.requests["scheduled_s"].to_pylist() == pytest.approx([0, 0, 1, 1, 2])
    assert run.requests["e2e_s"].to_pylist() == pytest.approx([0.13, 0.13, 0.15, 0.15, 0.16])


def test_a_rate_is_no_load_of_batches() -> None:
    with pytest.raises(ValueError, match="no rate: offer a burst"):
        batches(ASKED, LoadPoint("rate", 1.0))


def test_what_the_engine_refuses_fails_the_client_with_its_words(target: Target) -> None:
    with pytest.raises(OfflineError, match=r"HTTP 400.*longer than the context"):
        offered(target, LoadPoint("burst"), [PlannedRequest(0, "r0", "w", 1, 1000, 0.0)])


def test_a_batch_that_does_not_end_in_time_is_said_to(target: Target, model: AtOnce) -> None:
    gate = threading.Event()
    plain = model.generate
    model.generate = lambda batch: (gate.wait(20), plain(batch))[1]  # type: ignore[method-assign]
    with pytest.raises(OfflineError, match="a batch of 5 requests did not end"):
        offer_offline(target, ASKED, LoadPoint("burst"), timeout_s=0.05, progress=lambda *_: None)
    gate.set()


def test_who_waits_can_give_up(target: Target, model: AtOnce) -> None:
    """The trial asks meanwhile whether the server lives, and that raises where it does not."""
    gate = threading.Event()
    plain = model.generate
    model.generate = lambda batch: (gate.wait(20), plain(batch))[1]  # type: ignore[method-assign]

    def died(*_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        offer_offline(target, ASKED, LoadPoint("burst"), timeout_s=20, progress=died)
    gate.set()


def test_single_prompts_are_answered_as_a_server_does_for_warm_up_and_probes(target: Target, model: AtOnce) -> None:
    rows = parse(replay(target, ASKED[:3], LoadPoint("concurrency", 1.0), timeout_s=20)).requests.to_pylist()
    assert [(row["status"], row["prompt_tokens"], row["completion_tokens"]) for row in rows] == [
        ("ok", 2, 3), ("ok", 2, 4), ("ok", 2, 5),
    ]  # fmt: skip
    assert [len(batch) for batch in model.batches] == [1, 1, 1]


def test_the_front_answers_what_the_engine_module_asks(target: Target, model: AtOnce) -> None:
    engine = VllmEngine()
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://{target.host}:{target.port}", headers=headers, trust_env=False) as client:
        assert engine.ready(client)
        assert engine.reset_cache(client) and engine.reset_cache(client, tiers=False)
        assert model.resets == [True, False]
        assert engine.canonical_metrics(client.get("/metrics").text) == {"running": 0.0}
        assert engine.effective_configuration(client, "")["version"] == "0.0"
        assert client.get("/v1/chat/completions").status_code == httpx.codes.NOT_FOUND
        assert client.post("/batch", json={"requests": [{"prompt": 1, "output_tokens": 1}]}).status_code == 400
        assert client.post("/batch", json={}, headers={"Authorization": "Bearer other"}).status_code == 401
    assert model.batches == []


SGLANG = {
    "sglang/__init__.py": "",
    "sglang/version.py": '__version__ = "0.5.17"\n',
    "sglang/srt/__init__.py": "",
    "sglang/srt/entrypoints/__init__.py": "",
    "sglang/srt/server_args.py": """\
import argparse

def prepare_server_args(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    return parser.parse_args(words)
""",
    "sglang/srt/entrypoints/engine.py": """\
import signal
from types import SimpleNamespace

class Engine:
    def __init__(self, server_args):
        self.flushes = 0
        tokenizer = SimpleNamespace(encode=lambda text: [len(word) for word in text.split()])
        model = SimpleNamespace(context_len=100, vocab_size=100)
        self.tokenizer_manager = SimpleNamespace(tokenizer=tokenizer, model_config=model)
        self.path = server_args.model_path

    def get_server_info(self):
        return {"model_path": self.path, "disable_radix_cache": False}

    def flush_cache(self):
        self.flushes += 1
        return SimpleNamespace(success=self.flushes > 1)

    def generate(self, prompt=None, input_ids=None, sampling_params=None):
        signal.signal(signal.SIGTERM, lambda *_: None)  # as the real one does, whose handler waits for its loop
        assert (prompt is None) != (input_ids is None)
        lengths = [len(text.split()) for text in prompt] if prompt else [len(ids) for ids in input_ids]
        return [
            {
                "text": "x" * told["max_new_tokens"],
                "output_ids": [7] * told["max_new_tokens"],
                "meta_info": {"prompt_tokens": length, "cached_tokens": 1, "finish_reason": {"type": "length", "length": 1}},
            }
            for length, told in zip(lengths, sampling_params, strict=True)
            if told["ignore_eos"] and told["temperature"] == 0
        ]
""",
    "prometheus_client/__init__.py": """\
class CollectorRegistry:
    pass

def generate_latest(registry):
    return b"sglang:num_running_reqs 0.0\\n" * len(registry.collected)
""",
    "prometheus_client/multiprocess.py": """\
def MultiProcessCollector(registry):
    registry.collected = [1]
""",
}


@pytest.fixture
def sglang_program(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Target]]:
    """The program, started by path as the engine's module has it, with a stand-in for SGLang that answers at once."""
    for name, text in SGLANG.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    identity = {"engine": {"kind": "sglang", "device": "cuda"}, "flags": {}, "environment": {}, "topology": "offline"}
    started = Launch(
        command_prefix=[sys.executable],
        model_folder=Path("models/tiny"),
        identity=identity,
        host="127.0.0.1",
        port=port,
        api_key=KEY,
        cores=(),
        folder=tmp_path,
    )
    words = [
        word for word in SglangEngine().command(started) if word not in ("--enable-metrics", "--enable-cache-report")
    ]
    at = words.index("--log-level-http")
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(tmp_path), **SglangEngine().environment(started)}
    program = subprocess.Popen([*words[:at], *words[at + 2 :]], env=environment, stderr=subprocess.PIPE)
    assert program.stderr is not None
    said = program.stderr.readline()
    assert b"takes batches" in said, said + program.stderr.read()
    yield program, Target("127.0.0.1", port, "model", KEY, Endpoint.COMPLETIONS, EXTRAS)
    program.kill()
    program.wait(10)
    program.stderr.close()


def test_sglangs_engine_takes_whole_batches_and_keeps_no_stamp_of_a_first_token(
    sglang_program: tuple[subprocess.Popen[bytes], Target],
) -> None:
    program, target = sglang_program
    rows = offered(target, LoadPoint("burst"))[0].requests.to_pylist()
    assert [row["completion_tokens"] for row in rows] == [3, 4, 5, 6, 7]
    assert {row["prompt_tokens"] for row in rows} == {2} and {row["finish_reason"] for row in rows} == {"length"}
    assert all(row["tpot_s"] is None and row["first_token_s"] is None and row["e2e_s"] >= 0 for row in rows)
    address = f"http://{target.host}:{target.port}"
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as client:
        engine = SglangEngine()
        assert engine.ready(client) and engine.reset_cache(client)  # refused once, and asked again
        assert engine.keeps_prefix_cache(client) is True
        assert engine.canonical_metrics(client.get("/metrics").text)["running"] == 0
        assert client.get("/server_info").json()["model_path"] == "models/tiny"
    # The engine took the signal for itself while it generated.
    program.send_signal(signal.SIGTERM)
    assert program.wait(10) == 0


def test_the_program_wants_to_know_the_engine() -> None:
    program = Path(offline_batch.__file__).with_name("__main__.py")
    done = subprocess.run(
        [sys.executable, str(program), "model"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and "name the engine first: vllm or sglang" in done.stderr
