"""Tables come back as they were written, whoever reads them, and take less room than by default."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leverlab.aggregate.schema import write_tables
from leverlab.parquet import encoding

SCHEMA = pa.schema(
    [
        pa.field("cell", pa.string(), metadata={"definition": "which"}),
        pa.field("arrival_s", pa.float64(), metadata={"definition": "when", "unit": "s"}),
        pa.field("share", pa.float32()),
        pa.field("tokens", pa.int64()),
        pa.field("ok", pa.bool_()),
    ]
)


def measured(rows: int) -> pa.Table:
    draw = np.random.default_rng(1)
    arrivals = np.cumsum(draw.exponential(0.01, rows))
    arrivals[::7] = np.nan
    extremes = [0.0, -0.0, float("inf"), 5e-324]
    arrivals[: len(extremes)] = extremes[:rows]
    columns = [
        pa.array(["a", None] * (rows // 2)),
        pa.array(arrivals, mask=np.arange(rows) % 5 == 4),
        pa.array(draw.random(rows, dtype=np.float32)),
        pa.array(draw.integers(1, 2000, rows)),
        pa.array(draw.random(rows) < 0.5),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def test_every_bit_comes_back_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    table = measured(1000)
    first, again = tmp_path / "first.parquet", tmp_path / "again.parquet"
    for path in (first, again):
        write_tables(path, SCHEMA, iter([table.slice(0, 600), table.slice(600)]))
    assert first.read_bytes() == again.read_bytes()
    back = pq.read_table(first)
    assert back.schema.equals(SCHEMA, check_metadata=True)
    for name in SCHEMA.names:
        assert back[name].is_null().equals(table[name].is_null())
    for name in ("arrival_s", "share"):
        assert back[name].combine_chunks().to_numpy(False).tobytes() == table[name].to_numpy().tobytes(), name
    assert back.select(["cell", "tokens", "ok"]).equals(table.select(["cell", "tokens", "ok"]))
    pd.testing.assert_frame_equal(pd.read_parquet(first), table.to_pandas())


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    write_tables(tmp_path / "t.parquet", SCHEMA, iter([measured(0)]))
    assert pq.read_table(tmp_path / "t.parquet").schema.equals(SCHEMA, check_metadata=True)


def test_floats_take_less_room_than_by_default(tmp_path: Path) -> None:
    table = measured(4000).select(["arrival_s", "share"])
    pq.write_table(table, tmp_path / "default.parquet", compression="zstd")
    pq.write_table(table, tmp_path / "ours.parquet", **encoding(table.schema))
    assert (tmp_path / "ours.parquet").stat().st_size < 0.8 * (tmp_path / "default.parquet").stat().st_size
