"""The checks of GPUs on what NVML really said of an H200 (tests/data/nvml)."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leverlab.telemetry.gpu import GPU
from tests.unit.checked_cells import clean, found

RECORDED = Path(__file__).resolve().parents[1] / "data" / "nvml"


def samples(name: str) -> pa.Table:
    """The recording in the columns of gpu.parquet. All but one of its processes are foreign: the recorder was the server."""
    recorded = pq.read_table(RECORDED / f"{name}.parquet").to_pylist()
    rows = [{**row, "foreign_processes": max(row["processes"] - 1.0, 0.0)} for row in recorded]
    return pa.Table.from_pylist([{name: row.get(name) for name in GPU.names} for row in rows], GPU)


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("idle-no-context", {}),
        ("idle", {}),
        ("decode", {}),
        ("light-load", {}),
        ("power-capped", {"gpu_throttled": "caution", "gpu_clock_dropped": "caution"}),
        ("shared", {"gpu_shared": "invalid"}),
        ("decode-after", {}),
    ],
)
def test_recorded_gpus_are_marked_for_what_went_on(name: str, marked: dict[str, str]) -> None:
    assert found(clean(gpu=samples(name))) == marked


def test_memory_of_the_neighbour_is_seen_before_the_start() -> None:
    used = {name: int(samples(name).column("memory_used_bytes")[0].as_py()) for name in ("idle-no-context", "shared")}
    assert found(clean(gpu_memory_before={"GPU-1": used["idle-no-context"]})) == {}
    assert found(clean(gpu_memory_before={"GPU-1": used["shared"]})) == {"gpu_memory_kept": "caution"}
