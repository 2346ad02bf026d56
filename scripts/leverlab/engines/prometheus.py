"""An engine's `/metrics` in canonical names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from leverlab.engines.base import Engine


@dataclass(frozen=True, slots=True)
class MetricNames:
    """An engine's names for what has a canonical name. Nearly all carry labels of their own."""

    summed: Mapping[str, str]
    """Its name → the canonical one, of what is summed over all label sets."""
    largest: Mapping[str, str]
    """The same of shares, of which the largest counts."""


def histograms(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """Sum and count of each histogram in `names` (the engine's name without `prefix` → the canonical one)."""
    return {f"{prefix}{theirs}_{part}": f"{ours}_{part}" for theirs, ours in names.items() for part in ("sum", "count")}


VLLM_METRICS: Final = MetricNames(
    summed={
        "vllm:prompt_tokens_total": "prompt_tokens",
        "vllm:generation_tokens_total": "generation_tokens",
        "vllm:request_success_total": "requests_finished",
        "vllm:prefix_cache_queries_total": "prefix_queried_tokens",
        "vllm:prefix_cache_hits_total": "prefix_hit_tokens",
        "vllm:num_preemptions_total": "preemptions",
        "vllm:spec_decode_num_drafts_total": "drafts",
        "vllm:spec_decode_num_draft_tokens_total": "draft_tokens",
        "vllm:spec_decode_num_accepted_tokens_total": "accepted_tokens",
        "vllm:external_prefix_cache_queries_total": "external_queried_tokens",
        "vllm:external_prefix_cache_hits_total": "external_hit_tokens",
        "vllm:kv_offload_load_bytes_total": "restored_bytes",
        "vllm:kv_offload_load_time_total": "restore_s",
        "vllm:kv_offload_load_size_count": "restores",
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        **histograms(
            "vllm:",
            {
                "time_to_first_token_seconds": "ttft_s",
                "request_queue_time_seconds": "queue_time_s",
                "request_prefill_time_seconds": "prefill_time_s",
                "request_decode_time_seconds": "decode_time_s",
                "e2e_request_latency_seconds": "e2e_s",
                "nixl_xfer_time_seconds": "kv_transfer_s",
                "nixl_bytes_transferred": "kv_transfer_bytes",
            },
        ),
        "vllm:nixl_num_failed_transfers_total": "kv_transfers_failed",
    },
    largest={"vllm:kv_cache_usage_perc": "kv_cache_usage"},
)
"""vLLM 0.26 to 0.33, which the truth engine imitates."""

_CACHE_INFO: Final = "vllm:cache_config_info"


def snapshot(engine: Engine, client: httpx.Client) -> dict[str, float]:
    """The canonical metrics of one server now. Raises httpx.HTTPError where it does not tell."""
    answer = client.get("/metrics")
    answer.raise_for_status()
    return engine.canonical_metrics(answer.text)


def canonical_metrics(text: str, names: MetricNames) -> dict[str, float]:
    """Canonical name → sum over all label sets, or the largest."""
    values: dict[str, float] = {}
    # Most of the text is histogram buckets, which are not asked for: parsing them would take most of the time.
    for name, _, value in samples(text, {*names.summed, *names.largest}):
        if name in names.summed:
            canonical = names.summed[name]
            values[canonical] = values.get(canonical, 0.0) + value
        else:
            canonical = names.largest[name]
            values[canonical] = max(values.get(canonical, 0.0), value)
    return values


def cache_info(text: str) -> dict[str, str]:
    """The labels of vLLM's `cache_config_info`: how the KV cache is really laid out. Empty where there is none."""
    for _, labels, _ in samples(text, {_CACHE_INFO}):
        return dict(labels)
    return {}


def samples(text: str, wanted: set[str]) -> list[tuple[str, Mapping[str, str], float]]:
    """(name, labels, value) of each sample in `text` whose name is wanted."""
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in wanted]
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
