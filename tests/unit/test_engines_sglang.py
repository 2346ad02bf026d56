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
from leverlab.engines.sglang import SglangEngine

ENGINE = SglangEngine()


def identity(environment: Mapping[str, str] | None = None, **flags: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return {"engine": {"kind": "sglang", "device": "cuda"}, "flags": named, "environment": environment or {}}


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


METRICS = """\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:time_to_first_token_seconds_sum{engine_type="unified",is_streaming="true",model_name="model"} 0.03
sglang:time_to_first_token_seconds_bucket{engine_type="unified",is_streaming="true",le="0.2",model_name="model"} 1.0
sglang:time_to_first_token_seconds_count{engine_type="unified",is_streaming="true",model_name="model"} 1.0
sglang:e2e_request_latency_seconds_sum{engine_type="unified",is_streaming="true",model_name="model"} 0.9
sglang:e2e_request_latency_seconds_bucket{engine_type="unified",is_streaming="true",le="0.2",model_name="model"} 0.0
sglang:e2e_request_latency_seconds_count{engine_type="unified",is_streaming="true",model_name="model"} 1.0
sglang:e2e_request_latency_seconds_sum{engine_type="unified",is_streaming="false",model_name="model"} 0.1
sglang:e2e_request_latency_seconds_count{engine_type="unified",is_streaming="false",model_name="model"} 1.0
sglang:queue_time_seconds_sum{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 0.002
sglang:queue_time_seconds_bucket{dp_rank="0",engine_type="unified",le="0.2",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 1.0
sglang:queue_time_seconds_count{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 1.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 7.0
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 2.0
sglang:token_usage{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 0.25
sglang:max_total_num_tokens{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 845000.0
sglang:page_size{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 1.0
sglang:prompt_tokens_total{engine_type="unified",is_streaming="true",model_name="model"} 512.0
sglang:prompt_tokens_total{engine_type="unified",is_streaming="false",model_name="model"} 5.0
sglang:generation_tokens_total{engine_type="unified",is_streaming="true",model_name="model"} 128.0
sglang:generation_tokens_total{engine_type="unified",is_streaming="false",model_name="model"} 8.0
sglang:num_requests_total{engine_type="unified",is_streaming="true",model_name="model"} 1.0
sglang:num_requests_total{engine_type="unified",is_streaming="false",model_name="model"} 1.0
sglang:num_retracted_reqs{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pid="11416",pp_rank="0",tp_rank="0"} 0.0
"""
HITS = """\
sglang:cached_tokens_total{cache_source="device",engine_type="unified",model_name="model"} 1011.0
sglang:cached_tokens_total{cache_source="host",engine_type="unified",model_name="model"} 11.0
sglang:num_retracted_requests_total{dp_rank="0",engine_type="unified",model_name="model",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 3.0
"""


def test_metrics_get_canonical_names() -> None:
    values = ENGINE.canonical_metrics(METRICS + HITS)
    assert values == {
        "prompt_tokens": 517.0,
        "generation_tokens": 136.0,
        "requests_finished": 2.0,
        "prefix_queried_tokens": 517.0,
        "prefix_hit_tokens": 1022.0,
        "preemptions": 3.0,
        "running": 7.0,
        "waiting": 2.0,
        "kv_cache_usage": 0.25,
        "queue_time_s_sum": 0.002,
        "queue_time_s_count": 1.0,
        "ttft_s_sum": 0.03,
        "ttft_s_count": 1.0,
        "e2e_s_sum": 1.0,
        "e2e_s_count": 2.0,
    }


def test_counters_that_show_only_from_their_first_event_are_zero_before_it() -> None:
    values = ENGINE.canonical_metrics(METRICS)
    assert (values["prefix_hit_tokens"], values["preemptions"]) == (0.0, 0.0)
    assert ENGINE.canonical_metrics("") == {}, "a server that tells nothing is not claimed to have no hits"


def test_hits_below_the_gpu_are_told_apart_where_there_is_a_hierarchical_cache() -> None:
    hierarchical = 'sglang:hicache_host_total_tokens{engine_type="unified",model_name="model"} 4096.0\n'
    values = ENGINE.canonical_metrics(METRICS + HITS + hierarchical)
    told = {name: values[name] for name in ("prefix_hit_tokens", "external_queried_tokens", "external_hit_tokens")}
    assert told == {"prefix_hit_tokens": 1011.0, "external_queried_tokens": 517.0 - 1011.0, "external_hit_tokens": 11.0}
    assert "external_hit_tokens" not in ENGINE.canonical_metrics(METRICS + HITS)


def client(answer: Any) -> httpx.Client:
    return httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))


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


