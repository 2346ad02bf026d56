"""A cell that searches: the workload offered at one rate after another, until the highest within the objectives is known."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from leverlab.checks.columns import Floats, ended_well, numeric
from leverlab.checks.keeping_up import keeping_up
from leverlab.checks.window import achieved_rate, offered_rate, steady_window
from leverlab.load_point import LoadPoint
from leverlab.metrics import ERROR_RATIO
from leverlab.records import SearchRecord
from leverlab.stats.rate_search import RateSearch
from leverlab.stats.summaries import statistic_of
from leverlab.trial.phase import Measurement

KEPT_UP: Final = "kept_up"
"""What is missed where the server does not keep up with the rate, whatever the objectives say."""

_FIRST_SHARE: Final = 0.7
"""The first rate that is tried, as a share of what a burst showed: objectives are met below the capacity."""

RUNS: Final = pa.schema(
    [
        pa.field("run", pa.int64(), metadata={"definition": "which run of the search, from 0", "unit": "1"}),
        pa.field("load", pa.string(), metadata={"definition": "what was offered: burst, or a rate"}),
        pa.field("offered_rate", pa.float64(), metadata={"definition": "requests that arrived", "unit": "requests/s"}),
        pa.field(
            "achieved_rate", pa.float64(), metadata={"definition": "requests that were finished", "unit": "requests/s"}
        ),
        pa.field("missed", pa.string(), metadata={"definition": "what was missed most; null where all was met"}),
        pa.field(
            "margin",
            pa.float64(),
            metadata={
                "definition": "ln(worst ratio of what was seen to its limit); infinite without a ratio",
                "unit": "1",
            },
        ),
        pa.field("duration_s", pa.float64(), metadata={"definition": "how long the run took", "unit": "s"}),
    ]
)
"""runs.parquet of a cell that searched: a row a run, in their order."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a run met the objectives: `margin` as `RateSearch.tell` takes it, and what was missed most."""

    margin: float
    missed: str | None


def search_rate(
    measure: Callable[[LoadPoint, int], Measurement],
    settings: Mapping[str, Any],
    limit_s: float,
    say: Callable[[str], None],
    waiting: bool,
) -> tuple[Measurement, SearchRecord]:
    """Search by `measure(load, run)`: the run at the rate that the record calls `kept`, all runs in its table `runs`, and the record.

    `settings`: `search` of the phase's identity; no run is begun that would end after `limit_s`; `say` is told how each went;
    `waiting` as for `keeping_up`. A burst, which is over soonest, tells where to begin.
    """
    begun_s = time.monotonic()
    objectives = dict(settings["objectives"])
    rows: list[dict[str, Any]] = []
    kept: dict[float, Measurement] = {}
    missed_at: dict[float, str] = {}

    def run(load: LoadPoint) -> tuple[Measurement, Judgement]:
        started_s = time.monotonic()
        found = measure(load, len(rows))
        judged = judge(found.tables["requests"], load, objectives, waiting)
        offered, achieved = _rates(found.tables["requests"], load)
        rows.append(
            {
                "run": len(rows),
                "load": str(load),
                "offered_rate": offered,
                "achieved_rate": achieved,
                "missed": judged.missed,
                "margin": judged.margin,
                "duration_s": time.monotonic() - started_s,
            }
        )
        say(f"search, run {len(rows)}, {load}: {f'missed {judged.missed}' if judged.missed else 'all objectives met'}")
        return found, judged

    burst = LoadPoint("burst")
    found, _ = run(burst)
    requests = found.tables["requests"]
    start = (_rates(requests, burst)[1] or 1.0) * _FIRST_SHARE
    search = RateSearch(start, settings["precision"], settings.get("lowest"), settings.get("highest"))
    # Arrivals of the workload at 1 request/s span about as many seconds as there are requests.
    span_s = float(requests.num_rows)
    while (asked := search.next_rate()) is not None:
        rate = float(f"{asked:.4g}")  # so that records and messages name it as it was offered
        if str(LoadPoint("rate", rate)) in {row["load"] for row in rows}:
            break  # a bound that differs from what was tried by its rounding alone
        longest_s = max(
            (row["duration_s"] - span_s / _value(row["load"]) for row in rows[1:]), default=rows[0]["duration_s"]
        )
        if kept and time.monotonic() - begun_s + span_s / rate + longest_s > limit_s:
            say(f"search: the next run, at rate {rate:.4g}, would end after the time that the search is given")
            break
        found, judged = run(LoadPoint("rate", rate))
        search.tell(rate, judged.margin)
        kept[rate] = found
        if judged.missed:
            missed_at[rate] = judged.missed
        # Of the runs only the one that is to be kept in the end can still be needed.
        wanted = search.met if search.met is not None else min(kept)
        kept = {wanted: kept[wanted]}
    [(rate, measurement)] = kept.items()
    # As drawn: the arrivals of a workload are a little faster or slower than the rate they are offered at.
    arrived = {row["load"]: row["offered_rate"] for row in rows}
    record = SearchRecord(
        highest_rate=None if search.met is None else arrived[str(LoadPoint("rate", search.met))],
        missed=None if search.missed is None else arrived[str(LoadPoint("rate", search.missed))],
        kept=rate,
        limited_by=missed_at.get(search.missed) if search.missed is not None else None,
        runs=len(rows),
        settled=search.settled,
    )
    runs = pa.Table.from_pylist(rows, schema=RUNS)
    duration_s = time.monotonic() - begun_s
    tables = {**measurement.tables, "runs": runs}
    return replace(measurement, tables=tables, duration_s=duration_s), record


def judge(requests: pa.Table, load: LoadPoint, objectives: Mapping[str, float], waiting: bool) -> Judgement:
    """How the run met `objectives` (`{ttft_p95: seconds, error_ratio: share}`), over the requests that ended well.

    A server that does not keep up misses, whatever its latencies in a short run; so does one of which a statistic is not known.
    Where requests are `waiting` for the answers to others, the latencies alone tell.
    """
    well = ended_well(requests)
    if 1 - well.mean() > objectives.get(ERROR_RATIO, 0.0):
        return Judgement(math.inf, ERROR_RATIO)
    margins: dict[str, float] = {}
    for objective, limit_s in objectives.items():
        if objective == ERROR_RATIO:
            continue
        metric, _, statistic = objective.rpartition("_")
        values: Floats = numeric(requests, f"{metric}_s")[well]
        seen_s = statistic_of(values[~np.isnan(values)], statistic)
        margins[objective] = math.inf if seen_s is None else math.log(max(seen_s, 1e-9) / limit_s)
    worst = max(margins, key=lambda name: margins[name])
    if margins[worst] > 0:
        return Judgement(margins[worst], worst)
    behind = keeping_up(requests, load, waiting).beyond
    return Judgement(math.inf, KEPT_UP) if behind else Judgement(margins[worst], None)


def _rates(requests: pa.Table, load: LoadPoint) -> tuple[float | None, float | None]:
    """(offered, achieved), as the columns of cells.parquet have them."""
    scheduled_s, sent_s, last_s = (numeric(requests, name) for name in ("scheduled_s", "sent_s", "last_token_s"))
    window = steady_window(scheduled_s, sent_s, last_s, load)
    if window is None:
        return None, None
    return offered_rate(window, load), achieved_rate(window, ended_well(requests), last_s, load)


def _value(load: str) -> float:
    return float(load.split()[1])
