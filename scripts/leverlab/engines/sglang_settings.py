"""The configuration that an SGLang server runs with, against the one that was asked for."""

import re
from collections.abc import Mapping
from typing import Any, Final

from leverlab.engines.base import Difference
from leverlab.engines.comparison import left_to_the_engine, number, same, shown
from leverlab.engines.prometheus import samples

_CALLED: Final[Mapping[str, str]] = {
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size",
    "expert_parallel_size": "ep_size",
    "ep": "ep_size",
    "fp8_gemm_backend": "fp8_gemm_runner_backend",
    "fp4_gemm_backend": "fp4_gemm_runner_backend",
    "speculative_draft_model": "speculative_draft_model_path",
}
"""Flags whose value stands under another name."""

_SECRET: Final = frozenset({"api_key", "admin_api_key", "ssl_keyfile_password"})
_STATES: Final = "internal_states"
_ADAPTERS: Final = "lora_paths"
_GAUGES: Final[Mapping[str, str]] = {
    "sglang:max_total_num_tokens": "max_total_num_tokens",
    "sglang:page_size": "page_size",
    "sglang:num_pages": "num_pages",
    "sglang:kv_cache_memory_usage_gb": "memory_gib",
}

_FACTS: Final[Mapping[str, re.Pattern[str]]] = {
    "model_loading_s": re.compile(r"Load weight end\. elapsed=([\d.]+) s"),
    "weight_memory_gib": re.compile(r"Load weight end\..* mem usage=([\d.]+) GB"),
    "kv_cache_dtype": re.compile(r"KV [Cc]ache (?:is )?allocated\. dtype: (?:torch\.)?(\w+)"),
    "kv_cache_tokens": re.compile(r"max_total_num_tokens=(\d+), chunked_prefill_size="),
    "chunked_prefill_size": re.compile(r"chunked_prefill_size=(-?\d+), max_prefill_tokens="),
    "max_running_requests": re.compile(r"max_running_requests=(\d+), context_len="),
    "decode_graph_capture_s": re.compile(r"Capture target decode CUDA graph end\. .*elapsed=([\d.]+) s"),
    "decode_graph_memory_gib": re.compile(r"Capture target decode CUDA graph end\. .*mem usage=([\d.]+) GB"),
    "prefill_graph_capture_s": re.compile(r"Capture target prefill CUDA graph end\. .*elapsed=([\d.]+) s"),
    "prefill_graph_memory_gib": re.compile(r"Capture target prefill CUDA graph end\. .*mem usage=([\d.]+) GB"),
}
_GIB: Final = 2**30
_GRAPH_SIZES: Final = re.compile(r"Capture target decode CUDA graph begin\. .*bs=\[([\d, ]+)\]")
_OVERRIDES: Final = re.compile(
    r"(?:overrid|disabling|(?:is|are) disabled because|not support|fall(?:ing)? back|is adjusted|auto set|is ignored)",
    re.IGNORECASE,
)
_STAMP: Final = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\] ")
COMPILATION: Final = re.compile(
    r"Capture \w+ \w+ \w+ graph|Capturing (?:batches|num tokens)|DeepGEMM.*(?:warm|compil|JIT)|torch\.compile|[Aa]utotun",
)
"""Lines of the log that tell of a compilation, a graph's capture or a kernel's tuning."""


def effective_settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """SGLang's resolved arguments as /server_info tells them, without its secrets.

    What the schedulers tell besides (one for each data-parallel rank, with all arguments once more) is left out, except
    how many requests run together: fewer than was asked for where the KV cache has no room for them.
    """
    settings = {name: value for name, value in info.items() if name not in {*_SECRET, _STATES}}
    if settings.get(_ADAPTERS):
        settings[_ADAPTERS] = [_adapter_as_asked(told) for told in settings[_ADAPTERS]]
    limits = [
        state["effective_max_running_requests_per_dp"]
        for state in info.get(_STATES, [])
        if "effective_max_running_requests_per_dp" in state
    ]
    return {**settings, "max_running_requests": sum(limits)} if limits else settings


def _adapter_as_asked(told: str | Mapping[str, Any]) -> str:
    """`name=path`, which SGLang 0.5.17 tells as an object of both and of an id that it drew."""
    return told if isinstance(told, str) else f"{told['lora_name']}={told['lora_path']}"


def cache_facts(metrics: str) -> dict[str, float]:
    """How the KV cache is laid out, from the gauges of /metrics: tokens, page size in tokens, pages, GiB."""
    return {_GAUGES[name]: value for name, _, value in samples(metrics, set(_GAUGES))}


def startup_facts(log: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the start-up log says besides: sizes, times of its steps, and the lines that name an override."""
    facts: dict[str, Any] = {"attention_backend": settings.get("attention_backend")}
    for name, pattern in _FACTS.items():
        found = pattern.search(log)
        if found:
            facts[name] = number(found[1])
    facts |= _measured(facts)
    sizes = _GRAPH_SIZES.search(log)
    if sizes:
        facts["decode_graph_batch_sizes"] = [int(size) for size in sizes[1].split(",")]
    # The line that lists all arguments holds every word.
    lines = [_STAMP.sub("", line).strip() for line in log.splitlines() if "server_args=" not in line]
    facts["overrides"] = sorted({line for line in lines if _OVERRIDES.search(line)})
    return facts


def _measured(facts: Mapping[str, Any]) -> dict[str, float]:
    """The facts that are metrics (`leverlab.metrics.SERVER_FACTS`); graphs of both phases together. SGLang's GB are GiB."""
    if "kv_cache_tokens" not in facts:
        return {}
    phases = ("decode", "prefill")
    measured = {
        "graph_capture_s": sum(facts.get(f"{phase}_graph_capture_s", 0) for phase in phases),
        "graph_memory_bytes": sum(facts.get(f"{phase}_graph_memory_gib", 0) for phase in phases) * _GIB,
    }
    weights = facts.get("weight_memory_gib")
    return measured if weights is None else {**measured, "weights_bytes": weights * _GIB}


def differences(identity: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Difference]:
    """Flags of `identity` that took another value than intended.

    What the server does not tell is not claimed to differ. A value left to the engine (`auto`) is expected to differ.
    """
    settings = effective.get("settings", {})
    found = []
    for flag, intended in identity["flags"].items():
        name, wanted = flag.replace("-", "_"), intended
        name = _CALLED.get(name, name)
        if name not in settings and name.startswith("no_") and intended is True:
            name, wanted = name.removeprefix("no_"), False
        if name in settings and not same(wanted, settings[name]):
            expected = left_to_the_engine(intended)
            found.append(Difference(flag, intended, shown(intended, settings[name]), expected=expected))
    return found
