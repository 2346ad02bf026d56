"""Theory beside measurement in a report: values by hand, what is marked, and what is left out with its reason."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leverlab.config.course import TheoryAnswer
from leverlab.report.beside_theory import left_out, theory_sentences, theory_table, times_that
from leverlab.report.collected import collected_table
from leverlab.report.page import render_study
from leverlab.report.questions import questions
from leverlab.report.roofline_block import roofline_parts
from leverlab.report.svg import drawing
from leverlab.report.theory_values import Beside, TheoryValues, theory_values
from tests.unit.report_studies import ROOFED, SIMULATED
from tests.unit.report_study import ReportStudy, make_study

FLOOR_S = (2 * (8_030_261_248 - 525_336_576) + 131_072 * (1624 + 16)) / 4.8e12
"""A step of one request reads all weights but the embeddings' table, and the KV of 1624 prompt tokens and half of 32."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportStudy:
    return make_study(tmp_path_factory.mktemp("roofed"), ROOFED, records=False)


@pytest.fixture(scope="module")
def values(study: ReportStudy) -> TheoryValues:
    return theory_values(study.read())


def of(values: TheoryValues, name: str, treatment: str = "baseline", load: str = "concurrency 1") -> Beside:
    (found,) = [v for v in values.values if (v.quantity.name, v.treatment, v.load) == (name, treatment, load)]
    return found


