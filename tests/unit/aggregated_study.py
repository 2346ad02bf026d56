"""A study whose cells are known, its tables, and its effects by name."""

from typing import Any

import pyarrow.parquet as pq

from leverlab.aggregate.tables import write_study
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from tests.unit.repository import Repository

Row = dict[str, Any]
NOISE = {1: 1.0, 2: 1.1, 3: 0.95}


OTHER_NOISE = {1: 1.02, 2: 1.08, 3: 0.97}


def ttft_s(entry: StudyCell, replicate: ReplicateKey) -> float:
    """Without prefix caching the first token takes four times as long; the batch limit does nothing."""
    off = dict(entry.treatment.levels)["prefix_caching"] == "off"
    limited = dict(entry.treatment.levels)["max_num_seqs"] == "4"
    return 0.1 * (4 if off else 1) * (OTHER_NOISE if off or limited else NOISE)[replicate.number]


def tables(repository: Repository) -> tuple[list[Row], list[Row], list[Row]]:
    """requests, cells and effects, as they were written."""
    write_study(repository.study(), repository.layout)
    folder = repository.layout.study("small")
    return tuple(pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("requests", "cells", "effects"))  # type: ignore[return-value]


def effect(
    effects: list[Row], treatment: str, metric: str = "ttft_s", statistic: str | None = "p50", load: str = "rate 8"
) -> Row:
    (row,) = [
        row
        for row in effects
        if (row["treatment"], row["metric"], row["statistic"], row["load"]) == (treatment, metric, statistic, load)
        and row["kind"] == "treatment"
    ]
    return row


OFF, LIMITED = "prefix_caching=off", "max_num_seqs=4"
