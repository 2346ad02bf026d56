"""vLLM's `/metrics`, which the truth engine imitates, in canonical names.

The names are the same in vLLM 0.26 to 0.33. Counters end in `_total`; nearly all carry the labels model_name and engine.
"""

from collections.abc import Mapping
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

_SUMMED: Final[Mapping[str, str]] = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:request_success_total": "requests_finished",
    "vllm:prefix_cache_queries_total": "prefix_queried_tokens",
    "vllm:prefix_cache_hits_total": "prefix_hit_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    **{
        f"vllm:{theirs}_{part}": f"{ours}_{part}"
        for theirs, ours in (
            ("time_to_first_token_seconds", "ttft_s"),
            ("request_queue_time_seconds", "queue_time_s"),
            ("request_prefill_time_seconds", "prefill_time_s"),
            ("request_decode_time_seconds", "decode_time_s"),
            ("e2e_request_latency_seconds", "e2e_s"),
        )
        for part in ("sum", "count")
    },
}
_LARGEST: Final[Mapping[str, str]] = {"vllm:kv_cache_usage_perc": "kv_cache_usage"}
_CACHE_INFO: Final = "vllm:cache_config_info"


def canonical_metrics(text: str) -> dict[str, float]:
    """Canonical name → sum over all label sets; the largest for `kv_cache_usage`, which is a share."""
    values: dict[str, float] = {}
    # Most of the text is histogram buckets, which are not asked for: parsing them would take most of the time.
    for name, _, value in _samples(text, {**_SUMMED, **_LARGEST}):
        if name in _SUMMED:
            values[_SUMMED[name]] = values.get(_SUMMED[name], 0.0) + value
        else:
            values[_LARGEST[name]] = max(values.get(_LARGEST[name], 0.0), value)
    return values


def cache_info(text: str) -> dict[str, str]:
    """The labels of vLLM's `cache_config_info`: how the KV cache is really laid out. Empty where there is none."""
    for _, labels, _ in _samples(text, {_CACHE_INFO: ""}):
        return dict(labels)
    return {}


def _samples(text: str, wanted: Mapping[str, str]) -> list[tuple[str, Mapping[str, str], float]]:
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in wanted]
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
