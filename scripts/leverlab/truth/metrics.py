"""The truth engine's /metrics, under the names that vLLM gives."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from leverlab.truth.model import Engine, Stream
from leverlab.truth.settings import Settings

_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_LABELS = ("model_name", "engine")
_NS = 1e9


class Metrics:
    """Counters and histograms, brought up to date when a request ends and when somebody looks.

    They count from when they are made: made again, they begin again, as those of a server that was restarted.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._engine = engine
        self._bytes_per_token = settings.kv_bytes_per_token
        self._values = (settings.served_model_name, "0")
        self._running = self._gauge("num_requests_running", "requests that have a seat")
        self._waiting = self._gauge("num_requests_waiting", "requests in the queue")
        self._kv_usage = self._gauge("kv_cache_usage_perc", "share of the KV cache in use: not modelled, always 0")
        self._prompt = self._counter("prompt_tokens", "prompt tokens of admitted requests")
        self._generated = self._counter("generation_tokens", "tokens sent")
        self._queries = self._counter("prefix_cache_queries", "prompt tokens looked up in the prefix cache")
        self._hits = self._counter("prefix_cache_hits", "prompt tokens found in the prefix cache")
        self._below_queries = self._counter(
            "external_prefix_cache_queries", "prompt tokens looked up in the tier, or at a prefill server"
        )
        self._below_hits = self._counter(
            "external_prefix_cache_hits", "prompt tokens found in the tier, or taken over from a prefill server"
        )
        self._drafts = self._counter("spec_decode_num_drafts", "times that tokens were drafted")
        self._drafted = self._counter("spec_decode_num_draft_tokens", "drafted tokens")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "drafted tokens that were accepted")
        self._transfer_s = self._histogram("nixl_xfer_time_seconds", "transfer of a prompt's KV cache")
        self._transfer_bytes = self._histogram("nixl_bytes_transferred", "bytes of these transfers")
        self._preemptions = self._counter("num_preemptions", "preemptions: none are modelled")
        self._success = Counter(
            "vllm:request_success", "requests that ended", (*_LABELS, "finished_reason"), registry=self.registry
        )
        self._ttft = self._histogram("time_to_first_token_seconds", "receipt to first chunk")
        self._tpot = self._histogram("request_time_per_output_token_seconds", "time per token after the first chunk")
        self._e2e = self._histogram("e2e_request_latency_seconds", "receipt to last chunk")
        self._queue = self._histogram("request_queue_time_seconds", "receipt to admission")
        self._prefill = self._histogram("request_prefill_time_seconds", "admission to first chunk")
        self._decode = self._histogram("request_decode_time_seconds", "first to last chunk")
        self._inference = self._histogram("request_inference_time_seconds", "admission to last chunk")
        labels = {
            "block_size": str(settings.block_size),
            "enable_prefix_caching": str(settings.enable_prefix_caching),
            "engine": "0",
        }
        Gauge("vllm:cache_config_info", "configuration of the cache", tuple(labels), registry=self.registry).labels(
            **labels
        ).set(1)
        self._finished_tokens = 0
        self._counted = self._totals()

    def admitted(self, stream: Stream) -> None:
        """`stream` got its seat."""
        self._prompt.inc(stream.prompt_tokens)
        self._queue.observe((stream.admitted_ns - stream.received_ns) / _NS)
        if stream.handed_over:
            self._below_queries.inc(stream.prompt_tokens - stream.cached_tokens)
            self._below_hits.inc(stream.taken_over_tokens)
        if stream.taken_over_tokens:
            self._transfer_s.observe(self._engine.transfer_ns(stream) / _NS)
            self._transfer_bytes.observe(stream.taken_over_tokens * self._bytes_per_token)

    def ended(self, stream: Stream, last_sent_ns: int, reason: str) -> None:
        """`stream` has ended (`reason` stop or length) or its client has gone (abort)."""
        self._finished_tokens += stream.position
        self._success.labels(*self._values, reason).inc()
        if reason == "abort" or not stream.first_sent_ns:
            return
        self._ttft.observe((stream.first_sent_ns - stream.received_ns) / _NS)
        self._e2e.observe((last_sent_ns - stream.received_ns) / _NS)
        self._prefill.observe((stream.first_sent_ns - stream.admitted_ns) / _NS)
        self._decode.observe((last_sent_ns - stream.first_sent_ns) / _NS)
        self._inference.observe((last_sent_ns - stream.admitted_ns) / _NS)
        if stream.position > 1:
            self._tpot.observe((last_sent_ns - stream.first_sent_ns) / _NS / (stream.position - 1))

    def render(self) -> bytes:
        """The text of /metrics, now."""
        engine = self._engine
        self._running.set(len(engine.running))
        self._waiting.set(len(engine.waiting))
        for counter, total in self._totals().items():
            counter.inc(total - self._counted[counter])
            self._counted[counter] = total
        return generate_latest(self.registry)

    def _totals(self) -> dict[Counter, int]:
        """The counters of what the engine knows itself, with how much there has been since the start."""
        engine = self._engine
        return {
            self._generated: self._finished_tokens + sum(stream.position for stream in engine.running),
            self._queries: engine.cache.queried_tokens,
            self._hits: engine.cache.hit_tokens,
            self._below_queries: engine.tier.queried_tokens if engine.tier else 0,
            self._below_hits: engine.tier.hit_tokens if engine.tier else 0,
            self._drafts: engine.drafts,
            self._drafted: engine.drafted_tokens,
            self._accepted: engine.accepted_tokens,
        }

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, _LABELS, registry=self.registry).labels(*self._values)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, _LABELS, registry=self.registry).labels(*self._values)

    def _histogram(self, name: str, text: str) -> Histogram:
        histogram = Histogram(f"vllm:{name}", text, _LABELS, registry=self.registry, buckets=_BUCKETS)
        return histogram.labels(*self._values)
