"""How often do intervals of latencies hold the true change where requests queue, from an idle server to one beyond its capacity?

    python benchmarks/queue_coverage.py                          # the table of docs/statistics.md: three minutes on two cores
    python benchmarks/queue_coverage.py --pairs 2000
    python benchmarks/queue_coverage.py --utilisations 0.6 0.75 --effects 0.9 --requests 200

Beside benchmarks/coverage.py, which takes one load through tables, families and verdicts. Here many loads are taken through the
program's own percentiles, its rules for queues and for the knee, and its interval; each replicate belongs to one study of each
size. The truth is the mean log ratio of all replicates of a setting; without an effect it is 0.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from simulated_queue import Served, rate_at, serve

from leverlab.aggregate.comparisons import requests_queued, skew
from leverlab.aggregate.pairing import Weighed
from leverlab.checks.keeping_up import in_window
from leverlab.checks.window import steady_window
from leverlab.load_point import LoadPoint
from leverlab.stats.paired import paired_change
from leverlab.stats.summaries import statistic_of

REPOSITORY = Path(__file__).resolve().parents[1]

UTILISATIONS: Final = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1)
"""Of the baseline. An effect of 0.7 leaves the treatment 0.7 of it."""
EFFECTS: Final = (0.7, 0.9, 1.0, 1.2)
"""Factors on the time of all work of the treated server."""
REQUESTS: Final = (50, 200)
REPLICATES: Final = (3, 5, 10)
STATISTICS: Final = ("mean", "p50", "p95")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """A statistic of ttft_s in studies of `replicates` pairs; shares of them.

    `student`: Student's interval holds the truth; `held`: the reported one does; `queued`: it was stretched; `decided`: it leaves
    out no change.
    """

    utilisation: float
    effect: float
    requests: int
    replicates: int
    statistic: str
    true_ratio: float
    studies: int
    student: float
    held: float
    queued: float
    decided: float


def cells(served: Served, load: LoadPoint) -> list[Row]:
    """The columns of cells.parquet that the comparison looks at, by the functions that make them."""
    well = np.ones(served.first_s.shape[1], bool)
    made = []
    for scheduled_s, first_s, last_s in zip(served.scheduled_s, served.first_s, served.last_s, strict=True):
        window = steady_window(scheduled_s, scheduled_s, last_s, load)
        assert window is not None
        row: Row = {f"ttft_s_{name}": statistic_of(first_s - scheduled_s, name) for name in STATISTICS}
        made.append(row | {"beyond_knee": in_window(window, well, scheduled_s, first_s, last_s, load).beyond})
    return made


def covered(
    utilisation: float, effect: float, requests: int, pairs: int, seed: int, counts: Sequence[int] = REPLICATES
) -> list[Setting]:
    """The settings of one load: `pairs` replicates, cut into as many studies of each size as they give."""
    generator = np.random.default_rng([seed, round(utilisation * 1000), round(effect * 1000), requests])
    load = LoadPoint("rate", rate_at(utilisation))
    before, after = (cells(served, load) for served in serve(generator, pairs, (1.0, effect), requests, load.value))
    found = []
    for statistic, count in itertools.product(STATISTICS, counts):
        column = f"ttft_s_{statistic}"
        logs = [np.log([row[column] for row in side]) for side in (before, after)]
        truth = float(np.exp(np.mean(logs[1] - logs[0]))) if effect != 1 else 1.0
        tally = {"student": 0, "held": 0, "queued": 0, "decided": 0}
        names = [f"r{number + 1}" for number in range(count)]
        studies = pairs // count
        for study in range(studies):
            chosen = slice(study * count, (study + 1) * count)
            sides = [[Weighed(dict(zip(names, side[chosen], strict=True)))] for side in (before, after)]
            skewed = skew("treatment", requests_queued(sides, names, load), "ttft_s", statistic)
            values = [[row[column] for row in side[chosen]] for side in (before, after)]
            interval = paired_change(*values, "ratio", skewed).interval()
            plain = paired_change(*values, "ratio").interval()
            assert interval is not None and plain is not None
            tally["student"] += truth in plain
            tally["held"] += truth in interval
            tally["queued"] += skewed != "none"
            tally["decided"] += 1.0 not in interval
        shares = {name: number / studies for name, number in tally.items()}
        found.append(Setting(utilisation, effect, requests, count, statistic, truth, studies, **shares))
    return found


def table(settings: Sequence[Setting], statistic: str) -> str:
    """A row a utilisation, a column an effect: Student's lowest share, and the lowest and the highest of those reported."""
    own = [entry for entry in settings if entry.statistic == statistic]
    effects = sorted({entry.effect for entry in own})
    lines = ["| utilisation | " + " | ".join("none" if one == 1 else f"× {one:g}" for one in effects) + " |"]
    lines.append("|---" * (len(effects) + 1) + "|")
    for utilisation in sorted({entry.utilisation for entry in own}):
        told = []
        for effect in effects:
            here = [entry for entry in own if (entry.utilisation, entry.effect) == (utilisation, effect)]
            held = [100 * entry.held for entry in here]
            told.append(f"{100 * min(entry.student for entry in here):.1f} → {min(held):.1f} to {max(held):.1f} %")
        lines.append(f"| {utilisation:g} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> int:
    """Print a table for each statistic and write all settings to results/benchmarks/queue_coverage.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=int, default=20_000, help="replicates of each load; a tenth of them studies of ten"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--utilisations", type=float, nargs="+", default=UTILISATIONS)
    parser.add_argument("--effects", type=float, nargs="+", default=EFFECTS)
    parser.add_argument("--requests", type=int, nargs="+", default=REQUESTS)
    arguments = parser.parse_args()
    if arguments.pairs < max(REPLICATES) or min(arguments.requests) < 20:
        parser.error(f"--pairs: at least {max(REPLICATES)}; --requests: at least 20, of which a p95 can be told")
    loads = list(itertools.product(arguments.utilisations, arguments.effects, arguments.requests))
    settings: list[Setting] = []
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        tasks = [pool.submit(covered, *load, arguments.pairs, arguments.seed) for load in loads]
        for number, task in enumerate(tasks, 1):
            settings += task.result()
            print(f"{number} of {len(tasks)} loads", file=sys.stderr, flush=True)
    for statistic in STATISTICS:
        print(
            f"\nTTFT {statistic}: Student's lowest share → lowest to highest as reported\n\n{table(settings, statistic)}"
        )
    written = REPOSITORY / "results" / "benchmarks" / "queue_coverage.json"
    written.parent.mkdir(parents=True, exist_ok=True)
    record = {**vars(arguments), "settings": list(map(asdict, settings))}
    written.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