STARTUP = """\
[2026-11-24 13:00:01] server_args=ServerArgs(model_path='m', api_key='<API_KEY>', chunked_prefill_size=8192, disable_overlap_schedule=False, moe_a2a_fallback='x')
[2026-11-24 13:00:09] Load weight begin. avail mem=138.50 GB
[2026-11-24 13:00:12] Load weight end. elapsed=2.71 s, type=LlamaForCausalLM, avail mem=123.37 GB, mem usage=15.13 GB.
[2026-11-24 13:00:12] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 845000, K size: 51.57 GB, V size: 51.57 GB
[2026-11-24 13:00:13] Capture target decode CUDA graph begin. backend=full, num_tokens_per_req=1, bs=[1, 2, 4, 8], avail mem=19.90 GB
[2026-11-24 13:00:18] Capture target decode CUDA graph end. elapsed=5.12 s, mem usage=0.41 GB, avail mem=19.49 GB.
[2026-11-24 13:00:18] Capture target prefill CUDA graph begin. backend=breakable, num_tokens=[4, 8], avail mem=19.49 GB
[2026-11-24 13:01:11] Capture target prefill CUDA graph end. elapsed=53.20 s, mem usage=1.92 GB, avail mem=17.57 GB.
[2026-11-24 13:01:11] max_total_num_tokens=845000, chunked_prefill_size=8192, max_prefill_tokens=16384, max_running_requests=256, context_len=16384, available_gpu_mem=17.57 GB
[2026-11-24 13:01:12] Radix cache is disabled because --enable-mis is set.
[2026-11-24 13:01:14] The server is fired up and ready to roll!
"""
INFO = {
    "model_path": "m",
    "api_key": "secret",
    "admin_api_key": None,
    "ssl_keyfile_password": "also secret",
    "disable_radix_cache": False,
    "max_running_requests": 256,
    "chunked_prefill_size": 8192,
    "tp_size": 1,
    "random_seed": 0,
    "mem_fraction_static": 0.85,
    "attention_backend": "fa3",
    "kv_cache_dtype": "auto",
    "schedule_policy": "fcfs",
    "dllm_fdfo": False,
    "version": "0.5.17",
    "internal_states": [{"effective_max_running_requests_per_dp": 200, "api_key": "secret"}],
}


def effective() -> dict[str, Any]:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=METRICS) if request.url.path == "/metrics" else httpx.Response(200, json=INFO)

    return ENGINE.effective_configuration(client(answer), STARTUP)


def test_what_it_runs_with_is_told_without_its_secrets() -> None:
    told = effective()
    assert "secret" not in json.dumps(told)
    assert told["version"] == "0.5.17"
    assert told["cache"] == {"page_size": 1.0, "max_total_num_tokens": 845000.0}
    facts = {name: value for name, value in told.items() if name not in ("settings", "environment", "cache", "version")}
    assert facts == {
        "attention_backend": "fa3",
        "model_loading_s": 2.71,
        "weight_memory_gib": 15.13,
        "kv_cache_dtype": "bfloat16",
        "kv_cache_tokens": 845000,
        "chunked_prefill_size": 8192,
        "max_running_requests": 256,
        "decode_graph_batch_sizes": [1, 2, 4, 8],
        "decode_graph_capture_s": 5.12,
        "decode_graph_memory_gib": 0.41,
        "prefill_graph_capture_s": 53.2,
        "prefill_graph_memory_gib": 1.92,
        "graph_capture_s": pytest.approx(58.32),
        "graph_memory_bytes": pytest.approx(2.33 * 2**30),
        "weights_bytes": pytest.approx(15.13 * 2**30),
        "overrides": ["Radix cache is disabled because --enable-mis is set."],
    }


def differences(**flags: Any) -> dict[str, tuple[Any, bool]]:
    return {
        found.key: (found.effective, found.expected) for found in ENGINE.differences(identity(**flags), effective())
    }


