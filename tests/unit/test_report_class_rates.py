"""What the classes of kernels reach of arithmetic and bandwidth, and where they stand on a roofline."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from leverlab.profile import ncu
from leverlab.profile.classes import kernel_classes
from leverlab.profile.twin import COUNTERS, REQUESTS
from leverlab.records import TwinRecord, write_json
from leverlab.report.class_rates import ClassRate, NoRate, class_rates, rate_table
from leverlab.report.counters import counted_rates, counter_table
from leverlab.report.page import render_study
from leverlab.report.roofline_block import roofline_parts
from leverlab.report.source import StudyData
from leverlab.report.theory_values import theory_values
from leverlab.units import format_number, format_share
from tests.unit.recorded_twins import TREATMENT, of, with_twins
from tests.unit.report_studies import PROFILED, STUDIES
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.repository import SOURCE


@pytest.fixture
def data(tmp_path: Path) -> StudyData:
    return with_twins(make_study(tmp_path, PROFILED))


def rates(data: StudyData, treatment: str = "baseline") -> list[ClassRate]:
    found = class_rates(of(data, treatment), data.configuration)
    return [rate for rate in found if isinstance(rate, ClassRate)]


def test_counters_of_kernels_answer_too(tmp_path: Path) -> None:
    study = make_study(tmp_path, PROFILED)
    row = study.read().cells.iloc[0]
    folder = study.layout.profile(str(row["server"]), str(row["phase"]), "ncu")
    record = TwinRecord(
        twin="t", server="s", phase="p", cell="c", replicate="r1", tool="ncu", outcome="recorded", started_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    write_json(folder / "twin.json", record)
    # Nine short kernels beside the one that takes the class's time: a median would be theirs.
    main = "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<int>>>(T1::Params)"
    combine = "void cutlass::device_kernel<flash::FlashAttnFwdCombine<int>>(T1::Params)"
    shares = {
        name: [share] + [0.01] * 9
        for name, share in (("compute_share", 0.2), ("memory_share", 0.85), ("dram_share", 0.8))
    }
    counted = {"flop": [2e9] + [None] * 9, "dram_bytes": [1e9] + [1e3] * 9}
    pd.DataFrame(
        {
            "kernel": [main] + [combine] * 9,
            "class": ["attention"] * 10,
            "duration_s": [1e-3] + [1e-6] * 9,
            **shares,
            **counted,
        }
    ).to_parquet(folder / COUNTERS)
    page = render_study(study.read()).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "From profiles: Baseline, attention: the busiest part of the multiprocessors at 20 % of its peak, and 79 % of the memory&#39;s bandwidth "
        "(10 launches, weighted by their time)." in page
    )
    for told in (
        "flash::FlashAttnFwdSm90",
        "flash::FlashAttnFwdCombine",
        "2 TFLOP/s",
        "2 FLOP/byte",
        "at one stream those of a decode step",
    ):
        assert told in page
    assert list(counted_rates(pd.read_parquet(folder / COUNTERS))) == [
        ("attention", pytest.approx(2.0), pytest.approx(2e12))
    ]


def test_a_kernel_that_serves_several_shapes_has_a_row_for_each() -> None:
    """Of a decode step on an H100 one kernel makes attention's output and the MLP's, of which the weights are 3.5 times as large."""
    counters = ncu.read_counters((SOURCE / "tests/data/profiles/vllm-h100-ncu/counters.csv").read_text())
    counters["class"] = [kernel_classes(SOURCE).of(kernel) for kernel in counters["kernel"]]
    table = counter_table([("Baseline", counters)], "counters")
    assert table is not None
    rows = [[cell.text for cell in row.cells] for group in table.groups for row in group.rows]
    shared = [row for row in rows if "splitK" in row[1]]
    assert [(row[2], row[3].replace("\N{NO-BREAK SPACE}", " ")) for row in shared] == [
        ("1", "45.2 µs"),
        ("2", "16 µs"),
    ]
    assert len(rows) == 5 and [row[2] for row in rows if row[0] == "attention"] == ["2"]


def test_classes_reach_what_their_work_takes(data: StudyData) -> None:
    """Two requests, each of 128 tokens and half of its 16 before it; a CPU states no roof."""
    products, attention = rates(data)
    found = of(data, "baseline").recorded
    assert found is not None and found.step is not None
    assert (products.name, products.time_s) == ("gemm", found.step.class_s["gemm"])
    matrices = 8 * (512 * (512 + 2 * 256) + 512 * 512 + 3 * 512 * 1408)
    assert products.work.flop == pytest.approx(2 * 2 * (matrices + 16384 * 512), rel=0.001)
    assert attention.work.flop == 4 * 8 * 8 * 64 * (128 + 8) * 2
    assert attention.work.bytes_read == 2 * 8 * 4 * 64 * 2 * (128 + 8) * 2
    assert rates(data, TREATMENT)[0].bytes_per_s == pytest.approx(products.bytes_per_s / 2), "twice as slow"
    page = render_study(data).replace("\N{NO-BREAK SPACE}", " ")
    assert "Classes of a decode step against the roofline" in page
    assert "not known of the GPU: config/gpus.yaml states no memory bandwidth of cpu (<code>bandwidth</code>)" in page


def test_with_roofs_classes_stand_below_them(tmp_path: Path) -> None:
    text = STUDIES[PROFILED].replace("rates: [1]", "concurrencies: [2]").replace("rate 1", "concurrency 2")
    made = make_study(tmp_path, PROFILED, text=text)
    gpus = tmp_path / "config" / "gpus.yaml"
    roofs = "  device: cpu\n  bandwidth: 60 GB/s\n  peak: {bf16: 2 TFLOP/s}\n"
    gpus.write_text(gpus.read_text().replace("  device: cpu\n", roofs))
    study = with_twins(ReportStudy(made.root, made.name))
    products, attention = rates(study)
    assert (products.peak, products.bandwidth, products.lacking) == (2e12, 60e9, "")
    (part,) = roofline_parts(study, theory_values(study))
    (panel,) = part.figure.panels
    said = panel[panel.index("Kernels: ") :]
    assert said.count("matrix products of ") == said.count("attention of ") == 2
    assert f"at {format_number(products.work.intensity)} FLOP/byte" in said
    table = rate_table([("Baseline", [products, attention])], "rates")
    assert table is not None
    of_its_roof = table.groups[0].rows[0].cells[-1].text
    assert of_its_roof == format_share(products.bytes_per_s / 60e9), "memory bounds two rows"
    # Nsight Compute beside the other profiler, at the same cell: its kernels stand there too.
    row = study.cells[study.cells["treatment"] == "baseline"].iloc[0]
    folder = study.layout.profile(str(row["server"]), str(row["phase"]), "ncu")
    folder.mkdir(parents=True)
    counted = {"kernel": ["k"], "class": ["gemm"], "duration_s": [1e-3], "flop": [5e7], "dram_bytes": [4e7]}
    pd.DataFrame(counted).to_parquet(folder / COUNTERS)
    again = ReportStudy(made.root, made.name).read()
    (part,) = roofline_parts(again, theory_values(again))
    assert "that Nsight Compute counted" in part.figure.why
    assert "matrix products of Baseline, concurrency 2: 0.05 TFLOP/s at 1.25 FLOP/byte" in part.figure.panels[0]


def test_a_roofline_without_kernels_of_its_own_has_those_of_the_study_that_explains_it(tmp_path: Path) -> None:
    text = STUDIES[PROFILED].replace("rates: [1]", "concurrencies: [2]").replace("rate 1", "concurrency 2")
    with_twins(make_study(tmp_path, PROFILED, text=text))
    own = re.sub(r"(?m)^profile:.*\n", f"explained_by: [{PROFILED}]\n", text)
    assert own != text
    made = make_study(tmp_path, "own", text=own)
    gpus = tmp_path / "config" / "gpus.yaml"
    roofs = "  device: cpu\n  bandwidth: 60 GB/s\n  peak: {bf16: 2 TFLOP/s}\n"
    gpus.write_text(gpus.read_text().replace("  device: cpu\n", roofs))
    study = ReportStudy(made.root, made.name).read()
    (part,) = roofline_parts(study, theory_values(study))
    said = part.figure.panels[0]
    assert said.count("matrix products of another study, concurrency 2: ") == 1, "its baseline's alone"
    assert "in another study's twins" in part.figure.why


def test_what_theory_lacks_of_a_class_is_said(data: StudyData) -> None:
    twin = of(data, "baseline")
    (twin.folder / REQUESTS).unlink()
    products, attention = class_rates(twin, data.configuration)
    assert isinstance(products, ClassRate) and isinstance(attention, NoRate)
    assert attention.reason.startswith("requests.parquet of the twin")
    assert twin.recorded is not None and twin.recorded.step is not None
    unmarked = replace(twin, recorded=replace(twin.recorded, step=replace(twin.recorded.step, batch=None, tokens=None)))
    (products, _) = class_rates(unmarked, data.configuration)
    assert isinstance(products, NoRate) and "how many requests" in products.reason
