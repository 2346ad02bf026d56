"""Checks that were made after a cell was measured, asked of what is kept of it.

Their findings stand with those of checks.json wherever the cell is read, and are written nowhere: what was measured stays as it is.
"""

from collections.abc import Callable, Collection
from typing import Final

import pyarrow as pa

from leverlab.checks import CHECKS, CellInputs
from leverlab.checks.base import KeptTable
from leverlab.load.schema import CHUNKS, REQUESTS
from leverlab.pcie import pcie_bytes_per_s
from leverlab.records import CellRecord, CheckResult, gpu_names
from leverlab.theory.identified import identified_kv_bytes

_UNKNOWN_COUNT: Final = 0
"""Requests of the workload's file, which is not kept with the cell: no check with `kept` may look at it."""


def younger_results(
    record: CellRecord, answered: Collection[str], table: Callable[[KeptTable], pa.Table | None]
) -> list[CheckResult]:
    """What the checks that are not among the codes `answered` find of the measured cell `record`, whose tables `table` gives.

    Only those are asked that can be answered from what is kept (`Check.kept`), and whose tables are there: with a page that was
    handed on, they may not be.
    """
    found = []
    for check in CHECKS:
        if check.kept is None or check.code in answered:
            continue
        names = (*check.kept, *check.kept_if_there)
        there = {name: kept for name in names if (kept := table(name)) is not None}
        if there.keys() >= set(check.kept) and (result := check.result(_inputs(record, there))) is not None:
            found.append(result)
    return found


def _inputs(record: CellRecord, tables: dict[KeptTable, pa.Table]) -> CellInputs:
    versions = record.provenance.get("versions")
    return CellInputs(
        specification=record.specification,
        requests=tables.get("requests", REQUESTS.empty_table()),
        chunks=tables.get("chunks", CHUNKS.empty_table()),
        workload_requests=_UNKNOWN_COUNT,
        server_delta=record.server_delta,
        instrument=record.instrument,
        cache=record.cache,
        installed_versions=versions if isinstance(versions, dict) else {},
        gpu=tables.get("gpu"),
        gpu_names=gpu_names(record.provenance),
        pcie_bytes_per_s=pcie_bytes_per_s(record.provenance),
        host=tables.get("host"),
        not_sampled=record.not_sampled,
        kv_bytes_per_token=identified_kv_bytes(record.specification["server"]),
        search=record.search,
    )
