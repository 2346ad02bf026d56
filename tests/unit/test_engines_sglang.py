"""SGLang's module without SGLang: metrics as its own collectors wrote them, logs and answers as its source has them, 0.5.17."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from leverlab.engines import engine_for
from leverlab.engines.base import OPENAI_REQUEST_EXTRAS, EngineUnreachableError, Launch, Settings
from tests.unit.sglang_launch import ENGINE, client, identity


def launch(of: Mapping[str, Any], **changed: Any) -> Launch:
    values = {"command_prefix": ["python"], "model_folder": Path("models/tiny"), "host": "127.0.0.1", "port": 8123}
    return Launch(**{**values, "identity": of, "api_key": "secret", "cores": [], "folder": Path(), **changed})


def test_a_false_switch_is_left_out_because_sglang_has_no_negations() -> None:
    words = ENGINE.command(launch(identity(disable_radix_cache=False, enable_metrics=True, max_running_requests=4)))
    assert words[:2] == ["python", "-c"]
    assert words[3:5] == ["--model-path", "models/tiny"]
    assert words[5:11] == ["--served-model-name", "model", "--host", "127.0.0.1", "--port", "8123"]
    given = ["--enable-metrics", "--max-running-requests", "4"]
    assert words[11:] == [*given, "--log-level-http", "warning", "--enable-cache-report"]


def test_an_entry_that_forgets_the_metrics_has_them_all_the_same() -> None:
    """A server without them runs, and nothing can be measured on it."""
    words = ENGINE.command(launch(identity(max_running_requests=4)))
    assert {"--enable-metrics", "--enable-cache-report"} <= set(words)


def test_the_environment_is_offline_and_the_identity_has_the_last_word() -> None:
    environment = ENGINE.environment(launch(identity({"DO_NOT_TRACK": "0"}), gpus=["GPU-1", "GPU-2"]))
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert environment["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == environment["DO_NOT_TRACK"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in ENGINE.environment(launch(identity()))


LAUNCH_SERVER = """\
import json, multiprocessing, os, sys

def child(queue):
    queue.put([__name__, sorted(name for name in os.environ if "LEVERLAB" in name)])

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.SimpleQueue()
    process = spawn.Process(target=child, args=(queue,))
    process.start()
    told = queue.get()
    process.join()
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().decode().split(chr(0))
    print(json.dumps({"arguments": sys.argv[1:], "child": told, "command_line": words}))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A package `sglang` that has what leverlab starts and asks of the real one, and says how it was called."""
    files = {
        "sglang/__init__.py": "",
        "sglang/version.py": '__version__ = "0.5.17"\n',
        "sglang/launch_server.py": LAUNCH_SERVER,
        "sglang/srt/__init__.py": "",
        "sglang/srt/server_args.py": SERVER_ARGS,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


SERVER_ARGS = """\
import argparse

