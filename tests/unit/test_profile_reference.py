"""The twins that were recorded on an H100 and are kept with the reports: what theirs must show, held against the cells that were measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leverlab.profile import tables
from leverlab.profile.analysis import devices, steps_from_kernels, time_by_class
from leverlab.profile.twin import read_twin
from leverlab.profile.window import Window
from leverlab.records import TwinRecord
from tests.unit.repository import SOURCE

REFERENCE = SOURCE / "reports" / "reference" / "h100"
AGREES = 0.05
"""As the pages have it."""


@dataclass(frozen=True)
class Kept:
    """An engine server of a twin, beside the measured cell of its replicate."""

    record: TwinRecord
    server: str
    trace: tables.Trace
    cell: pd.Series

    @property
    def step_s(self) -> float:
        """The median decode step, by kernels."""
        seen = steps_from_kernels(self.trace, self.record.layers or 0)
        assert seen is not None and len(seen.decode_s)
        return float(np.median(seen.decode_s))


@cache
def kept() -> tuple[Kept, ...]:
    return tuple(each for study in sorted(REFERENCE.glob("where-time-goes*/profiles")) for each in _of(study.parent))


def _of(study: Path) -> Iterator[Kept]:
    cells = pd.read_parquet(study / "cells.parquet").set_index(["server", "phase", "replicate"])
    for folder in sorted({path.parent for path in study.glob("profiles/*/*/*/kernels.parquet")}):
        record = read_twin(folder)
        assert record is not None and record.outcome == "recorded", folder
        cell = cells.loc[(record.server, record.phase, record.replicate)]
        for server, trace in tables.read(folder).servers.items():
            yield Kept(record, server, trace, cell)


def test_their_time_by_class_sums_to_the_busy_time() -> None:
    assert kept()
    for each in kept():
        busy_s = float(np.mean([gpu.busy_s for gpu in devices(each.trace)]))
        assert time_by_class(each.trace)["time_s"].sum() == pytest.approx(busy_s, rel=0.01)


def test_their_steps_by_kernels_are_as_many_as_the_engine_counted() -> None:
    counted = 0
    for each in kept():
        window = {name: value for name, value in each.record.window.items() if name in Window.__dataclass_fields__}
        told = Window(**window).iterations_of("" if each.server == tables.ALONE else each.server)
        if told is None:  # SGLang counts none
            continue
        seen = steps_from_kernels(each.trace, each.record.layers or 0)
        assert seen is not None and told[0] - 1 <= seen.count <= told[1] + 1, each.record.server
        counted += 1
    assert counted


def test_their_decode_step_is_the_measured_one_within_what_the_profiler_cost() -> None:
    """What it cost is told by the median gap between chunks while it recorded, against the measured cell's. TPOT also holds the steps that compute
    prompts of others, which no decode step does: it is no shorter."""
    held = [each for each in kept() if "recorded_chunk_gap_s_p50" in each.record.requests]
    assert held, "no twin tells the gap between chunks while it recorded: none can be held against its measured cell"
    for each in held:
        measured_s, tpot_s = float(each.cell["chunk_gap_s_p50"]), float(each.cell["tpot_s_p50"])
        slowed = each.record.requests["recorded_chunk_gap_s_p50"] / measured_s
        assert each.step_s / slowed == pytest.approx(measured_s, rel=AGREES), each.record.server
        assert each.step_s / slowed <= tpot_s * (1 + AGREES), each.record.server
