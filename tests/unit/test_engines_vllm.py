"""vLLM's module without vLLM: command lines, environments, logs and answers as vLLM 0.32 really writes them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from leverlab.engines import engine_for
from leverlab.engines.base import Launch, Settings
from leverlab.engines.cores import dealt
from leverlab.engines.flags import flag_words
from leverlab.engines.prometheus import cache_info
from leverlab.engines.vllm import VllmEngine
from leverlab.engines.vllm_settings import effective_settings, startup_facts
from leverlab.load.plan import KEY_VARIABLE

ENGINE = VllmEngine()


def identity(environment: Mapping[str, str] | None = None, device: str = "cpu", **flags: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return {"engine": {"kind": "vllm", "device": device}, "flags": named, "environment": environment or {}}


def launch(of: Mapping[str, Any], **changed: Any) -> Launch:
    values = {"command_prefix": ["python"], "model_folder": Path("models/tiny"), "host": "127.0.0.1", "port": 8123}
    return Launch(**{**values, "identity": of, "api_key": "secret", "cores": [], "folder": Path(), **changed})


def test_flags_become_words() -> None:
    flags = {"a": True, "b": False, "c": {"y": 1, "x": None}, "d": [1, 2], "e": 0.5, "f": "auto", "g": -1}
    assert flag_words(flags) == [
        *("--a", "--no-b", "--c", '{"x":null,"y":1}', "--d", "1", "2", "--e", "0.5", "--f", "auto", "--g=-1")
    ]


def test_the_command_needs_no_script_and_never_holds_the_key() -> None:
    words = ENGINE.command(launch(identity(max_num_seqs=4, enable_prefix_caching=False)))
    assert words[:2] == ["python", "-c"] and "vllm.entrypoints.cli.main" in words[2]
    assert words[3:5] == ["serve", "models/tiny"]
    assert words[5:11] == ["--served-model-name", "model", "--host", "127.0.0.1", "--port", "8123"]
    assert words[11:] == ["--max-num-seqs", "4", "--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    assert "secret" not in " ".join(words)


def test_an_identity_that_wants_access_logs_gets_them() -> None:
    assert "--disable-uvicorn-access-log" not in ENGINE.command(launch(identity(disable_uvicorn_access_log=False)))


def test_the_environment_is_offline_has_the_key_and_binds_the_cores() -> None:
    environment = ENGINE.environment(launch(identity({"VLLM_CPU_KVCACHE_SPACE": "1"}), cores=[0, 1, 2]))
    assert environment[KEY_VARIABLE] == "secret"
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_SERVER_DEV_MODE"] == environment["DO_NOT_TRACK"] == "1"
    assert (environment["VLLM_CPU_OMP_THREADS_BIND"], environment["OMP_NUM_THREADS"]) == ("0,1,2", "3")
    assert environment["NUMBA_NUM_THREADS"] == "3", "else numba takes all cores of the machine"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in environment


def test_two_starts_of_a_server_find_each_others_compiled_code() -> None:
    """vLLM keeps it under a key that is made of every `VLLM_` variable it knows, the API key's among them."""
    first, second = (ENGINE.environment(replace(launch(identity()), api_key=key)) for key in ("one", "two"))
    differing = {name for name in first if first[name] != second[name]}
    assert differing == {KEY_VARIABLE}


