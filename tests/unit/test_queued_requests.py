"""Where requests queue: how it is seen, which effects it widens, and in which direction."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.comparisons import QUEUEING_STATISTICS, requests_queued
from leverlab.aggregate.pairing import Weighed
from leverlab.aggregate.tables import write_study
from leverlab.load_point import LoadPoint
from leverlab.metrics import METRICS
from tests.unit.measured_cells import measure, request_row
from tests.unit.repository import Repository

RATE = LoadPoint("rate", 4.0)
REPLICATES = ["r1", "r2", "r3"]


def side(*cells: dict[str, Any]) -> list[Weighed]:
    return [Weighed(dict(zip(REPLICATES, cells, strict=False)))]


def cell(spread: float = 1.5, beyond: bool | None = False) -> dict[str, Any]:
    return {"ttft_s_p50": 0.1, "ttft_s_p95": 0.1 * spread, "beyond_knee": beyond}


CALM = side(cell(), cell(), cell())


@pytest.mark.parametrize(
    ("treatment", "queued"),
    [
        (CALM, False),
        (side(cell(2.99), cell(2.99), cell(9)), False),
        (side(cell(3), cell(3), cell(1)), True),
        (side(cell(beyond=True), cell(), cell()), False),
        (side(cell(beyond=True), cell(beyond=True), cell()), True),
        (side(cell(beyond=None), cell(beyond=None), cell(beyond=None)), False),
        (side({"ttft_s_p50": 0.1, "ttft_s_p95": None, "beyond_knee": None}), False),
        ([], False),
    ],
)
def test_queueing_is_seen_on_either_side(treatment: list[Weighed], queued: bool) -> None:
    assert requests_queued((CALM, treatment), REPLICATES, RATE) is queued
    assert requests_queued((treatment, CALM), REPLICATES, RATE) is queued


def test_it_is_seen_over_the_replicates_of_each_treatment_and_at_rates_alone() -> None:
    waits = side(cell(9), cell(9), cell(9))
    assert requests_queued((CALM, waits), REPLICATES, RATE)
    assert not requests_queued((CALM, waits), REPLICATES, LoadPoint("burst"))
    assert not requests_queued((CALM, waits), REPLICATES, LoadPoint("concurrency", 4.0))
    assert not requests_queued((CALM, side(cell(), cell(), cell(9))), ["r1", "r2"], RATE)


@pytest.fixture
def effects(tmp_path: Path) -> list[dict[str, Any]]:
    """A crossed study in which each tenth request waits ten times as long, but for one treatment that differs in nothing."""
    repository = Repository.at(tmp_path)
    repository.change("replicates: 2", "replicates: 3\ndesign: factorial")
    matrix = repository.study()
    for entry in matrix.cells:
        levels = dict(entry.treatment.levels)
        slower = (2.0 if levels["prefix_caching"] == "off" else 1.0) * (1.1 if levels["max_num_seqs"] == "4" else 1.0)
        for number in matrix.replicates:
            replicate = entry.key(number)
            jitter = random.Random(f"{entry.treatment.name} {replicate}").uniform(1, 1.1)
            ttft_s = 0.1 * slower * jitter
            gap_s = 0.125 if entry.load.kind == "rate" else 0.0
            rows = [
                request_row(index, index * gap_s, ttft_s * (10 if index % 10 == 0 else 1)) | {"priority": index % 2}
                for index in range(40)
            ]
            measure(repository.layout, entry, replicate, rows)
    write_study(matrix, repository.layout)
    return pq.read_table(repository.layout.study("small") / "effects.parquet").to_pylist()


def test_means_and_medians_at_a_rate_are_widened_and_say_so(effects: list[dict[str, Any]]) -> None:
    marked = {
        (row["load"], row["metric"], row["statistic"])
        for row in effects
        if "requests_queued" in {caution["code"] for caution in json.loads(row["cautions"])}
    }
    of_classes = {
        (f"{of}_{metric}", statistic)
        for of in ("interactive", "batch", "base", "adapter")
        for metric, statistic in QUEUEING_STATISTICS
        if f"{of}_{metric}" in METRICS
    }
    assert ("batch_ttft_s", "p50") in of_classes
    assert marked == {("rate 8", metric, statistic) for metric, statistic in QUEUEING_STATISTICS | of_classes}


def test_a_treatment_reaches_further_away_and_an_interaction_both_ways(effects: list[dict[str, Any]]) -> None:
    rows = [row for row in effects if (row["load"], row["metric"], row["statistic"]) == ("rate 8", "ttft_s", "p50")]
    assert {row["kind"] for row in rows} == {"treatment", "main effect", "interaction"}
    for row in rows:
        up, down = row["interval_high"] / row["estimate"], row["estimate"] / row["interval_low"]
        if row["kind"] == "interaction":
            assert up == pytest.approx(down)
        else:
            assert (up > down) == (row["estimate"] > 1), row["kind"]
        assert (row["p_value"] < 0.05) == (not row["interval_low"] <= 1 <= row["interval_high"])
    assert "worsens" in {row["verdict"] for row in rows}
