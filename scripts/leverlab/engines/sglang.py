"""SGLang, 0.5.17 and later: how its server is started, asked, reset and understood."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from leverlab import offline_batch
from leverlab.engines.base import OPENAI_REQUEST_EXTRAS, Difference, Launch, Settings, Transfer
from leverlab.engines.exits import explain_exit
from leverlab.engines.flags import flag_words
from leverlab.engines.inherited import LIBRARY_VARIABLES
from leverlab.engines.keyed_start import keyed_start
from leverlab.engines.own_check import OwnParser
from leverlab.engines.prometheus import MetricNames, canonical_metrics, histograms, samples
from leverlab.engines.sglang_exit import LOG_WORDS
from leverlab.engines.sglang_settings import COMPILATION, cache_facts, differences, effective_settings, startup_facts
from leverlab.load.plan import KEY_VARIABLE
from leverlab.records import Reason

_RESET_ATTEMPTS: Final = 3
_RESET_WAIT_S: Final = 10.0
"""How long SGLang waits until nothing runs, before it refuses."""
_RESET_PAUSE_S: Final = 0.5
_INFO_TIMEOUT_S: Final = 60.0

_ALWAYS: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",  # else each look at /health generates a token and takes a second
}

_METRICS: Final = MetricNames(
    summed={
        "sglang:prompt_tokens_total": "prompt_tokens",
        "sglang:generation_tokens_total": "generation_tokens",
        "sglang:num_requests_total": "requests_finished",
        "sglang:cached_tokens_total": "prefix_hit_tokens",
        "sglang:num_retracted_requests_total": "preemptions",
        "sglang:num_transfer_failed_reqs_total": "kv_transfers_failed",
        "sglang:load_back_duration_seconds_count": "restores",
        "sglang:load_back_duration_seconds_sum": "restore_s",
        "sglang:num_running_reqs": "running",
        "sglang:num_queue_reqs": "waiting",
        **histograms(
            "sglang:",
            {
                "time_to_first_token_seconds": "ttft_s",
                "queue_time_seconds": "queue_time_s",
                "e2e_request_latency_seconds": "e2e_s",
                "kv_transfer_latency_ms": "kv_transfer_s",
                "kv_transfer_total_mb": "kv_transfer_bytes",
            },
        ),
    },
    largest={"sglang:token_usage": "kv_cache_usage"},
)
"""The same in SGLang 0.5.17 to 0.5.23. Prompts, tokens and hits are counted when a request has ended."""

_IN_OTHER_UNITS: Final = {"kv_transfer_s_sum": 1e-3, "kv_transfer_bytes_sum": 2**20}
"""Sums of histograms that SGLang keeps in milliseconds and in MiB → what one of these is."""

_CACHED_TOKENS: Final = "sglang:cached_tokens_total"
_HOST_TOKENS: Final = "sglang:hicache_host_total_tokens"
_IN_THE_GPU: Final = ("device", "total")
"""Sources of cached tokens that are the GPU's own cache; the others are the host's memory and a storage backend."""

_ABSENT_UNTIL_ONE: Final = ("prefix_hit_tokens", "preemptions")
"""Counters that SGLang shows from their first event on."""

_PARSER: Final = OwnParser(
    kind="sglang",
    name="SGLang",
    reserved=frozenset(
        {
            *("host", "port", "api-key", "admin-api-key", "served-model-name"),
            *("model", "model-path", "config", "fastapi-root-path"),
        }
    ),
    own_variables=("SGLANG_*", "SGL_*", "PROMETHEUS_MULTIPROC_DIR", *LIBRARY_VARIABLES),
    offline={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"},
    negations=False,
)


class SglangEngine:
    """One SGLang server. It needs no console script, so that it starts from any interpreter that can import SGLang."""

    kind = "sglang"
    served_model_name = "model"
    adapter_field = "lora_path"
    own_variables = _PARSER.own_variables
    compilation = COMPILATION

    def command(self, launch: Launch) -> list[str]:
        flags = dict(launch.identity["flags"])
        # A line in the log for each request and each look at /metrics would be work inside the measurement.
        flags.setdefault("log-level-http", "warning")
        # Off by default, and what is measured is read from them: no entry of engines.yaml may forget them.
        flags.setdefault("enable-metrics", True)
        flags.setdefault("enable-cache-report", True)
        offline = launch.identity.get("topology") == "offline"
        return [
            *launch.command_prefix,
            *([str(offline_batch.PROGRAM), self.kind] if offline else keyed_start("sglang.launch_server")),
            *("--model-path", str(launch.model_folder)),
            *("--served-model-name", self.served_model_name),
            *("--host", launch.host, "--port", str(launch.port)),
            *flag_words(flags, negations=_PARSER.negations),
        ]

    def environment(self, launch: Launch) -> dict[str, str]:
        environment = {**_ALWAYS, KEY_VARIABLE: launch.api_key}
        if launch.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(launch.gpus)
        return environment | dict(launch.identity["environment"])

    def handing_over(self, transfer: Transfer, flags: Mapping[str, Any]) -> Settings:
        own = {"disaggregation-mode": transfer.role, "disaggregation-transfer-backend": transfer.connector}
        if transfer.role == "prefill":
            own["disaggregation-bootstrap-port"] = str(transfer.port)
        return Settings(own, {})

    def check_flags(self, command_prefix: Sequence[str], treatments: Sequence[Settings]) -> list[Reason | None]:
        return _PARSER.check_flags(command_prefix, treatments)

    def check_configuration(self, launch: Launch) -> Reason | None:
        return _PARSER.check_configuration(launch, self.environment(launch))

    def ready(self, client: httpx.Client) -> bool:
        # Anyone may ask for /health. Only this server knows the key: another one that took the port meanwhile refuses it.
        if client.get("/health").status_code != httpx.codes.OK:
            return False
        models = client.get("/v1/models")
        return models.status_code == httpx.codes.OK and any(
            model.get("id") == self.served_model_name for model in models.json().get("data", [])
        )

    def reset_cache(self, client: httpx.Client, *, tiers: bool = True) -> bool:
        """SGLang waits itself until nothing runs; asked again where it refuses all the same.

        Its hierarchical cache is emptied with the GPU's, so that the one cannot be had without the other.
        """
        if not tiers and _server_info(client).get("enable_hierarchical_cache"):
            return False
        for _ in range(_RESET_ATTEMPTS):
            answer = client.post("/flush_cache", params={"timeout": _RESET_WAIT_S}, timeout=2 * _RESET_WAIT_S)
            if answer.status_code == httpx.codes.OK:
                return True
            time.sleep(_RESET_PAUSE_S)
        return False

    def empty_tiers(self, scratch: Path) -> bool:
        return True

    def keeps_prefix_cache(self, client: httpx.Client) -> bool | None:
        # Its counters cannot tell: without a cache it reports no hits, as a cache does that holds nothing.
        disabled = _server_info(client).get("disable_radix_cache")
        return None if disabled is None else not disabled

    def request_extras(self) -> dict[str, Any]:
        return dict(OPENAI_REQUEST_EXTRAS)

    def effective_configuration(self, client: httpx.Client, log: str) -> dict[str, Any]:
        info = _server_info(client)
        settings = effective_settings(info)
        return {
            "settings": settings,
            "environment": {},
            "cache": cache_facts(client.get("/metrics").text),
            "version": info.get("version"),
            **startup_facts(log, settings),
        }

    def differences(self, identity: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Difference]:
        return differences(identity, effective)

    def canonical_metrics(self, text: str) -> dict[str, float]:
        values = canonical_metrics(text, _METRICS)
        values |= {name: values[name] * unit for name, unit in _IN_OTHER_UNITS.items() if name in values}
        if "prompt_tokens" in values:
            # Every prompt is looked up, where there is a cache, and counted no other way.
            values["prefix_queried_tokens"] = values["prompt_tokens"]
            values = {**dict.fromkeys(_ABSENT_UNTIL_ONE, 0.0), **values}
        return values | _below_the_gpu(text, values)

    def log_counters(self, log: str) -> dict[str, float]:
        return {}

    def explain_exit(self, log: str) -> Reason:
        return explain_exit(log, LOG_WORDS)


def _below_the_gpu(text: str, values: Mapping[str, float]) -> dict[str, float]:
    """Hits of a hierarchical cache, which SGLang counts with the GPU's and tells apart by a label; empty without one."""
    found = samples(text, {_HOST_TOKENS, _CACHED_TOKENS})
    if not any(name == _HOST_TOKENS and value > 0 for name, _, value in found):
        return {}
    cached = [(labels.get("cache_source"), value) for name, labels, value in found if name == _CACHED_TOKENS]
    below = sum(value for source, value in cached if source not in _IN_THE_GPU)
    here = sum(value for source, value in cached if source in _IN_THE_GPU)
    return {
        "prefix_hit_tokens": here,
        "external_queried_tokens": values.get("prompt_tokens", 0.0) - here,
        "external_hit_tokens": below,
    }


def _server_info(client: httpx.Client) -> dict[str, Any]:
    """All arguments as SGLang resolved them; empty where it does not tell."""
    answer = client.get("/server_info", timeout=_INFO_TIMEOUT_S)
    return dict(answer.json()) if answer.status_code == httpx.codes.OK else {}