class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--model-path", "--model", required=True)
        parser.add_argument("--max-running-requests", type=int)
        parser.add_argument("--disable-radix-cache", action="store_true")
        parser.add_argument("--dllm-fdfo", action=argparse.BooleanOptionalAction, default=True)
        parser.add_argument("--log-level", default="info")

    @classmethod
    def from_cli_args(cls, arguments):
        made = cls()
        made.arguments = arguments
        return made

    def check_server_args(self):
        print("a line of its own")
        if self.arguments.max_running_requests == 0:
            raise ValueError(f"max_running_requests is zero for {self.arguments.model_path}")
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_the_key_is_an_argument_and_on_no_command_line_and_spawned_processes_start(stand_in: Path) -> None:
    started = launch(identity(max_running_requests=4), command_prefix=[sys.executable])
    environment = {"PYTHONPATH": str(stand_in), **ENGINE.environment(started)}
    done = subprocess.run(
        ENGINE.command(started), env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    told = json.loads(done.stdout)
    assert told["arguments"][-1] == "--api-key=secret"
    assert told["arguments"][:2] == ["--model-path", "models/tiny"]
    assert told["child"] == ["__mp_main__", []]
    assert "secret" not in " ".join(told["command_line"])


def asked(stand_in: Path, tmp_path: Path) -> list[str]:
    """A command prefix whose Python sees the stand-in."""
    script = tmp_path / "python-with-sglang"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{stand_in}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return [str(script)]


def test_its_own_parser_is_asked_about_every_treatment_at_once(stand_in: Path, tmp_path: Path) -> None:
    treatments = [
        Settings({"max-running-requests": 4, "disable-radix-cache": False}, {"SGLANG_ANYTHING": "1"}),
        Settings({"max-running-request": 4}, {}),
        Settings({"max-running-requests": "four"}, {}),
        Settings({"dllm-fdfo": False}, {}),
        Settings({"no-dllm-fdfo": True, "disable-radix-cache": True}, {}),
        Settings({"disable-radix-cach": False}, {}),
        Settings({"api-key": "mine"}, {}),
    ]
    answers = ENGINE.check_flags(asked(stand_in, tmp_path), treatments)
    assert [answer and answer.code for answer in answers] == [
        *(None, "unknown_flag", "bad_flag_value", "bad_flag_value", None, "unknown_flag", "reserved_flag")
    ]
    said = [answer.message if answer else "" for answer in answers]
    assert said[1] == "SGLang 0.5.17 has no flag --max-running-request; did you mean --max-running-requests?"
    assert "invalid int value: 'four'" in said[2]
    assert said[3] == "--dllm-fdfo of SGLang 0.5.17 is turned off by `no-dllm-fdfo: true`, not by false"
    assert "did you mean --disable-radix-cache?" in said[5]


def test_the_configuration_is_refused_in_sglangs_own_words(stand_in: Path, tmp_path: Path) -> None:
    prefix = asked(stand_in, tmp_path)
    refused = ENGINE.check_configuration(launch(identity(max_running_requests=0), command_prefix=prefix))
    assert refused is not None
    assert refused.code == "configuration_refused"
    assert refused.message == "SGLang 0.5.17: ValueError: max_running_requests is zero for models/tiny"
    assert ENGINE.check_configuration(launch(identity(max_running_requests=1), command_prefix=prefix)) is None


def test_an_environment_without_sglang_is_said_to_be_unreachable() -> None:
    with pytest.raises(EngineUnreachableError, match="SGLang could not be asked"):
        ENGINE.check_flags([sys.executable], [Settings({}, {})])


def test_a_reset_is_asked_for_again_while_requests_are_still_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leverlab.engines.sglang._RESET_PAUSE_S", 0.0)
    answers = [
        httpx.Response(400, text="Timed out waiting for idle state.\n"),
        httpx.Response(200, text="Cache flushed."),
    ]
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answers[len(seen) - 1]

    assert ENGINE.reset_cache(client(answer))
    assert [(request.method, request.url.path) for request in seen] == [("POST", "/flush_cache")] * 2
    waits_s = float(seen[0].url.params["timeout"])
    assert seen[0].extensions["timeout"]["read"] > waits_s > 0, "the client waits longer than the server does"
    assert not ENGINE.reset_cache(client(lambda _: httpx.Response(400, text="Flush cache failed.\n")))


@pytest.mark.parametrize("hierarchical", [True, False])
def test_a_hierarchical_cache_cannot_be_kept_while_the_gpus_is_emptied(*, hierarchical: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"enable_hierarchical_cache": hierarchical})

    assert ENGINE.reset_cache(client(answer), tiers=False) is not hierarchical
    assert ENGINE.reset_cache(client(answer))


def test_another_server_that_refuses_the_key_is_not_ready() -> None:
    def foreign(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path == "/health" else 401, json={"error": "Unauthorized"})

    def warming_up(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503 if request.url.path == "/health" else 200, json={"data": [{"id": "model"}]})

    assert not ENGINE.ready(client(foreign))
    assert not ENGINE.ready(client(warming_up))
    assert ENGINE.ready(client(lambda _: httpx.Response(200, json={"data": [{"id": "model"}]})))


def test_whether_it_keeps_a_cache_is_what_it_says() -> None:
    for disabled in (True, False):
        server = client(lambda _, told=disabled: httpx.Response(200, json={"disable_radix_cache": told}))
        assert ENGINE.keeps_prefix_cache(server) is not disabled
    assert ENGINE.keeps_prefix_cache(client(lambda _: httpx.Response(404))) is None


def test_requests_are_the_bytes_that_vllm_gets() -> None:
    assert ENGINE.request_extras() == dict(OPENAI_REQUEST_EXTRAS) == engine_for("vllm").request_extras()


def test_an_offline_batch_is_the_same_flags_to_a_program_of_its_own() -> None:
    served = identity(max_running_requests=4)
    words = ENGINE.command(launch({**served, "topology": "offline"}, command_prefix=["python"]))
    assert words[1].endswith("leverlab/offline_batch/__main__.py") and words[2] == "sglang"
    assert words[3:] == ENGINE.command(launch(served, command_prefix=["python"]))[3:]


def test_transfers_of_kv_cache_are_told_in_seconds_and_bytes() -> None:
    text = """\
# TYPE sglang:kv_transfer_latency_ms histogram
sglang:kv_transfer_latency_ms_sum{engine_type="prefill"} 30.0
sglang:kv_transfer_latency_ms_count{engine_type="prefill"} 2.0
# TYPE sglang:kv_transfer_total_mb histogram
sglang:kv_transfer_total_mb_sum{engine_type="prefill"} 1024.0
sglang:kv_transfer_total_mb_count{engine_type="prefill"} 2.0
"""
    values = ENGINE.canonical_metrics(text)
    assert values == {
        "kv_transfer_s_sum": pytest.approx(0.03),
        "kv_transfer_s_count": 2,
        "kv_transfer_bytes_sum": 2**30,
        "kv_transfer_bytes_count": 2,
    }
