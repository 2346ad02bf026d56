"""Bytes over the GPUs' links: counters that start anew, that fell, and looks that are missing."""

import pyarrow as pa
import pytest

from leverlab.checks.links import moved_bytes
from leverlab.telemetry.gpu import GPU

GIB = 2.0**30


def samples(column: str, *counters: list[float | None], period_s: float = 0.1) -> pa.Table:
    """Looks at as many GPUs as there are counters."""
    rows = [
        {"time_s": number * period_s, "gpu": gpu, column: value}
        for gpu, values in enumerate(counters)
        for number, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=GPU)


def test_all_gpus_count_from_the_first_look_to_the_last() -> None:
    assert moved_bytes(samples("nvlink_sent_bytes", [5.0, 7.0, 12.0], [100.0, 100.0, 103.0]), "nvlink_sent_bytes") == 10


def test_a_pcie_counter_that_starts_anew_is_carried_on() -> None:
    table = samples("pcie_received_bytes", [3.5 * GIB, 3.9 * GIB, 0.2 * GIB, 0.6 * GIB])
    assert moved_bytes(table, "pcie_received_bytes") == pytest.approx(1.1 * GIB)


@pytest.mark.parametrize(
    ("column", "values", "period_s"),
    [
        ("nvlink_sent_bytes", [5.0, 4.0], 0.1),
        ("pcie_sent_bytes", [5 * GIB, 4 * GIB], 0.1),  # a counter that goes further does not start anew there
        ("pcie_sent_bytes", [None, None], 0.1),
        ("pcie_sent_bytes", [1.0], 0.1),
        ("pcie_sent_bytes", [1.0, 2.0], 3.0),
    ],
)
def test_what_was_not_seen_is_not_told(column: str, values: list[float | None], period_s: float) -> None:
    assert moved_bytes(samples(column, values, period_s=period_s), column) is None


def test_one_gpu_that_does_not_count_leaves_the_sum_unknown() -> None:
    assert moved_bytes(samples("nvlink_sent_bytes", [1.0, 2.0], [None, None]), "nvlink_sent_bytes") is None
