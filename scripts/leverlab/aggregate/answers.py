"""Whether a treatment's servers answer the same prompts as the baseline's do.

Most levers must not change what is answered. A server that answers from memory which nobody filled is fast, passes every check of one
cell, and shows here alone. Which beginnings are the same is compared, as sums of another order let greedy answers part later on; and since they
may part at once, the baseline's own server says how many usually agree: in another lifetime, at another load, from another state of the caches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from leverlab.aggregate.pairing import CONTEXT
from leverlab.checks.columns import ended_well
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell, StudyMatrix
from leverlab.matrix.treatments import BASELINE
from leverlab.stats.shares import markedly_fewer

Row = dict[str, Any]
Place = tuple[Any, ...]
"""Context (engine, model, GPU, number of GPUs), treatment's name, load point."""

ALIKE: Final = "answers_alike"
COMPARED: Final = "answers_compared"
DIGEST: Final = "beginning_digest"


@dataclass(frozen=True, slots=True)
class Beginnings:
    """Digests of the answers of one cell (16 bytes each), and the indices of their requests, ascending."""

    index: "np.ndarray[Any, np.dtype[np.int64]]"
    digest: "np.ndarray[Any, np.dtype[np.bytes_]]"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of `compared` requests that both cells answered, `alike` were answered with the same beginning."""

    alike: int
    compared: int

    @property
    def share(self) -> float:
        """Between 0 and 1; of nothing 0."""
        return self.alike / self.compared if self.compared else 0.0


def beginnings(entry: StudyCell, requests: pa.Table) -> Beginnings | None:
    """Of the requests that ended well; None where nothing was kept of answers, or they were drawn at a temperature."""
    if DIGEST not in requests.column_names or entry.cell.phase.identity.get("request", {}).get("temperature"):
        return None
    kept = requests.filter(pa.array(ended_well(requests))).select(["index", DIGEST]).drop_null()
    if not kept.num_rows:
        return None
    kept = kept.sort_by("index")
    return Beginnings(kept.column("index").to_numpy(), np.array(kept.column(DIGEST).to_pylist(), "S16"))


def agreement(one: Beginnings, other: Beginnings) -> Agreement:
    """Of two cells that were asked the same."""
    _, mine, theirs = np.intersect1d(one.index, other.index, assume_unique=True, return_indices=True)
    return Agreement(int((one.digest[mine] == other.digest[theirs]).sum()), len(mine))


def compare_answers(matrix: StudyMatrix, rows: Sequence[Row], said: Sequence[Beginnings | None]) -> None:
    """Fill `answers_alike` and `answers_compared` of `rows`, the study's cells, in the same order as what each `said`.

    A cell is compared with those of the baseline's server that were asked the same in the same replicate, and has the share of the one that
    it agrees with most: the baseline's own cell as well, so that neither side has more to choose from. What cannot be compared stays null.
    """
    spared = _spared(matrix)
    asked = [(row["workload"], ReplicateKey.parse(row["replicate"]).seed_key) for row in rows]
    baselines = {
        (_place(row)[0], row["load"], *asked[at]): at for at, row in enumerate(rows) if row["treatment"] == BASELINE
    }
    by_server: dict[Place, list[int]] = {}
    for at, row in enumerate(rows):
        if row["checks"] != "invalid" and _identity(row) not in spared:
            by_server.setdefault((row["server"], *asked[at]), []).append(at)
    for at, row in enumerate(rows):
        baseline = baselines.get((_place(row)[0], row["load"], *asked[at]))
        others = [] if baseline is None else by_server.get((rows[baseline]["server"], *asked[at]), [])
        mine = said[at]
        found = [
            agreement(mine, theirs)
            for other in others
            if other != at and mine is not None and (theirs := said[other]) is not None
        ]
        best = max(found, key=lambda each: (each.share, each.compared), default=Agreement(0, 0))
        row[ALIKE], row[COMPARED] = (best.share, best.compared) if best.compared else (None, None)


def changed_answers(matrix: StudyMatrix, rows: Sequence[Mapping[str, Any]]) -> dict[Place, str]:
    """Where a treatment's answers agree with the baseline's markedly less than the baseline's with themselves → what was seen.

    `rows` are those of cells.parquet. Treatments are left out where their levers may change answers, which a level may do of one model and
    not of another.
    """
    spared = _spared(matrix)
    valid: dict[Place, dict[str, Agreement]] = {}
    for row in rows:
        compared = row.get(COMPARED)
        if compared and row["checks"] != "invalid" and _identity(row) not in spared:
            replicate = ReplicateKey.parse(row["replicate"]).seed_key
            valid.setdefault(_place(row), {})[replicate] = Agreement(round(row[ALIKE] * compared), compared)
    found = {}
    for place, own in valid.items():
        context, treatment, load = place
        usual = valid.get((context, BASELINE, load), {})
        pairs = [(own[replicate], usual[replicate]) for replicate in own if replicate in usual]
        if treatment == BASELINE or not pairs:
            continue
        seen, known = (
            Agreement(sum(each.alike for each in side), sum(each.compared for each in side))
            for side in zip(*pairs, strict=True)
        )
        if markedly_fewer(seen.alike, seen.compared, known.alike, known.compared):
            found[place] = (
                f"{seen.alike} of {seen.compared} answers to the same prompts begin as the baseline's, of whose own {known.alike} of "
                f"{known.compared} do from one of its cells to another"
            )
    return found


def _spared(matrix: StudyMatrix) -> set[Place]:
    """The cells whose treatments may answer otherwise than the baseline."""
    return {(entry.cell.id, entry.treatment.name) for entry in matrix.cells if entry.other_answers}


def _identity(row: Mapping[str, Any]) -> Place:
    return row["cell"], row["treatment"]


def _place(row: Mapping[str, Any]) -> Place:
    return tuple(row[name] for name in CONTEXT), row["treatment"], row["load"]
