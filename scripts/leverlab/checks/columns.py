"""Columns of a cell's tables as arrays."""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LONGEST_GAP_S: Final = 2.0
"""Looks at a counter further apart than this, or from an end of a stretch, leave unknown what it counted between them."""


def numeric(table: pa.Table, name: str) -> Floats:
    """A numeric column of `table` as float64, NaN where it is null."""
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False), np.float64)


def ended_well(requests: pa.Table) -> NDArray[np.bool_]:
    """Which rows of `requests` have the status ok."""
    return np.array([status == "ok" for status in requests.column("status").to_pylist()], bool)
