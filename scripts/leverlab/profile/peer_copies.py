"""Copies from one GPU's memory to another's, as a server that fetches KV blocks makes them: how many a transfer takes, and how fast they are."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import pandas as pd

from leverlab.profile.intervals import covered_s, times
from leverlab.profile.tables import Trace

_PEER: Final = re.compile(r"memcpy PtoP", re.IGNORECASE)
"""Nsight Systems: `[CUDA memcpy PtoP]`; torch: `Memcpy PtoP (Device -> Device)`."""
_APART_S: Final = 0.01
"""Of two copies of one transfer where no decode step tells how long a server leaves between two of them."""
_KINDS_APART: Final = 4
"""Times as many copies by which the one transfer is told apart from the other."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Copies between GPUs that follow each other. Seconds and bytes."""

    copies: int
    duration_s: float
    """From the first one's start to the last one's end."""
    copying_s: float
    """What of it any of them ran."""
    copy_s: float
    """A copy, in the mean."""
    moved: float | None
    """Bytes; None where the profiler tells none."""

    @property
    def rate(self) -> float | None:
        """Bytes/s of the whole transfer, with the pauses between its copies."""
        return None if self.moved is None or not self.duration_s else self.moved / self.duration_s


@dataclass(frozen=True, slots=True)
class Transfers:
    """Transfers of about as many copies each, at least one."""

    transfers: tuple[Transfer, ...]

    @property
    def copies(self) -> float:
        """Copies of a transfer, the median."""
        return float(median(each.copies for each in self.transfers))

    @property
    def duration_s(self) -> float:
        """How long a transfer takes, the median."""
        return float(median(each.duration_s for each in self.transfers))

    @property
    def copy_s(self) -> float:
        """How long a copy takes, the median of the transfers' means."""
        return float(median(each.copy_s for each in self.transfers))

    @property
    def copy_bytes(self) -> float | None:
        """Bytes of a copy, the same."""
        return _median([None if each.moved is None else each.moved / each.copies for each in self.transfers])

    @property
    def copying_share(self) -> float:
        """Share of the transfers' time in which a copy ran."""
        whole = sum(each.duration_s for each in self.transfers)
        return sum(each.copying_s for each in self.transfers) / whole if whole else 1.0

    @property
    def moved(self) -> float | None:
        """Bytes of a transfer, the median."""
        return _median([each.moved for each in self.transfers])

    @property
    def rate(self) -> float | None:
        """Bytes/s of a transfer, the median."""
        return _median([each.rate for each in self.transfers])


def _median(values: Sequence[float | None]) -> float | None:
    """None where one of them is."""
    told = [value for value in values if value is not None]
    return float(median(told)) if len(told) == len(values) else None


def is_peer(kernels: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows of kernels.parquet are copies between GPUs."""
    names = kernels["kernel"].astype(str)
    return names.isin([name for name in names.unique() if _PEER.search(name)])


def peer_transfers(trace: Trace, step_s: float | None) -> tuple[Transfers, ...]:
    """The transfers to each of a server's GPUs, those of many copies before those of few where it makes both; empty where there are none.

    Copies of one transfer follow each other within `step_s`, the time of a decode step: a server sees after it whether blocks are to be
    fetched. Two transfers at the same time are told as one, and one that an end of the window cuts as far as it was seen.
    """
    found: list[Transfer] = []
    for _, kernels in trace.devices:
        own = kernels[is_peer(kernels)].sort_values("start_s")
        found += [_transfer(part) for part in _parts(own, step_s or _APART_S)]
    if not found:
        return ()
    most, fewest = max(each.copies for each in found), min(each.copies for each in found)
    if most < _KINDS_APART * fewest:
        return (Transfers(tuple(found)),)
    between = math.sqrt(most * fewest)
    kinds = [tuple(each for each in found if (each.copies > between) is many) for many in (True, False)]
    return tuple(Transfers(kind) for kind in kinds)


def _parts(own: pd.DataFrame, apart_s: float) -> list[pd.DataFrame]:
    if own.empty:
        return []
    start, end = times(own)
    number = np.concatenate(([0], np.cumsum(start[1:] - np.maximum.accumulate(end)[:-1] > apart_s)))
    return [part for _, part in own.groupby(number)]


def _transfer(part: pd.DataFrame) -> Transfer:
    start, end = times(part)
    moved = part["bytes"]
    told = float(moved.astype(float).sum()) if moved.notna().all() else None
    return Transfer(len(part), float(end.max() - start.min()), covered_s(start, end), float((end - start).mean()), told)