def test_the_key_reaches_the_server_by_its_environment_alone(tmp_path: Path) -> None:
    """What the module is told, asked of a stand-in for vLLM's package."""
    package = tmp_path / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(
        "import json, os, sys\n"
        "seen = open('/proc/self/cmdline').read()\n"
        f"print(json.dumps([sys.argv[1:], '{KEY_VARIABLE}' in os.environ, 'secret' in seen]))\n"
    )
    # A random key may begin with a dash, and a parser would take it for another flag.
    wanted = replace(launch(identity(max_num_seqs=4)), command_prefix=[sys.executable], api_key="-secret")
    done = subprocess.run(
        ENGINE.command(wanted),
        env={**os.environ, **ENGINE.environment(wanted), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    told, still_in_environment, shown = json.loads(done.stdout)
    assert told[-1] == "--api-key=-secret" and "--max-num-seqs" in told
    assert not still_in_environment and not shown


def test_the_identity_has_the_last_word() -> None:
    environment = ENGINE.environment(launch(identity({"OMP_NUM_THREADS": "1"}), cores=[0, 1]))
    assert environment["OMP_NUM_THREADS"] == "1"


def test_a_gpu_engine_sees_its_leased_gpus_and_no_binding_of_cores() -> None:
    environment = ENGINE.environment(launch(identity(device="cuda"), cores=[0, 1], gpus=["GPU-a", "GPU-b"]))
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment


@pytest.mark.parametrize(
    ("cores", "ranks", "shares"),
    [([0, 1, 2, 3], 2, [[0, 1], [2, 3]]), ([0, 1, 2], 2, [[0], [1]]), ([5], 2, [[5], [5]]), ([0, 1], 1, [[0, 1]])],
)
def test_cores_are_dealt_to_ranks(cores: list[int], ranks: int, shares: list[list[int]]) -> None:
    assert dealt(cores, ranks) == shares
    environment = ENGINE.environment(launch(identity(tensor_parallel_size=ranks), cores=cores))
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "|".join(",".join(map(str, rank)) for rank in shares)


METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7952559099684293e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 77.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 2.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 5.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 421.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 128.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 64.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 7.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.5
vllm:cache_config_info{block_size="128",enable_prefix_caching="True",num_gpu_blocks="1024"} 1.0
"""


def test_metrics_get_canonical_names_summed_over_engines() -> None:
    assert ENGINE.canonical_metrics(METRICS) == {
        "running": 7.0,
        "waiting": 1.0,
        "kv_cache_usage": 0.75,
        "prompt_tokens": 100.0,
        "requests_finished": 7.0,
        "prefix_queried_tokens": 421.0,
        "prefix_hit_tokens": 128.0,
        "external_hit_tokens": 64.0,
        "ttft_s_count": 7.0,
        "ttft_s_sum": 0.5,
    }
    assert cache_info(METRICS)["num_gpu_blocks"] == "1024"


def client(answer: Any) -> httpx.Client:
    return httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))


def test_a_reset_is_asked_for_until_the_server_says_that_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leverlab.engines.vllm._RESET_PAUSE_S", 0.0)
    answers = iter([False, False, True])
    assert ENGINE.reset_cache(client(lambda _: httpx.Response(200, json={"success": next(answers)})))
    assert list(answers) == []
    assert not ENGINE.reset_cache(client(lambda _: httpx.Response(200, json={"success": False})))
    assert not ENGINE.reset_cache(client(lambda _: httpx.Response(404)))


def test_a_reset_reaches_the_tiers_unless_they_are_to_be_kept() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.params["reset_external"])
        return httpx.Response(200, json={"success": True})

    assert ENGINE.reset_cache(client(answer)) and ENGINE.reset_cache(client(answer), tiers=False)
    assert seen == ["true", "false"]


def test_another_server_that_refuses_the_key_is_not_ready() -> None:
    def foreign(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path == "/health" else 401)

    def ours(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": "model"}]})

    assert not ENGINE.ready(client(foreign))
    assert ENGINE.ready(client(ours))


STARTUP = """\
(APIServer pid=1) INFO 11-21 10:11:30 [api_utils.py:286] non-default args: {'model_tag': 'm', 'enable_prompt_tokens_details': True, 'max_num_seqs': 64}
(APIServer pid=1) WARNING 11-21 10:11:30 [vllm.py:725] Model Runner V2 requires Triton; using the V1 model runner instead.
(EngineCore pid=2) INFO 11-21 10:11:36 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: compilation_config={'mode': <CompilationMode.NONE: 0>, 'cudagraph_mode': <CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>}
(Worker pid=3) INFO 11-21 10:11:44 [cuda.py:507] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'FLASHINFER'].
(EngineCore pid=2) INFO 11-21 10:11:44 [kv_cache_utils.py:2327] CPU KV cache size: 131,072 tokens, Maximum concurrency for 4,096 tokens per request: 32.00x
(EngineCore pid=2) INFO 11-21 10:11:47 [core.py:402] init engine (profile, create kv cache, warmup model) took 2.95 s
"""
CONFIGURATION = {
    "instance_id": "17",
    "model_config": {"dtype": "torch.bfloat16", "seed": 0, "enforce_eager": True, "quantization": None},
    "cache_config": {"cache_dtype": "auto", "enable_prefix_caching": True, "gpu_memory_utilization": 0.9},
    "scheduler_config": {"max_num_seqs": 4, "async_scheduling": False},
    "compilation_config": {"mode": 0, "cudagraph_mode": 0},
    "lora_config": None,
    "speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "more": 1},
}


def differences(of: Mapping[str, Any], variables: Mapping[str, Any] | None = None) -> dict[str, tuple[Any, bool]]:
    effective = {"settings": effective_settings(CONFIGURATION, STARTUP), "environment": variables or {}}
    return {found.key: (found.effective, found.expected) for found in ENGINE.differences(of, effective)}


def test_what_took_differs_in_nothing() -> None:
    taken = {"seed": 0, "enable_prefix_caching": True, "kv_cache_dtype": "auto", "gpu_memory_utilization": 0.9}
    spelled = {"dtype": "bfloat16", "enable_lora": False, "max_num_seqs": "4", "enable_prompt_tokens_details": True}
    nested = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4}}
    assert differences(identity(**taken, **spelled, **nested)) == {}


def test_a_silent_override_is_named() -> None:
    asked = identity(async_scheduling=True, max_num_seqs=64, enable_lora=True, quantization="fp8")
    assert differences(asked) == {
        "async-scheduling": (False, False),
        "max-num-seqs": (4, False),
        "enable-lora": (None, False),
        "quantization": (None, False),
    }


def test_what_is_left_to_the_engine_is_expected_to_differ() -> None:
    assert differences(identity(dtype="auto")) == {"dtype": ("torch.bfloat16", True)}


def test_a_part_of_a_mapping_that_did_not_take_is_named_by_its_log_name() -> None:
    asked = identity(compilation_config={"cudagraph_mode": "NONE"})
    assert differences(asked) == {"compilation-config": ({"cudagraph_mode": "FULL_AND_PIECEWISE"}, False)}
    assert differences(identity(compilation_config={"cudagraph_mode": "FULL_AND_PIECEWISE"})) == {}


def test_a_gpu_server_tells_the_memory_of_its_weights_and_graphs() -> None:
    log = (
        "(EngineCore pid=2) INFO 11-21 10:11:40 [model_runner.py:1] Model loading took 14.99 GiB and 3.1 seconds\n"
        "(EngineCore pid=2) INFO 11-21 10:11:44 [kv_cache_utils.py:2327] GPU KV cache size: 860,000 tokens\n"
        "(EngineCore pid=2) INFO 11-21 10:11:47 [model_runner.py:2] Graph capturing finished in 6 secs, took 0.55 GiB\n"
    )
    facts = startup_facts(log)
    assert facts["weights_bytes"] == pytest.approx(14.99 * 2**30)
    assert (facts["graph_capture_s"], facts["graph_memory_bytes"]) == (6, pytest.approx(0.55 * 2**30))


STARTS = {
    # v1/worker/gpu/model_runner.py, v1/core/kv_cache_utils.py, compilation/monitor.py, v1/worker/gpu_worker.py of each release.
    "0.26": (
        "INFO 11-21 10:11:40 [gpu_worker.py:378] Using V2 Model Runner\n"
        "INFO 11-21 10:11:40 [model_runner.py:306] Model loading took 14.99 GiB and 3.100000 seconds\n"
        "INFO 11-21 10:11:43 [monitor.py:53] torch.compile took 5.25 s in total\n"
        "INFO 11-21 10:11:44 [kv_cache_utils.py:2177] GPU KV cache size: 860,000 tokens\n"
        "INFO 11-21 10:11:44 [kv_cache_utils.py:2178] Maximum concurrency for 16,384 tokens per request: 52.49x\n"
    ),
    "0.33": (
        "INFO 11-21 10:11:40 [gpu_worker.py:513] Using V2 Model Runner\n"
        "INFO 11-21 10:11:40 [model_runner.py:429] Model loading took 14.99 GiB memory and 3.100000 seconds\n"
        "INFO 11-21 10:11:43 [monitor.py:63] [backbone] torch.compile took 5.25 s in total\n"
        "INFO 11-21 10:11:44 [kv_cache_utils.py:1147] GPU KV cache size: 860,000 tokens, "
        "Maximum concurrency for 16,384 tokens per request: 52.49x\n"
    ),
    "0.33, with a part of the cache in the host's memory": (
        "INFO 11-21 10:11:40 [gpu_worker.py:513] Using V2 Model Runner\n"
        "INFO 11-21 10:11:40 [model_runner.py:429] Model loading took 14.99 GiB memory and 3.100000 seconds\n"
        "INFO 11-21 10:11:43 [monitor.py:63] torch.compile took 5.25 s in total\n"
        "INFO 11-21 10:11:44 [kv_cache_utils.py:1147] GPU + host KV cache size: 860,000 tokens, "
        "Maximum concurrency for 16,384 tokens per request: 52.49x\n"
    ),
}


@pytest.mark.parametrize("release", STARTS)
def test_each_release_words_its_start_in_its_way(release: str) -> None:
    told = startup_facts(STARTS[release])
    assert (told["model_runner"], told["kv_cache_tokens"], told["model_loading_s"]) == ("V2", 860_000, 3.1)
    assert (told["torch_compile_s"], told["weights_bytes"]) == (5.25, pytest.approx(14.99 * 2**30))


def test_a_kernel_that_is_compiled_while_it_serves_is_a_compilation() -> None:
    """vLLM 0.26 on an H100, and the line at the end of its start that announces that it will tell."""
    seen = (
        "(EngineCore pid=6086) WARNING 11-26 07:24:12 [jit_monitor.py:135] Triton kernel JIT compilation during inference: "
        "rejection_greedy_sample_kernel. This causes a latency spike; consider extending warmup to cover this shape/config."
    )
    announced = (
        "(EngineCore pid=6086) INFO 11-26 07:24:08 [jit_monitor.py:79] Kernel JIT monitor activated; monitored JIT "
        "compilations during inference will use mode=warn."
    )
    assert ENGINE.compilation.search(seen) and not ENGINE.compilation.search(announced)


def test_variables_are_compared_and_what_the_server_does_not_tell_is_not_claimed() -> None:
    asked = identity({"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_USE_V2_MODEL_RUNNER": "1", "OTHER": "x"}, no_such_setting=3)
    told = {"VLLM_CPU_KVCACHE_SPACE": 1, "VLLM_USE_V2_MODEL_RUNNER": False}
    assert differences(asked, told) == {"VLLM_USE_V2_MODEL_RUNNER": (False, False)}


def test_the_startup_log_tells_sizes_backends_and_overrides() -> None:
    assert startup_facts(STARTUP) == {
        "attention_backend": "FLASH_ATTN",
        "model_runner": "V1",
        "kv_cache_tokens": 131072,
        "graph_capture_s": 0,
        "graph_memory_bytes": 0,
        "engine_init_s": 2.95,
        "overrides": ["Model Runner V2 requires Triton; using the V1 model runner instead."],
    }


def test_without_server_info_the_arguments_are_all_there_is() -> None:
    assert effective_settings(None, STARTUP) == {
        "arguments": {"model_tag": "m", "enable_prompt_tokens_details": True, "max_num_seqs": 64}
    }


def test_adapters_in_the_log_leave_the_other_arguments_known() -> None:
    """They stand there as objects, and with them every argument of the line was unknown."""
    log = (
        "INFO 11-21 10:11:30 [api_utils.py:286] non-default args: {'model_tag': 'm', 'lora_modules': "
        "[LoRAModulePath(name='adapter-1', path='/a/adapter-1', base_model_name=None, is_3d_lora_weight=False)], "
        "'enable_prompt_tokens_details': True}"
    )
    settings = effective_settings(None, log)
    assert settings["arguments"] == {
        "model_tag": "m", "lora_modules": ["adapter-1=/a/adapter-1"], "enable_prompt_tokens_details": True,
    }  # fmt: skip
    taken = identity(lora_modules=["adapter-1=/a/adapter-1"], enable_prompt_tokens_details=True)
    assert ENGINE.differences(taken, {"settings": settings}) == []
    for asked in ({"lora_modules": ["adapter-2=/a/adapter-2"]}, {"enable_prompt_tokens_details": False}):
        assert len(ENGINE.differences(identity(**asked), {"settings": settings})) == 1


def test_flags_that_leverlab_sets_itself_are_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leverlab.engines.own_check.OwnParser._ask", lambda *_: [None])
    [reason] = ENGINE.check_flags(["python"], [Settings({"port": 1}, {})])
    assert reason is not None
    assert (reason.code, "--port" in reason.message) == ("reserved_flag", True)


def test_an_unknown_kind_names_the_known_ones() -> None:
    assert engine_for("vllm").kind == "vllm"
    with pytest.raises(ValueError, match="vllm, sglang, static, truth"):
        engine_for("vlm")


def test_an_offline_batch_is_the_same_flags_to_a_program_of_its_own() -> None:
    served = identity(max_num_seqs=4)
    words = ENGINE.command(launch({**served, "topology": "offline"}))
    assert words[1].endswith("leverlab/offline_batch/__main__.py")
    assert words[2] == "vllm"
    assert words[3:] == ENGINE.command(launch(served))[4:]
