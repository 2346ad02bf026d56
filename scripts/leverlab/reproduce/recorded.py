"""Where a cell is recorded, and which server it is of. Light: every Snakemake process imports it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from leverlab.layout import CELL_FILE, Layout


@dataclass(frozen=True, slots=True)
class RecordedServer:
    """The server of a recorded cell: what a reproduction starts again. `engine`: its name in config/engines.yaml."""

    engine: str
    model: str
    gpu: str
    gpu_count: int
    other_models: tuple[str, ...]


class _Record(msgspec.Struct):
    cell: str
    engine: str
    specification: dict[str, Any]


def recorded_server(cell: str, layout: Layout) -> RecordedServer:
    """The server of `cell`. Raises LookupError, with the remedy, where no record of the cell is there."""
    folders = cell_folders(cell, layout)
    if folders:
        record = msgspec.json.decode((folders[0] / CELL_FILE).read_bytes(), type=_Record)
        return server_of(record.engine, record.specification["server"])
    rows = table_rows(cell, layout)
    if rows:
        return server_of(rows[0]["engine"], msgspec.json.decode(rows[0]["specification"])["server"])
    raise no_record(cell, layout)


def no_record(cell: str, layout: Layout) -> LookupError:
    """The error for a cell of which nothing is recorded here, with the remedy."""
    return LookupError(
        f"no record of the cell {cell}: neither {layout.results}/servers/*/*/cells/*/{CELL_FILE} nor "
        f"{layout.results}/studies/*/cells.parquet holds it. Take the id from a report's cell table, and copy one of the two here"
    )


def server_of(engine: str, identity: Mapping[str, Any]) -> RecordedServer:
    """What a server's identity says of where it can be started."""
    gpu = identity["gpu"]
    return RecordedServer(
        engine, identity["model"]["name"], gpu["type"], gpu["count"], tuple(identity.get("models", {}))
    )


def cell_folders(cell: str, layout: Layout) -> list[Path]:
    """Folders of the cell's records under results/servers/, in the order of their replicates' names."""
    wanted = f'"cell": "{cell}"'.encode()
    found = sorted(layout.results.glob(f"servers/*/r*/cells/*/{CELL_FILE}"))
    return [path.parent for path in found if wanted in path.read_bytes()]


def table_rows(cell: str, layout: Layout) -> list[dict[str, Any]]:
    """The cell's rows in the studies' cells.parquet, one a replicate; studies that share the cell say the same of it."""
    # pyarrow takes longer to import than all else that Snakemake needs of this module, which needs it rarely.
    import pyarrow.parquet as pq

    rows: dict[str, dict[str, Any]] = {}
    for table in sorted(layout.results.glob("studies/*/cells.parquet")):
        for row in pq.read_table(table, filters=[("cell", "==", cell)]).to_pylist():
            if row["replicate"] not in rows or row["status"] == "measured":
                rows[row["replicate"]] = row
    return [rows[replicate] for replicate in sorted(rows)]
