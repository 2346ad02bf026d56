"""From cells under results/ to a study's tables: whole, partial, damaged, and with the baseline swapped."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.schema import SCHEMA_VERSION, cells_schema, effects_schema, requests_schema, saturation_schema
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import StudyCell
from leverlab.metrics import METRICS
from leverlab.stats.multiple import holm
from leverlab.stats.paired import paired_change
from tests.unit.aggregated_study import LIMITED, NOISE, OFF, OTHER_NOISE, effect, tables, ttft_s
from tests.unit.measured_cells import measure, measure_study, request_row
from tests.unit.repository import SOURCE, Repository

LEVERS = ["prefix_caching", "max_num_seqs"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.at(tmp_path)
    made.change("replicates: 2", "replicates: 3")
    return made


def test_a_whole_study(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    requests, cells, effects = tables(repository)
    assert len(cells) == 3 * 2 * 3 and {row["status"] for row in cells} == {"measured"}
    assert {row["checks"] for row in cells} == {"ok"}
    assert len(requests) == 20 * len(cells) and {row["status"] for row in requests} == {"ok"}
    assert {row["lever:prefix_caching"] for row in requests} == {"on", "off"}
    # The highest rate is of cells that searched for it.
    statistics = sum(len(metric.statistics) or 1 for metric in METRICS.values()) - 1
    assert len(effects) == 2 * 2 * statistics


def test_a_fact_of_the_start_that_does_not_vary_is_a_difference(repository: Repository) -> None:
    """The cache's size follows from the configuration; the time of the start is measured, and may not be by chance the same."""
    for entry in repository.study().cells:
        off = dict(entry.treatment.levels)["prefix_caching"] == "off"
        for replicate in map(entry.key, repository.study().replicates):
            rows = [request_row(index, index * 0.125, ttft_s(entry, replicate)) for index in range(20)]
            facts = {"kv_cache_tokens": 6400.0 if off else 12800.0, "start_s": 4.0 if off else 8.0}
            measure(repository.layout, entry, replicate, rows, server_facts=facts)
    _, _, effects = tables(repository)
    tokens, start = (effect(effects, OFF, name, None) for name in ("kv_cache_tokens", "start_s"))
    assert (tokens["verdict"], tokens["estimate"]) == ("worsens", pytest.approx(0.5))
    assert "does not vary" in tokens["reason"] and tokens["interval_low"] is tokens["p_value"] is None
    assert start["verdict"] == "not judgeable" and "no spread" in start["reason"]
    assert effect(effects, LIMITED, "kv_cache_tokens", None)["verdict"] == "no difference found"


@pytest.mark.parametrize(
    ("weights_gib", "graphs_gib", "verdict"),
    [
        ((15.0, 15.04), (0.58, 0.57), "no difference found"),
        ((14.99, 8.5), (0.58, 0.0), "improves"),
        ((15.0, 15.0), (0.58, 0.58), "no difference found"),
    ],
)
def test_a_size_that_hardly_moves_is_no_difference(
    repository: Repository, weights_gib: tuple[float, float], graphs_gib: tuple[float, float], verdict: str
) -> None:
    """The log rounds, and memory is taken in blocks: such changes read as a worsening of 15 to 15 GiB."""
    for entry in repository.study().cells:
        off = dict(entry.treatment.levels)["prefix_caching"] == "off"
        for replicate in map(entry.key, repository.study().replicates):
            rows = [request_row(index, index * 0.125, ttft_s(entry, replicate)) for index in range(20)]
            facts = {"weights_bytes": weights_gib[off] * 2**30, "graph_memory_bytes": graphs_gib[off] * 2**30}
            measure(repository.layout, entry, replicate, rows, server_facts=facts)
    _, _, effects = tables(repository)
    for name, values in (("weights_bytes", weights_gib), ("graph_memory_bytes", graphs_gib)):
        row = effect(effects, OFF, name, None)
        assert row["verdict"] == verdict
        assert ("no pair differs by more than" in row["reason"]) == (
            verdict == "no difference found" and values[0] != values[1]
        )