def changed(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> TheoryValues:
    """What theory says of the roofed study with every row of its cells changed."""
    study = make_study(folder, ROOFED, records=False)
    path = study.layout.study(ROOFED) / "cells.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist([change(row) for row in table.to_pylist()], table.schema), path)
    return theory_values(study.read())


def test_the_floor_stands_beside_the_measured_time(study: ReportStudy, values: TheoryValues) -> None:
    found = of(values, "decode_floor_s")
    assert found.expected == pytest.approx(FLOOR_S)
    cells = study.read().valid
    own = cells[(cells["treatment"] == "baseline") & (cells["load"] == "concurrency 1")]["tpot_s_p50"]
    assert found.measured == own.median() and sorted(found.ratios) == pytest.approx(sorted(own / FLOOR_S))
    assert not found.impossible


def test_a_batch_limit_bounds_the_batch(values: TheoryValues) -> None:
    limited = next(v.treatment for v in values.values if "max_num_seqs" in v.treatment)
    intensity = "decode_intensity_flop_per_byte"
    whole, four = of(values, intensity, load="concurrency 16"), of(values, intensity, limited, "concurrency 16")
    one = of(values, intensity)
    assert one.expected < four.expected < 4.01 and whole.expected == pytest.approx(13.5, abs=0.5)


def test_what_ran_bounds_the_batch_of_a_closed_loop(tmp_path: Path) -> None:
    for number, (running, batch) in enumerate(((12.0, 12), (40.0, 16), (None, 16))):
        found = changed(tmp_path / str(number), lambda row, running=running: {**row, "mean_running": running})
        (cell, *_) = [cell for cell in found.cells.cells if cell.row["load"] == "concurrency 16"]
        assert cell.occasion.running == batch


@pytest.mark.parametrize(("achieved", "batch"), [(16.0, 4.0), (None, 12.0)])
def test_who_is_being_prefilled_elsewhere_is_in_no_decode_step(
    tmp_path: Path, achieved: float | None, batch: float
) -> None:
    """The gauge of running requests is summed over prefill servers too: of 12 that run, 8 wait there for their first token."""

    def apart(row: dict[str, Any]) -> dict[str, Any]:
        specification = json.loads(row["specification"])
        specification["server"]["topology"] = "prefill-decode"
        specification["server"]["topology_settings"] = {"connector": "nixl"}
        own = {"achieved_rate": achieved, "e2e_s_mean": 0.375, "ttft_s_mean": 0.125, "mean_running": 12.0}
        return {**row, **own, "specification": json.dumps(specification), "gpu_count": 2}

    found = changed(tmp_path, apart)
    (cell, *_) = [cell for cell in found.cells.cells if cell.row["load"] == "concurrency 16"]
    assert cell.server.hands_over and cell.occasion.running == batch


def test_a_tier_below_the_cache_spares_prefill_too(tmp_path: Path) -> None:
    told = {"cache_hit_ratio": 0.5, "external_hit_ratio": 0.5}
    found = changed(tmp_path, lambda row: {**row, **told})
    assert {cell.occasion.hit_ratio for cell in found.cells.cells} == {0.75}


def test_what_was_reached_follows_from_tpot(values: TheoryValues) -> None:
    bandwidth, floor = of(values, "decode_bandwidth_bytes_per_s"), of(values, "decode_floor_s")
    assert bandwidth.measured and floor.measured
    assert bandwidth.measured / 4.8e12 == pytest.approx(floor.expected / floor.measured)
    roof, intensity = of(values, "decode_roof_flop_per_s"), of(values, "decode_intensity_flop_per_byte")
    assert roof.measured == pytest.approx(intensity.expected * bandwidth.measured)


def test_what_a_million_tokens_cost_by_gpu_hours_and_by_energy(tmp_path: Path) -> None:
    told = {"throughput": 1000.0, "energy_per_token_j": 0.5}
    unpriced = changed(tmp_path, lambda row: {**row, **told})
    data = unpriced.cells.data
    why = " ".join(left_out(data, unpriced))
    assert "config/gpus.yaml states no `price_per_hour` of" in why
    assert "config/config.yaml states no `energy_price_per_kwh`" in why
    gpus = {name: gpu.model_copy(update={"price_per_hour": 3.6}) for name, gpu in data.configuration.gpus.items()}
    settings = data.configuration.settings.model_copy(update={"energy_price_per_kwh": 0.36})
    priced = theory_values(replace(data, configuration=replace(data.configuration, gpus=gpus, settings=settings)))
    gpu_hours = of(priced, "gpu_cost_per_million_tokens")
    assert gpu_hours.measured == pytest.approx(1.0), "a million tokens take 1000 s of a GPU at 0.001 a second"
    energy = of(priced, "energy_cost_per_million_tokens")
    assert energy.measured == pytest.approx(0.05), "0.5 MJ, of 3.6 in a kilowatt-hour"
    assert energy.expected == pytest.approx(0.1 * 700 * FLOOR_S, rel=0.01), "700 W for a step"
    (said, *_) = theory_sentences(
        TheoryAnswer(quantities=["energy_cost_per_million_tokens at concurrency 1"]), data, priced
    )
    assert (
        "price of the energy of a million output tokens" in said
        and "price of the measured energy 0.05 (measured)" in said
    )


def test_a_value_below_its_floor_is_marked(tmp_path: Path) -> None:
    found = changed(tmp_path, lambda row: {**row, "tpot_s_p50": 0.5 * FLOOR_S})
    assert of(found, "decode_floor_s").impossible and of(found, "decode_bandwidth_bytes_per_s").impossible
    table = theory_table(found.cells.data, found)
    assert table is not None
    marks = [row.cells[4].mark for group in table.groups for row in group.rows]
    assert any(mark and mark.word == "beyond its bound" for mark in marks)
    (sentence, *_) = theory_sentences(TheoryAnswer(quantities=["decode_floor_s"]), found.cells.data, found)
    assert "lies beyond its bound" in sentence


def test_what_theory_says_of_several_load_points_is_one_sentence(study: ReportStudy, values: TheoryValues) -> None:
    said = list(theory_sentences(TheoryAnswer(quantities=["decode_floor_s"]), study.read(), values))
    assert said[0].startswith(
        "Baseline: floor of a decode step (floor) beside median time per output token (measured): at 1 concurrent stream 3.17 ms beside "
    )
    assert re.search(r"3\.17 ms beside \d\.\d+ ms, \d\.\d+ \(\d.* to .*\) times that; at 16 concurrent", said[0])
    assert said[0].endswith(", each the median of 3 replicates.")
    assert len(said) == len({value.treatment for value in values.values if value.quantity.name == "decode_floor_s"})


def test_the_question_is_answered_with_both_and_their_ratio(study: ReportStudy, values: TheoryValues) -> None:
    (answer,) = questions(study.read(), values)
    assert answer.measured
    first = answer.sentences[0]
    assert first.startswith("Baseline, at 1 concurrent stream: floor of a decode step 3.17 ms (floor);")
    assert re.search(
        r"median time per output token \d\.\d+ ms \(measured\), \d\.\d+ \(\d.* to .*\) times that, the median of 3 replicates",
        first,
    )
    assert (
        "Every treatment, at every load point: KV cache of a token 131,072 bytes/token, by theory." in answer.sentences
    )
    assert not any("16 concurrent" in sentence and "decode step" in sentence for sentence in answer.sentences)
    assert (
        answer.sentences[-1]
        == "Not computed: floor of a step's all-reduces: no layer is split, and nothing is added up."
    )


@pytest.mark.parametrize(
    ("ratio", "told"),
    [
        ("0.97", "0.97 times that"),
        ("0.97 (0.95 to 0.98)", "0.97 (0.95 to 0.98) times that"),
        ("1", "the same"),
        ("1 (0.99 to 1.01)", "the same (0.99 to 1.01 times that)"),
    ],
)
def test_how_far_a_value_is_from_theory_is_told_in_words(ratio: str, told: str) -> None:
    assert times_that(ratio) == told


def test_what_is_the_same_for_several_treatments_is_said_once(tmp_path: Path) -> None:
    """One treatment of three reads another value: the two others share a sentence."""

    def one_apart(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "kv_cache_tokens": 1000.0 if row["treatment"] == "baseline" else 2000.0}

    found = changed(tmp_path, one_apart)
    data = found.cells.data
    said = list(theory_sentences(TheoryAnswer(quantities=["kv_cache_tokens"]), data, found))
    others = [
        data.label(name) for name, treatment in data.treatments.items() if name != "baseline" and not treatment.copy
    ]
    assert len(others) >= 2 and len(said) == 2
    assert said[0].startswith("Baseline, at every load point: ")
    assert said[1].startswith(f"{'; '.join(others)}, at every load point: ")


def test_what_is_not_known_is_left_out_with_its_reason(study: ReportStudy, tmp_path: Path) -> None:
    said = " ".join(left_out(study.read(), theory_values(study.read())))
    assert "kv_cache_tokens was not measured" in said
    assert "speculate" not in said and "mixture" not in said, "what the study has nothing to do with is not missed"
    other = make_study(tmp_path, ROOFED, records=False)
    path = tmp_path / "config" / "gpus.yaml"
    path.write_text(path.read_text().replace("  bandwidth: 4.8 TB/s\n", ""))
    data = ReportStudy(other.root, ROOFED).read()
    found = theory_values(data)
    assert not [value for value in found.values if value.quantity.name == "decode_floor_s"]
    assert "config/gpus.yaml states no memory bandwidth of h200 (`bandwidth`)" in " ".join(left_out(data, found))


def test_quantities_that_the_study_names_come_first(study: ReportStudy, values: TheoryValues) -> None:
    table = theory_table(study.read(), values)
    assert table is not None
    titles = [group.title for group in table.groups]
    assert titles[0].startswith("KV cache of a token") and any(title.startswith("Ridge") for title in titles[:4])
    assert any(title == "Floor of a decode step; beside it: median time per output token" for title in titles)


def test_what_the_course_collects_of_theory_is_computed(study: ReportStudy, values: TheoryValues) -> None:
    table = collected_table(study.read(), values)
    assert table is not None
    floor = next(group for group in table.groups if group.title.startswith("Theoretical decode latency: floor"))
    assert [cell.text for cell in floor.rows[0].cells] == ["Baseline", "3.17 ms", "3.84 ms"]
    assert floor.rows[0].cells[0].note == "by theory"
    ridge = next(group for group in table.groups if "ridge" in group.title)
    assert {row.cells[0].note for row in ridge.rows} == {"by theory"}, "a property has nothing beside it"


def test_how_much_of_a_bound_was_reached_is_collected(study: ReportStudy, values: TheoryValues) -> None:
    """The data sheet's bandwidth says nothing of its use: what was reached stands below it, and its share of it."""
    table = collected_table(study.read(), values)
    assert table is not None
    group = next(group for group in table.groups if group.title.startswith("HBM utilization %"))
    assert (
        group.title == "HBM utilization %: memory bandwidth, by theory (ceiling), and bandwidth that decoding reached"
    )
    theory, measured, share = group.rows[:3]
    assert [row.cells[0].note for row in group.rows[:3]] == ["by theory", "measured", "measured ÷ ceiling"]
    own = of(values, "decode_bandwidth_bytes_per_s")
    assert own.measured
    assert theory.cells[1].text == "4,800 GB/s"
    assert measured.cells[1].text == f"{own.measured / 1e9:,.0f} GB/s"
    assert share.cells[1].text == f"{100 * own.measured / 4.8e12:.1f} %"
    assert {row.cells[2].text for row in group.rows} == {""}, "it is wanted at one load point"
    floor = next(group for group in table.groups if group.title.startswith("Theoretical decode latency"))
    step = of(values, "decode_floor_s")
    assert step.measured
    assert floor.rows[2].cells[0].note == "floor ÷ measured"
    assert floor.rows[2].cells[1].text == share.cells[1].text


def test_a_share_beyond_its_bound_is_marked_where_it_is_collected(tmp_path: Path) -> None:
    found = changed(tmp_path, lambda row: {**row, "tpot_s_p50": 0.5 * FLOOR_S})
    table = collected_table(found.cells.data, found)
    assert table is not None
    group = next(group for group in table.groups if group.title.startswith("HBM utilization %"))
    mark = group.rows[2].cells[1].mark
    assert mark and mark.word == "beyond its bound"


def test_the_page_has_the_section_and_says_what_is_simulated(study: ReportStudy, tmp_path: Path) -> None:
    page = render_study(study.read())
    assert '<section id="theory"' in page and "Floor of a decode step" in page
    simulated = render_study(make_study(tmp_path, SIMULATED, records=False).read())
    assert "Simulated: what stands under “measured” was declared." in simulated


def test_the_roofline_has_a_point_a_treatment_and_load(study: ReportStudy, values: TheoryValues) -> None:
    with drawing():
        (part,) = roofline_parts(study.read(), values)
        (panel,) = part.figure.panels
    assert panel.count("FLOP/byte;") + panel.count("FLOP/byte.") == 6
    assert all(
        said in panel for said in ("989 TFLOP/s bf16,", "ridge at 206", "1,979 TFLOP/s fp8, ridge at 412", "4,800 GB/s")
    )
    assert part.figure.legend[0].label == "Baseline"


def test_no_roofline_is_drawn_where_nothing_bounds_it(tmp_path: Path) -> None:
    data = make_study(tmp_path, SIMULATED, records=False).read()
    assert roofline_parts(data, theory_values(data)) == []


def test_speculation_is_compared_with_the_treatment_that_does_none(tmp_path: Path) -> None:
    def speculating(row: dict[str, Any]) -> dict[str, Any]:
        if row["lever:prefix_caching"] == "on":
            return row
        flags = '"flags": {"speculative-config": {"method": "ngram", "num_speculative_tokens": 5}, '
        told = row["specification"].replace('"flags": {', flags)
        return {
            **row,
            "specification": told,
            "tokens_per_draft": 3.0,
            "acceptance_ratio": 0.4,
            "tpot_s_p50": row["tpot_s_p50"] / 2,
        }

    found = changed(tmp_path, speculating)
    drafting = next(v.treatment for v in found.values if "prefix_caching" in v.treatment)
    speedup = of(found, "speculative_speedup", drafting)
    assert speedup.expected == 3.0 and speedup.measured == pytest.approx(2, rel=0.2)
    assert of(found, "tokens_per_draft", drafting).expected == pytest.approx(3.0), (
        "k and the accepted share give it back"
    )
    assert not [v for v in found.values if v.quantity.name == "decode_floor_s" and v.treatment == drafting]
    assert not [v for v in found.values if v.quantity.name == "speculative_speedup" and v.treatment == "baseline"]


def test_what_theory_does_not_know_of_one_treatment_is_said_beside_the_others(tmp_path: Path) -> None:
    def speculating(row: dict[str, Any]) -> dict[str, Any]:
        if row["treatment"] == "baseline":
            return row
        method = "ngram" if row["lever:prefix_caching"] == "off" else "eagle3"
        flags = f'"flags": {{"speculative-config": {{"method": "{method}", "num_speculative_tokens": 5}}, '
        told = row["specification"].replace('"flags": {', flags)
        return {**row, "specification": told, "tokens_per_draft": 3.0, "acceptance_ratio": 0.4}

    found = changed(tmp_path, speculating)
    said = list(theory_sentences(TheoryAnswer(quantities=["speculative_speedup"]), found.cells.data, found))
    assert "speed-up by speculation (ceiling) beside" in said[0]
    head = next(name for name in found.cells.data.treatments if "max_num_seqs" in name)
    assert said[-1] == (
        f"Not computed for {found.cells.data.label(head)}: speed-up by speculation: what a drafted token costs with the method 'eagle3' "
        "is not known."
    )
