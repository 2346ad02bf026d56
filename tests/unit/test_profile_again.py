"""A twin's tables made anew without a run: from the profiler's files, or by new rules for names alone."""

import shutil
from pathlib import Path

import pytest

from leverlab.config.kernel_classes import KERNEL_CLASSES_FILE as FILE
from leverlab.profile import tables
from leverlab.profile.again import again
from leverlab.profile.classes import kernel_classes
from leverlab.profile.torch_trace import read_torch_traces
from leverlab.records import TwinRecord, write_json
from tests.unit.repository import SOURCE

RECORDED = SOURCE / "tests" / "data" / "profiles" / "cpu-engine.pt.trace.json.gz"


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    folder = tmp_path / "torch"
    folder.mkdir()
    tables.write(read_torch_traces([RECORDED], kernel_classes(SOURCE)), folder)
    record = TwinRecord(
        twin="t", server="s", phase="p", cell="c", replicate="r1", tool="torch", outcome="recorded", started_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    write_json(folder / "twin.json", record)
    (tmp_path / "config").mkdir()
    rules = (SOURCE / FILE).read_text().replace("    - onednn_mm\n", "")
    (tmp_path / FILE).write_text(rules)
    return folder


def test_new_rules_name_the_kernels_of_a_twin_whose_files_are_elsewhere(twin: Path, tmp_path: Path) -> None:
    before = tables.read(twin)
    said = again(twin, tmp_path)
    assert said.startswith("classed again") and "_C::onednn_mm" not in said
    after = tables.read(twin)
    assert set(before.kernels.loc[before.kernels["kernel"] == "_C::onednn_mm", "class"]) == {"gemm"}
    assert set(after.kernels.loc[after.kernels["kernel"] == "_C::onednn_mm", "class"]) == {"norm_elementwise"}
    assert after.steps.equals(before.steps) and len(after.kernels) == len(before.kernels)


def test_the_profilers_files_are_read_again_where_they_are_there(twin: Path, tmp_path: Path) -> None:
    (twin / "raw").mkdir()
    shutil.copy(RECORDED, twin / "raw")
    (twin / "kernels.parquet").unlink()
    assert again(twin, tmp_path).startswith("read again from raw/")
    assert len(tables.read(twin).kernels) > 1000


def test_a_folder_without_a_twin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no twin\.json"):
        again(tmp_path, SOURCE)