def test_the_paired_ratio_with_its_intervals(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    _, cells, effects = tables(repository)
    row = effect(effects, OFF)
    before, after = [0.1 * NOISE[n] for n in (1, 2, 3)], [0.4 * OTHER_NOISE[n] for n in (1, 2, 3)]
    expected = paired_change(before, after, "ratio")
    interval = expected.interval()
    assert interval is not None
    assert row["estimate"] == pytest.approx(expected.estimate) and 3.9 < row["estimate"] < 4.2
    assert (row["interval_low"], row["interval_high"]) == pytest.approx((interval.low, interval.high))
    assert row["baseline_value"] == pytest.approx(math.prod(before) ** (1 / 3))
    assert row["treatment_value"] / row["baseline_value"] == pytest.approx(row["estimate"])
    assert (row["pairs"], row["excluded"], row["reason"]) == (3, "[]", "")
    assert (row["primary"], row["lever"], row["verdict"]) == (True, "prefix_caching", "worsens")
    assert json.loads(row["changed"]) == [["prefix_caching", "off", "on"]]
    assert row["simultaneous_low"] < row["interval_low"] < row["interval_high"] < row["simultaneous_high"]
    assert row["prediction_low"] < row["interval_low"]
    assert row["minimum_detectable"] > 1
    measured = {
        row["replicate"]: row["ttft_s_p50"] for row in cells if (row["treatment"], row["load"]) == (OFF, "rate 8")
    }
    assert measured == pytest.approx(dict(zip(("r1", "r2", "r3"), after, strict=True)))


def test_primary_metrics_are_corrected_and_others_are_exploratory(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    _, _, effects = tables(repository)
    primary = [row for row in effects if row["primary"]]
    assert {(row["treatment"], row["metric"], row["load"]) for row in primary} == {
        (OFF, "ttft_s", "rate 8"),
        (LIMITED, "throughput", "burst"),
    }
    assert [row["adjusted_p"] for row in primary] == pytest.approx(holm([row["p_value"] for row in primary]))
    assert {row["family"] for row in effects} == {2}
    for row in primary:
        decided = row["verdict"] in ("improves", "worsens")
        assert decided == (row["adjusted_p"] <= 0.05) == (not row["verdict_low"] <= 1 <= row["verdict_high"])
    assert all(row["adjusted_p"] is None for row in effects if not row["primary"])


def test_an_interval_of_a_primary_metric_never_contradicts_its_verdict(repository: Repository) -> None:
    """The pointwise interval leaves out "no change" here, and Holm's does not."""
    noise = {1: 1.0, 2: 1.05, 3: 0.98}
    shifts = {1: 1.12, 2: 1.08, 3: 1.16}

    def small(entry: StudyCell, replicate: ReplicateKey) -> float:
        return 0.1 * noise[replicate.number] * (1.0 if entry.treatment.is_baseline else shifts[replicate.number])

    measure_study(repository.layout, repository.study(), small)
    row = effect(tables(repository)[2], OFF)
    assert row["p_value"] < 0.05 < row["adjusted_p"]
    assert row["interval_low"] > 1
    assert row["verdict"] == "no difference found"
    assert row["verdict_low"] < 1 < row["verdict_high"] and row["verdict_level"] == pytest.approx(0.975)


def test_swapping_the_baseline_turns_every_effect_round(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    _, _, effects = tables(repository)
    repository.change("baseline: {prefix_caching: on,", "baseline: {prefix_caching: off,")
    swapped = tables(repository)[2]
    turned = {"improves": "worsens", "worsens": "improves"}
    compared = 0
    for row in effects:
        if row["treatment"] != OFF:
            continue
        other = effect(swapped, "prefix_caching=on", row["metric"], row["statistic"], row["load"])
        compared += 1
        if row["estimate"] is None:
            assert other["estimate"] is None
        elif row["comparison"] == "ratio":
            assert row["estimate"] * other["estimate"] == pytest.approx(1)
        else:
            assert row["estimate"] + other["estimate"] == pytest.approx(0)
        assert other["verdict"] == turned.get(row["verdict"], row["verdict"])
        assert (other["baseline_value"], other["treatment_value"]) == pytest.approx(
            (row["treatment_value"], row["baseline_value"])
        )
    assert compared > 60
    assert effect(swapped, "prefix_caching=on")["verdict"] == "improves"


def test_a_metric_that_can_be_zero_is_compared_by_difference(repository: Repository) -> None:
    study = repository.study()
    for entry in study.cells:
        for replicate in study.replicates:
            hits = 0 if entry.treatment.name == OFF else 40 + replicate.number
            rows = [request_row(index, index * 0.125, cached_tokens=hits) for index in range(20)]
            measure(repository.layout, entry, replicate, rows)
    row = effect(tables(repository)[2], OFF, "cache_hit_ratio", None)
    assert (row["comparison"], row["pairs"]) == ("difference", 3)
    assert row["estimate"] == pytest.approx(-0.42)
    assert (row["baseline_value"], row["treatment_value"]) == pytest.approx((0.42, 0.0))
    assert row["verdict"] == "worsens"


def test_replicates_that_agree_to_the_digit_get_no_interval(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), lambda entry, _: 0.2 if entry.treatment.name == OFF else 0.1)
    effects = tables(repository)[2]
    row = effect(effects, OFF)
    assert (row["estimate"], row["verdict"]) == (pytest.approx(2.0), "not judgeable")
    assert row["interval_low"] is None and "no spread" in row["reason"]
    unchanged = effect(effects, OFF, "error_ratio", None)
    assert (unchanged["verdict"], unchanged["interval_low"]) == ("no difference found", None)
    assert "to the last digit" in unchanged["reason"]


def test_equal_cells_give_equal_bytes(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    folder = repository.layout.study("small")
    tables(repository)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tables(repository)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(before) == {"requests.parquet", "cells.parquet", "effects.parquet", "saturation.parquet"}


def test_every_column_states_its_unit_and_definition(repository: Repository) -> None:
    tables(repository)
    for name, schema in (
        ("requests", requests_schema(LEVERS)),
        ("cells", cells_schema(LEVERS)),
        ("effects", effects_schema()),
        ("saturation", saturation_schema()),
    ):
        written = pq.read_schema(repository.layout.study("small") / f"{name}.parquet")
        assert written.equals(schema, check_metadata=True)
        assert written.metadata[b"leverlab_schema_version"] == str(SCHEMA_VERSION).encode()
        for field in written:
            assert field.metadata and field.metadata[b"definition"], f"{name}.{field.name}"
            assert b"unit" in field.metadata


def test_factorial_designs_keep_a_primary_metric_for_each_lever(repository: Repository) -> None:
    repository.change("replicates: 3", "replicates: 3\ndesign: factorial")
    measure_study(repository.layout, repository.study(), ttft_s)
    effects = tables(repository)[2]
    both = "prefix_caching=off, max_num_seqs=4"
    assert {row["treatment"] for row in effects if row["kind"] == "treatment"} == {OFF, LIMITED, both}
    assert {row["treatment"] for row in effects if row["primary"]} == {OFF, LIMITED}
    assert effect(effects, both)["lever"] is None
    assert effect(effects, LIMITED)["lever"] == "max_num_seqs"


def test_the_script(repository: Repository) -> None:
    measure_study(repository.layout, repository.study(), ttft_s)
    script = [sys.executable, str(SOURCE / "scripts/aggregate.py"), "--root", str(repository.root), "--study"]
    done = subprocess.run([*script, "small"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "18 measured" in done.stdout
    wrong = subprocess.run([*script, "smal"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "smal" in wrong.stderr and "small" in wrong.stderr
