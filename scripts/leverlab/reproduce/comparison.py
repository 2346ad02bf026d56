"""Whether a new measurement lies where the recorded ones let expect it, and in which provenance it differs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from leverlab.aggregate.cell_metrics import Key
from leverlab.aggregate.schema import metric_keys
from leverlab.metrics import HIGHEST_RATE, METRICS, comparable
from leverlab.records import flattened_provenance
from leverlab.reproduce.evidence import Evidence, Replicate
from leverlab.stats.intervals import Interval, prediction_interval

Judgement = Literal["inside", "outside", "not judgeable"]
Verdict = Literal["holds", "does not hold", "not judgeable"]

MAIN: Final[tuple[Key, ...]] = (("ttft_s", "p50"), ("tpot_s", "p50"), ("throughput", None), (HIGHEST_RATE, None))
"""What the verdict rests on, as far as the cell has it; every other metric is shown beside it."""

LEAST_REPLICATES: Final = 2

_NOT_COMPARED: Final = ("goodput", "send_lag_s")
"""Goodput depends on a study's objectives, and the client's own lateness is no property of the server."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric: the recorded values of valid replicates, the new one, and where it was to be expected (95 %)."""

    metric: str
    statistic: str | None
    recorded: tuple[float, ...]
    new: float | None
    expected: Interval | None
    judgement: Judgement
    reason: str = ""

    @property
    def key(self) -> Key:
        """Metric and statistic."""
        return self.metric, self.statistic


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of the fingerprint whose value here is none of the recorded ones."""

    key: str
    recorded: tuple[str, ...]
    here: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The comparison of one new measurement with what was recorded."""

    verdict: Verdict
    why: str
    """Why there is no judgement; empty otherwise."""
    metrics: tuple[Compared, ...]
    differences: tuple[Difference, ...]

    @property
    def main(self) -> tuple[Compared, ...]:
        """The metrics that the verdict rests on, as far as the cell has them."""
        return tuple(found for found in self.metrics if found.key in MAIN)


def compare(evidence: Evidence, new: Replicate) -> Outcome:
    """Compare `new` with the valid replicates of `evidence`, metric by metric.

    The interval is that of one further replicate (see `prediction_interval`), on the logarithms for metrics that are
    compared as ratios. It holds for each metric alone: of twenty honest repetitions about one lies outside.
    """
    keys = [key for key in metric_keys() if key[0] not in _NOT_COMPARED and comparable(key[0], evidence.load)]
    metrics = tuple(_compared(key, evidence.valid, new) for key in keys)
    metrics = tuple(found for found in metrics if found.new is not None or found.recorded)
    differences = tuple(_differences([replicate.provenance for replicate in evidence.replicates], new.provenance))
    why = _why_not(evidence, new)
    main = [found for found in metrics if found.key in MAIN]
    if not why and all(found.judgement == "not judgeable" for found in main):
        why = "; ".join(f"{found.metric}: {found.reason}" for found in main) or "the cell has none of the main metrics"
    if why:
        return Outcome("not judgeable", why, metrics, differences)
    outside = any(found.judgement == "outside" for found in main)
    return Outcome("does not hold" if outside else "holds", "", metrics, differences)


def _why_not(evidence: Evidence, new: Replicate) -> str:
    if new.invalid:
        return f"the new measurement is invalid ({', '.join(new.invalid)})"
    if len(evidence.valid) < LEAST_REPLICATES:
        excluded = len(evidence.replicates) - len(evidence.valid)
        left_out = f", and {excluded} more that checks call invalid" if excluded else ""
        count = len(evidence.valid)
        return (
            f"{count} valid replicate{'' if count == 1 else 's'} {'is' if count == 1 else 'are'} recorded{left_out}, "
            f"and it takes {LEAST_REPLICATES} to know how far one may be from another"
        )
    return ""


def _compared(key: Key, recorded: Sequence[Replicate], new: Replicate) -> Compared:
    metric, statistic = key
    known = tuple(value for replicate in recorded if (value := replicate.values.get(key)) is not None)
    here = new.values.get(key)
    expected = prediction_interval(known, log=METRICS[metric].comparison == "ratio") if len(known) > 1 else None
    if here is None or not known:
        where = "here" if here is None else "in the record"
        return Compared(metric, statistic, known, here, expected, "not judgeable", f"there is no value {where}")
    if expected is None:
        few = len(known) < LEAST_REPLICATES
        reason = "one recorded value" if few else "the recorded values do not differ, so that no spread is known"
        return Compared(metric, statistic, known, here, None, "not judgeable", reason)
    return Compared(metric, statistic, known, here, expected, "inside" if here in expected else "outside")


def _differences(recorded: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> Iterator[Difference]:
    flat = [flattened_provenance(provenance) for provenance in recorded]
    now = flattened_provenance(here)
    for key in sorted({*now, *(key for one in flat for key in one)}):
        values = tuple(dict.fromkeys(one[key] for one in flat if key in one))
        if now.get(key) in values or (len(flat) > 1 and len(values) == len(flat)):
            continue  # the same somewhere, or different in each replicate: a number of the day, such as a process id
        yield Difference(key, values, now.get(key, "not recorded"))