def test_what_took_differs_in_nothing() -> None:
    taken = {"random_seed": 0, "disable_radix_cache": False, "mem_fraction_static": "0.85", "no_dllm_fdfo": True}
    assert differences(**taken, tensor_parallel_size=1, attention_backend="fa3", no_such_setting=3) == {}


def test_a_silent_override_is_named() -> None:
    assert differences(schedule_policy="lpm", disable_radix_cache=True, tensor_parallel_size=2) == {
        "schedule-policy": ("fcfs", False),
        "disable-radix-cache": (False, False),
        "tensor-parallel-size": (1, False),
    }
    assert differences(max_running_requests=256) == {"max-running-requests": (200, False)}, "the cache holds no more"
    assert differences(attention_backend="auto") == {"attention-backend": ("fa3", True)}


def test_lines_of_a_capture_are_known_and_those_of_batches_are_not() -> None:
    captures = [line for line in STARTUP.splitlines() if ENGINE.compilation.search(line)]
    assert len(captures) == 4
    batches = (
        "[2026-11-24 13:02:00] Prefill batch, #new-seq: 1, #new-token: 512, #cached-token: 0, token usage: 0.00, "
        "#running-req: 0, #queue-req: 0, #pending-token: 0, cuda graph: True, input throughput (token/s): 9.99",
        "[2026-11-24 13:02:00] Decode batch, #running-req: 1, #token: 520, token usage: 0.00, cuda graph: True, "
        "gen throughput (token/s): 210.11, #queue-req: 0",
        "[2026-11-24 13:02:00] Cache flushed successfully!",
    )
    assert not any(ENGINE.compilation.search(line) for line in batches)


SCHEDULER = "[2026-11-24 13:00:12] Scheduler hit an exception: Traceback (most recent call last):\n"
SIGNAL = "\n[2026-11-24 13:00:12] Received sigquit from a child process. It usually means the child failed.\n"
OUT_OF_MEMORY = (
    f'{SCHEDULER}  File "model_runner.py", line 1, in load_model\n'
    f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.\n{SIGNAL}"
)
SMALL_POOL = f"{SCHEDULER}RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n{SIGNAL}"
REFUSED = """\
[2026-11-24 13:00:01] Attention backend not specified. Use fa3 backend by default.
Traceback (most recent call last):
  File "server_args.py", line 3600, in __post_init__
ValueError: TRTLLM MHA backend for decode is only supported on Hopper (SM90)
"""
CHAIN = f"""\
{SCHEDULER}AssertionError: Invalid attention backend
{SIGNAL}[2026-11-24 13:00:13] RuntimeError: Rank 0 scheduler died during initialization (exit code: -3).
"""
PORT = "[2026-11-24 13:01:14] ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8123): address already in use\n"
USAGE = "usage: sglang serve [-h] --model-path MODEL_PATH\nsglang serve: error: unrecognized arguments: --max-seqs 4\n"
DIED = f"[2026-11-24 13:01:14] The server is fired up and ready to roll!\n{SCHEDULER}ValueError: a bad step\n{SIGNAL}"


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (OUT_OF_MEMORY, "out_of_memory", "CUDA out of memory"),
        (SMALL_POOL, "out_of_memory", "Not enough memory"),
        (REFUSED, "configuration_refused", "SGLang refuses the configuration: ValueError: TRTLLM MHA backend"),
        (CHAIN, "configuration_refused", "Invalid attention backend"),
        (PORT, "port_taken", "address already in use"),
        (USAGE, "configuration_refused", "SGLang does not take the flags: unrecognized arguments: --max-seqs 4"),
        (DIED, "server_died", "ValueError: a bad step"),
        ("[2026-11-24 13:00:09] Load weight begin. avail mem=138.50 GB\n", "server_died", "before it was ready"),
    ],
)
def test_why_a_server_ended(log: str, code: str, said: str) -> None:
    reason = ENGINE.explain_exit(log)
    assert reason.code == code
    assert said in reason.message
    assert not any(line.startswith("[2026") for line in reason.log)


def test_an_offline_batch_is_the_same_flags_to_a_program_of_its_own() -> None:
    served = identity(max_running_requests=4)
    words = ENGINE.command(launch({**served, "topology": "offline"}, command_prefix=["python"]))
    assert words[1].endswith("leverlab/offline_batch/__main__.py") and words[2] == "sglang"
    assert words[3:] == ENGINE.command(launch(served, command_prefix=["python"]))[3:]
