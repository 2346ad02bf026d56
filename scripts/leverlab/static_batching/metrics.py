"""The server's /metrics: vLLM's names where they mean the same, and `static:` for what only a static batch has."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

_BUCKETS: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0)  # fmt: skip
_COUNTERS: Final[Mapping[str, str]] = {
    "vllm:prompt_tokens_total": "prompt tokens of requests that have their first token, without padding",
    "vllm:generation_tokens_total": "tokens generated for requests",
    "vllm:prefix_cache_queries_total": "always 0: a batch's KV cache ends with it, and none is looked up",
    "vllm:prefix_cache_hits_total": "always 0",
    "vllm:num_preemptions_total": "always 0: a batch is run to its end",
    "static:batches_total": "batches begun",
    "static:padded_prompt_tokens_total": "tokens computed only to fill prompts up to the longest of their batch",
    "static:sequence_steps_total": "places of a batch, summed over its steps",
    "static:idle_sequence_steps_total": "of these, places whose sequence had ended",
}
_HISTOGRAMS: Final[Mapping[str, str]] = {
    "vllm:time_to_first_token_seconds": "arrival to the first token that is sent",
    "vllm:request_queue_time_seconds": "arrival to the start of the batch",
    "vllm:request_prefill_time_seconds": "start of the batch to the first token",
    "vllm:request_decode_time_seconds": "first token to the last",
    "vllm:request_inference_time_seconds": "start of the batch to the last token",
    "vllm:request_time_per_output_token_seconds": "time per token after the first",
    "vllm:e2e_request_latency_seconds": "arrival to the last token that is sent",
}


class Metrics:
    """Counters and histograms since the start. Used from one thread."""

    def __init__(self, model_name: str) -> None:
        self._labels = f'model_name="{model_name}",engine="0"'
        self._counted: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._observed = {name: _Histogram() for name in _HISTOGRAMS}

    def count(self, name: str, more: int) -> None:
        """Add `more` to the counter `name`. Raises KeyError for one that is not known."""
        if name not in _COUNTERS:
            raise KeyError(name)
        self._counted[name] += more

    def ended(self, reason: str) -> None:
        """A request has ended: stop, length, or abort where its client has gone, error where its batch failed."""
        self._ended[reason] += 1

    def observe(self, name: str, seconds: float) -> None:
        """Add a value to the histogram `name`. Raises KeyError for one that is not known."""
        self._observed[name].add(seconds)

    def render(self, gauges: Mapping[str, int]) -> bytes:
        """The text of /metrics, with the gauges as they are now."""
        lines = []
        for name, gauge in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name}{{{self._labels}}} {gauge}"]
        for name, text in _COUNTERS.items():
            lines += [
                f"# HELP {name} {text}",
                f"# TYPE {name} counter",
                f"{name}{{{self._labels}}} {self._counted[name]}",
            ]
        lines.append("# TYPE vllm:request_success_total counter")
        for reason in ("stop", "length", "abort", "error"):
            lines.append(
                f'vllm:request_success_total{{{self._labels},finished_reason="{reason}"}} {self._ended[reason]}'
            )
        for name, text in _HISTOGRAMS.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
            lines += self._observed[name].lines(name, self._labels)
        return ("\n".join(lines) + "\n").encode()


class _Histogram:
    """How many values were at most each bound, and their sum."""

    def __init__(self) -> None:
        self._within = [0] * len(_BUCKETS)
        self._sum = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        self._sum += value
        self._count += 1
        for place, bound in enumerate(_BUCKETS):
            self._within[place] += value <= bound

    def lines(self, name: str, labels: str) -> list[str]:
        bounds = zip(_BUCKETS, self._within, strict=True)
        return [
            *(f'{name}_bucket{{{labels},le="{bound}"}} {within}' for bound, within in bounds),
            f'{name}_bucket{{{labels},le="+Inf"}} {self._count}',
            f"{name}_sum{{{labels}}} {self._sum}",
            f"{name}_count{{{labels}}} {self._count}",
        ]
