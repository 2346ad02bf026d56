"""Words for what the tables hold: metrics, values with units, load points, levers and levels, contexts."""

from collections.abc import Mapping, Sequence
from typing import Final

from leverlab.load_point import parse_load_point
from leverlab.metrics import ERROR_RATIO, METRICS
from leverlab.units import format_number, format_percent, format_seconds

_STATISTICS: Final = {"mean": "mean", "p50": "median", "p95": "95th percentile of", "p99": "99th percentile of"}
_SHORT: Final = {
    "ttft_s": "TTFT",
    "ttft_service_s": "TTFT from actual send",
    "tpot_s": "TPOT",
    "e2e_s": "End-to-end",
    "throughput": "Output throughput",
    "total_throughput": "Total throughput",
    "throughput_per_gpu": "Throughput per GPU",
    "achieved_rate": "Completed requests",
    "goodput": "Goodput",
    "error_ratio": "Failed requests",
    "cache_hit_ratio": "Prefix-cache hits",
    "chunk_gap_s": "Chunk gap",
    "energy_per_token_j": "Energy per token",
}


def metric_phrase(metric: str, statistic: str | None) -> str:
    """A metric in the middle of a sentence: `the median time to first token`, `the 95th percentile of time per output token`."""
    label = METRICS[metric].label
    return f"the {_STATISTICS[statistic]} {label}" if statistic else f"the {label}"


def metric_heading(metric: str, statistic: str | None) -> str:
    """A metric as a row's or an axis' heading: `TTFT, median`, `Output throughput`."""
    name = _SHORT.get(metric) or METRICS[metric].label[:1].upper() + METRICS[metric].label[1:]
    return f"{name}, {'median' if statistic == 'p50' else statistic}" if statistic else name


def value_phrase(metric: str, value: float | None) -> str:
    """A value with its unit, as it is read on screen: `62 ms`, `481 tokens/s`, `75 %`; `–` where there is none."""
    if value is None or value != value:
        return "–"
    unit = METRICS[metric].unit
    if unit == "s":
        return format_seconds(value)
    if metric.endswith("_ratio"):
        return format_percent(format_number(100 * value))
    if unit == "bytes":
        return f"{format_number(value / 2**30)} GiB"
    if unit == "bytes/s":
        return f"{format_number(value / 1e9)} GB/s"
    number = format_number(value)
    return number if unit == "1" else f"{number} {_one(unit) if number == '1' else unit}"


def _one(unit: str) -> str:
    """The unit of one: `request/s`, `token`."""
    counted, slash, per = unit.partition("/")
    return f"{counted.removesuffix('s')}{slash}{per}"


def change_phrase(metric: str, value: float) -> str:
    """The size of a difference, without its sign; a share's is in percentage points, as `%` could be taken for relative."""
    if metric.endswith("_ratio"):
        return f"{format_number(100 * abs(value))} points"
    return value_phrase(metric, abs(value))


def bare_change(metric: str, value: float) -> str:
    """The same without its unit, where that stands beside it already; durations keep theirs."""
    if metric.endswith("_ratio"):
        return format_number(100 * abs(value))
    return (
        change_phrase(metric, value) if METRICS[metric].unit in ("s", "bytes", "bytes/s") else format_number(abs(value))
    )


def load_phrase(load: str) -> str:
    """A load point after `at` or `in`: `at 4 requests/s`, `in a burst (all requests at once)`, `at 8 concurrent streams`,
    `by search`."""
    point = parse_load_point(load)
    if point.value is None:
        return "by search" if point.kind == "search" else "in a burst"
    if point.kind == "rate":
        return f"at {point.value:g} request{'' if point.value == 1 else 's'}/s"
    return f"at {point.value:g} concurrent stream{'' if point.value == 1 else 's'}"


def objective_phrase(objective: str) -> str:
    """A study's objective: `TTFT, p95`, `Share of failed requests`."""
    metric, _, statistic = objective.rpartition("_")
    return metric_heading(ERROR_RATIO, None) if objective == ERROR_RATIO else metric_heading(f"{metric}_s", statistic)


def load_heading(load: str) -> str:
    """A load point as a heading: `1 request/s`, `Burst`."""
    phrase = load_phrase(load).removeprefix("at ").removeprefix("in a ").removeprefix("by ")
    return phrase[:1].upper() + phrase[1:]


def load_order(load: str) -> tuple[int, float]:
    """Sorts load points as a study's own order does."""
    return parse_load_point(load).sort_key


def levels_phrase(changed: Mapping[str, tuple[str, str]], titles: Mapping[str, str]) -> str:
    """What a treatment changes, lever → (level, baseline's level): `Prefix caching off instead of on`."""
    return " and ".join(f"{titles.get(name, name)} {new} instead of {old}" for name, (new, old) in changed.items())


def treatments_phrase(changes: Sequence[Mapping[str, tuple[str, str]]], titles: Mapping[str, str], last: str) -> str:
    """What several treatments change, of one lever together: `KV cache tiers lmcache-cpu or native-cpu instead of none`."""
    levels: dict[tuple[str, str], list[str]] = {}
    for changed in changes:
        if len(changed) == 1:
            [(name, (new, old))] = changed.items()
            levels.setdefault((name, old), []).append(new)
    told = [
        f"{titles.get(name, name)} {joined(unique(news), last)} instead of {old}"
        for (name, old), news in levels.items()
    ]
    told += [levels_phrase(changed, titles) for changed in changes if len(changed) > 1]
    return joined(unique(told), last)


def short_levels(changed: Mapping[str, tuple[str, str]], titles: Mapping[str, str], most: int) -> str:
    """The same where there is little room: `Prefix caching on → off`; by the lever's name where that is longer than `most` characters."""

    def told(names: Mapping[str, str]) -> str:
        return ", ".join(f"{names.get(name, name)} {old} → {new}" for name, (new, old) in changed.items())

    return by_title if len(by_title := told(titles)) <= most else told({})


def context_phrase(engine: str, model: str, gpu: str, gpu_count: int) -> str:
    """Where an effect was seen: `tiny-llama on cpu with vllm-cpu`, `llama-3.1-8b on 2 × h100 with vllm`."""
    return f"{model} on {gpu if gpu_count == 1 else f'{gpu_count} × {gpu}'} with {engine}"


def unique(words: list[str]) -> list[str]:
    """Each word once, in the order in which they first stand."""
    return list(dict.fromkeys(words))


def joined(words: list[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""
