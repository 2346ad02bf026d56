"""Metrics of the classes of requests: by the priority in their bodies (a workload `interactive-batch`), or by whom they ask, the base
model or a LoRA adapter."""

from typing import Final

from leverlab.metrics.metric import STATISTICS, Metric

CLASSES: Final = {"interactive": 0, "batch": 1}
"""Class → the priority of its requests."""

ASKED: Final = ("base", "adapter")
"""Classes by whom the requests ask."""

_LATENCIES: Final = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "e2e_s": "end-to-end latency",
}
_OF: Final = {
    "interactive": "of interactive requests",
    "batch": "of the batch class",
    "base": "of requests to the base model",
    "adapter": "of requests to LoRA adapters",
}


def _latency(name: str, of: str) -> Metric:
    definition = (
        f"{name} of the requests of priority {CLASSES[of]} alone; null in a workload without classes"
        if of in CLASSES
        else f"{name} {_OF[of]} alone; null in a workload that names no adapters"
    )
    return Metric(
        f"{of}_{name}", "s", definition, "lower", statistics=STATISTICS, label=f"{_LATENCIES[name]} {_OF[of]}"
    )


def _throughput(of: str) -> Metric:
    definition = f"throughput, with the completion tokens of the requests of priority {CLASSES[of]} alone; null in a workload without classes"
    return Metric(f"{of}_throughput", "tokens/s", definition, "higher", label=f"output tokens per second {_OF[of]}")


_SPREAD: Final = Metric(
    "adapter_ttft_spread", "1", "median ttft_s of the adapter that answers slowest / that of the one that answers fastest; more than 1 by chance "
    "alone, the more so the fewer requests each has; null with less than two adapters",
    "lower", label="spread of the time to first token over LoRA adapters",
)  # fmt: skip

OF_CLASSES: Final = (
    *(metric for of in CLASSES for metric in (*(_latency(name, of) for name in _LATENCIES), _throughput(of))),
    *(_latency(name, of) for of in ASKED for name in _LATENCIES),
    _SPREAD,
)


def class_and_metric(name: str) -> tuple[str, str] | None:
    """The class and the metric that `name` is made of: `interactive_ttft_s` is ttft_s of the class interactive. None for others."""
    of, _, own = name.partition("_")
    return (of, own) if of in _OF and own in _LATENCIES else None
