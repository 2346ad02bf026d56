"""Metrics of the classes of a workload `interactive-batch`, whose requests are told apart by the priority in their bodies."""

from typing import Final

from leverlab.metrics.metric import STATISTICS, Metric

CLASSES: Final = {"interactive": 0, "batch": 1}
"""Class → the priority of its requests."""

_LATENCIES: Final = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "e2e_s": "end-to-end latency",
}
_OF: Final = {"interactive": "of interactive requests", "batch": "of the batch class"}


def _latency(name: str, of: str) -> Metric:
    definition = f"{name} of the requests of priority {CLASSES[of]} alone; null in a workload without classes"
    return Metric(
        f"{of}_{name}", "s", definition, "lower", statistics=STATISTICS, label=f"{_LATENCIES[name]} {_OF[of]}"
    )


def _throughput(of: str) -> Metric:
    definition = f"throughput, with the completion tokens of the requests of priority {CLASSES[of]} alone; null in a workload without classes"
    return Metric(f"{of}_throughput", "tokens/s", definition, "higher", label=f"output tokens per second {_OF[of]}")


OF_CLASSES: Final = tuple(
    metric for of in CLASSES for metric in (*(_latency(name, of) for name in _LATENCIES), _throughput(of))
)


def class_and_metric(name: str) -> tuple[str, str] | None:
    """The class and the metric that `name` is made of: `interactive_ttft_s` is ttft_s of the class interactive. None for others."""
    of, _, own = name.partition("_")
    return (of, own) if of in CLASSES and own in _LATENCIES else None
