"""From cells at several rates to where each treatment stops to keep up."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.tables import write_study
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from tests.unit.measured_cells import measure, request_row
from tests.unit.repository import Repository

Row = dict[str, Any]
REQUESTS = 40
CAPACITY = {"baseline": 6.0, "prefix_caching=off": 3.0, "max_num_seqs=4": 100.0}
"""Requests/s that a server of each treatment finishes at most."""
DRAWS = {1: 1.0, 2: 1.02, 3: 0.97}


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Row]:
    """saturation.parquet by treatment, of servers that finish one request after another."""
    repository = Repository.at(tmp_path)
    repository.change("replicates: 2", "replicates: 3")
    repository.change("load: {rates: [8, inf]}", "load: {rates: [2, 4, 8, 16, inf]}")
    folder = aggregated(repository)
    cells = pq.read_table(folder / "cells.parquet").to_pylist()
    assert {row["beyond_knee"] for row in cells if row["load_kind"] != "rate"} == {None}
    return {row["treatment"]: row for row in pq.read_table(folder / "saturation.parquet").to_pylist()}


def aggregated(repository: Repository) -> Path:
    """The folder of the study's tables, each of its cells measured."""
    study = repository.study()
    for entry in study.cells:
        for replicate in study.replicates:
            measure(repository.layout, entry, replicate, requests(entry, replicate))
    write_study(study, repository.layout)
    return repository.layout.study("small")


def requests(entry: StudyCell, replicate: ReplicateKey) -> list[Row]:
    gap_s = 1 / entry.load.value if entry.load.kind == "rate" and entry.load.value else 0.0
    took_s = 1 / (CAPACITY[entry.treatment.name] * DRAWS[replicate.number])
    free_s, made = 0.0, []
    for index in range(REQUESTS):
        begun_s = max(index * gap_s, free_s)
        free_s = begun_s + took_s
        made.append(request_row(index, index * gap_s, begun_s - index * gap_s + 0.1 * took_s, gap_s=0.225 * took_s))
    return made


def test_conversations_have_no_knee(tmp_path: Path) -> None:
    """How fast their turns come depends on the answers: what looks kept up with is called neither that nor beyond the knee."""
    repository = Repository.at(tmp_path)
    shape = "{kind: multi-turn, requests: 40, turns: 4, system_tokens: 64, message_tokens: 16, output_tokens: 16}"
    repository.change(
        "{kind: shared-prefix, requests: 24, groups: 3, prefix_tokens: 256, suffix_tokens: 16, output_tokens: 16}",
        shape,
    )
    repository.change("load: {rates: [8, inf]}", "load: {rates: [8, 16]}")
    repository.change("max_num_seqs: throughput at burst", "max_num_seqs: throughput at rate 16")
    folder = aggregated(repository)
    assert {row["beyond_knee"] for row in pq.read_table(folder / "cells.parquet").to_pylist()} == {None}
    assert pq.read_table(folder / "saturation.parquet").num_rows == 0


def test_each_treatment_has_its_knee_between_two_rates(rows: dict[str, Row]) -> None:
    baseline, off = rows["baseline"], rows["prefix_caching=off"]
    assert (baseline["place"], round(baseline["low"]), round(baseline["high"])) == ("within", 4, 8)
    assert (off["place"], round(off["low"]), round(off["high"])) == ("within", 2, 4)
    assert baseline["capacity"] == pytest.approx(6.0, rel=0.02)
    assert baseline["capacity_low"] < 6.0 < baseline["capacity_high"]
    assert baseline["replicates"] == 3 and baseline["ratio"] is None


def test_capacities_are_compared_in_pairs(rows: dict[str, Row]) -> None:
    off = rows["prefix_caching=off"]
    # The draws move both sides alike: the ratio is sharper than either capacity.
    assert off["ratio"] == pytest.approx(0.5, rel=0.01)
    assert off["capacity_high"] / off["capacity_low"] > 1.05


def test_a_server_that_keeps_up_with_all_rates_has_no_capacity(rows: dict[str, Row]) -> None:
    limited = rows["max_num_seqs=4"]
    assert (limited["place"], round(limited["low"]), limited["high"]) == ("above", 16, None)
    assert limited["capacity"] is limited["ratio"] is None
