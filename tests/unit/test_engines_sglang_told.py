"""What SGLang tells: its metrics, what it runs with, which lines it logs, and why it ended."""

import json
from typing import Any

import httpx
import pytest

from leverlab.engines.sglang_settings import effective_settings
from tests.unit.sglang_launch import ENGINE, client, identity

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


def test_adapters_are_told_as_objects_and_compared_by_name_and_path() -> None:
    told = {"lora_id": "7f", "lora_name": "adapter-1", "lora_path": "/models/a/adapter-1", "pinned": False}
    for settings in (
        effective_settings({"lora_paths": [told]}),
        effective_settings({"lora_paths": ["adapter-1=/models/a/adapter-1"]}),
    ):
        assert ENGINE.differences(identity(lora_paths=["adapter-1=/models/a/adapter-1"]), {"settings": settings}) == []
        assert ENGINE.differences(identity(lora_paths=["adapter-2=/models/a/adapter-2"]), {"settings": settings})


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
