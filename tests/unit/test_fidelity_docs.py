"""The published error of the load clients is that of the data that the repository keeps."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.repository import SOURCE


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    folder = str(SOURCE / "benchmarks")
    sys.path.append(folder)  # last: a package is called coverage, and so is a benchmark
    try:
        import fidelity_report

        yield fidelity_report
    finally:
        sys.path.remove(folder)


def test_table_and_figure_of_the_docs_are_those_of_the_data(report: ModuleType, tmp_path: Path) -> None:
    content = json.loads(report.DATA.read_text(encoding="utf-8"))
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.written_page(content, page) == page, "run `python benchmarks/fidelity_report.py`"
    report.draw(content, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 10_000 and report.FIGURE.is_file()


def test_the_data_says_where_it_comes_from_and_what_was_late(report: ModuleType) -> None:
    content = json.loads(report.DATA.read_text(encoding="utf-8"))
    assert content["machine"]["cpu"] and content["machine"]["kernel"] and content["versions"]["Python"]
    kinds = {(one["client"], one["kind"]) for one in content["results"]}
    assert {
        (client, kind) for client in ("replay", "vllm", "sglang", "httpx") for kind in ("rate", "concurrency")
    } <= kinds
    busiest = max(one["chunks_per_s"] for one in content["results"] if one["client"] == "replay")
    assert busiest > 40_000
    late = [one | {"server_late_p99_s": 0.002} for one in content["results"][:1]]
    assert "the engine was 2.000 ms late" in report.table(late)
