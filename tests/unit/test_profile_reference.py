"""Twins that were recorded on H100s, as the reports hold them: what they must show, against the cells that were measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leverlab.profile import tables
from leverlab.profile.analysis import devices, steps_from_kernels, time_by_class
from leverlab.profile.keeping import read_twin
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
    studies = sorted(path.parent for path in REFERENCE.glob("*/profiles"))
    assert studies
    return tuple(each for study in studies for each in _of(study))


def _of(study: Path) -> Iterator[Kept]:
    """The twins of the cells of `study`."""
    cells = pd.read_parquet(study / "cells.parquet").set_index(["server", "phase", "replicate"])
    for twin in sorted({path.parent for path in (study / "profiles").rglob("kernels.parquet")}):
        record = read_twin(twin)
        assert record is not None and record.outcome == "recorded", twin
        cell = cells.loc[(record.server, record.phase, record.replicate)]
        for server, trace in tables.read(twin).servers.items():
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


def test_their_decode_step_is_as_long_as_the_gap_that_the_client_saw_meanwhile() -> None:
    """And no longer than TPOT by more than what the profiler cost: that gap beside the measured cell's. TPOT also holds steps that compute prompts."""
    held = 0
    for each in kept():
        recorded_s = each.record.requests.get("recorded_chunk_gap_s_p50")
        if recorded_s is None or each.server != tables.ALONE:  # the gaps of several servers are those of their proxy
            continue
        assert each.step_s == pytest.approx(recorded_s, rel=AGREES), each.record.server
        cost = recorded_s / float(each.cell["chunk_gap_s_p50"])
        assert each.step_s <= cost * float(each.cell["tpot_s_p50"]) * (1 + AGREES), each.record.server
        held += 1
    assert held > 10


def test_a_step_of_graphs_is_the_measured_one() -> None:
    """The profiler costs an eager engine more than its step. With CUDA graphs what it recorded is what the cell measured without it."""
    held = {
        (each.record.server, each.record.phase): each.step_s / float(each.cell["chunk_gap_s_p50"])
        for each in kept()
        if each.record.requests.get("recorded_chunk_gap_s_p50") and each.server == tables.ALONE and _graphs(each.trace)
    }
    assert len(held) > 5 and held == pytest.approx(dict.fromkeys(held, 1.0), rel=AGREES)


def _graphs(trace: tables.Trace) -> bool:
    """Whether its kernels ran in CUDA graphs for the most part."""
    return bool(trace.kernels["graph_node"].notna().mean() > 0.5)
