"""How near the kernels of a decode step come to the GPU's roofs, by class: operations and bytes by theory, time by the twin."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow.parquet as pq

from leverlab.config import Configuration
from leverlab.profile.twin import REQUESTS
from leverlab.report.kernel_words import KERNEL_WORDS
from leverlab.report.profiled import Profiled
from leverlab.report.view import Cell, Column, Group, Row, Table
from leverlab.theory.configured import server_of
from leverlab.theory.occasion import Occasion
from leverlab.theory.roofline import ridge_flop_per_byte, roof_flop_per_s
from leverlab.theory.server import TheoryServer
from leverlab.theory.step_kernels import Work, attention_work, products_work
from leverlab.theory.unknown import NotKnownError
from leverlab.theory.weights import mlp_to_projections
from leverlab.units import format_number, format_seconds, format_share

_GIGA: Final = 1e9
_TERA: Final = 1e12

_CLASSES: Final = ("gemm", "attention")
"""Classes of which theory tells operations and bytes."""


@dataclass(frozen=True, slots=True)
class ClassRate:
    """A class of kernels in the mean decode step, on one GPU. `peak` in FLOP/s and `bandwidth` in bytes/s: None where not stated."""

    name: str
    time_s: float
    work: Work
    peak: float | None
    bandwidth: float | None
    lacking: str
    """What of the two is not stated, and where; empty where both are."""

    @property
    def flop_per_s(self) -> float:
        """Operations by theory / time."""
        return self.work.flop / self.time_s

    @property
    def bytes_per_s(self) -> float:
        """Bytes by theory / time."""
        return self.work.bytes_read / self.time_s


@dataclass(frozen=True, slots=True)
class NoRate:
    """Why a class has none."""

    name: str
    reason: str


def class_rates(twin: Profiled, configuration: Configuration) -> list[ClassRate | NoRate]:
    """Of the matrix products and of attention; nothing where the twin recorded no decode step."""
    if twin.recorded is None or twin.recorded.step is None:
        return []
    step = twin.recorded.step
    found: list[ClassRate | NoRate] = []
    for name in _CLASSES:
        try:
            if twin.identity is None:
                raise NotKnownError("the study's table does not tell what the server was")
            server = server_of(twin.identity, configuration)
            if not step.class_s.get(name):
                raise NotKnownError("no such kernel ran in a decode step")
            found.append(_rate(name, step.class_s[name], server, twin))
        except NotKnownError as error:
            found.append(NoRate(name, str(error)))
    return found


def weights_ratio(twin: Profiled, configuration: Configuration) -> float | None:
    """Weights of a layer's MLP / those of its attention's projections, by the model's shape; None where that does not tell."""
    try:
        return None if twin.identity is None else mlp_to_projections(server_of(twin.identity, configuration).dimensions)
    except NotKnownError:
        return None


def _rate(name: str, time_s: float, server: TheoryServer, twin: Profiled) -> ClassRate:
    requests, tokens = _batch(twin, server)
    if name == "gemm":
        work = products_work(server, requests, tokens)
    else:
        work = attention_work(server, requests, tokens, _occasion(twin).context_tokens)
    peak, no_peak = _stated(lambda: server.peak if name == "gemm" else server.unquantized_peak)
    bandwidth, no_bandwidth = _stated(lambda: server.bandwidth)
    return ClassRate(name, time_s, work, peak, bandwidth, "; ".join(filter(None, (no_bandwidth, no_peak))))


def _stated(value: Callable[[], float]) -> tuple[float | None, str]:
    try:
        return value(), ""
    except NotKnownError as error:
        return None, str(error)


def _batch(twin: Profiled, server: TheoryServer) -> tuple[float, float]:
    """Requests of a decode step and tokens computed for them: as the engine marked its steps, or as it counted at the window's ends."""
    assert twin.recorded is not None and twin.recorded.step is not None
    step = twin.recorded.step
    if step.batch is not None and step.tokens is not None:
        return step.batch, step.tokens
    ends = [each for each in (twin.window.running_at_start, twin.window.running_at_stop) if each is not None]
    if not ends or not sum(ends):
        raise NotKnownError("the engine did not tell how many requests a step held")
    running = sum(ends) / len(ends) / server.replicas
    return running, running


def _occasion(twin: Profiled) -> Occasion:
    path = twin.folder / REQUESTS
    if not path.is_file():
        raise NotKnownError(f"{REQUESTS} of the twin, which tells the contexts' lengths, is not on this machine")
    table = pq.read_table(path, columns=["status", "prompt_tokens", "completion_tokens"]).to_pandas()
    answered = table[table["status"] == "ok"].dropna()
    return Occasion(
        prompts=answered["prompt_tokens"].astype(int).tolist(),
        outputs=answered["completion_tokens"].astype(int).tolist(),
    )


_COLUMNS: Final = (
    Column("Treatment"),
    Column("Class"),
    Column("Time of a step", "number"),
    Column("Reads at least", "number"),
    Column("Bandwidth", "number"),
    Column("Operations", "number"),
    Column("Rate", "number"),
    Column("Intensity", "number"),
    Column("Of its roof", "number"),
)


def rate_table(there: Sequence[tuple[str, Sequence[ClassRate | NoRate]]], identifier: str) -> Table | None:
    """A row for each (label, rates of a twin) and class; None where there is none."""
    rows = [Row(tuple(_cells(label, rate))) for label, rates in there for rate in rates]
    if not rows:
        return None
    return Table(
        identifier, "Classes of a decode step against the roofline", _COLUMNS, (Group(tuple(rows)),),
        "Of one GPU, in the mean decode step. What a class reads and computes is theory's, for the batch that the engine marked and the mean context of the "
        "twin's requests: weights once, the keys and values of every request once, activations not at all; so its bandwidth is the least that it reached, "
        "but where requests share a prefix, of which the GPU's own cache gives a part. "
        "Of its roof: the rate as a share of what peak rate and bandwidth allow at its intensity. Of the other classes a model's shape tells no bytes.",
    )  # fmt: skip


def _cells(label: str, rate: ClassRate | NoRate) -> Iterator[Cell]:
    yield Cell(label)
    if isinstance(rate, NoRate):
        yield Cell(KERNEL_WORDS[rate.name], note=f"not known: {rate.reason}")
        yield from [Cell("–")] * (len(_COLUMNS) - 2)
        return
    work, peak, bandwidth = rate.work, rate.peak, rate.bandwidth
    yield Cell(KERNEL_WORDS[rate.name], note=f"not known of the GPU: {rate.lacking}" if rate.lacking else "")
    yield Cell(format_seconds(rate.time_s))
    yield Cell(f"{format_number(work.bytes_read / _GIGA)} GB")
    yield Cell(f"{format_number(rate.bytes_per_s / _GIGA)} GB/s", note=_share(rate.bytes_per_s, bandwidth))
    yield Cell(f"{format_number(work.flop / _GIGA)} GFLOP")
    tera = rate.flop_per_s >= _TERA / 10
    flop_per_s = f"{format_number(rate.flop_per_s / (_TERA if tera else _GIGA))} {'T' if tera else 'G'}FLOP/s"
    yield Cell(flop_per_s, note=_share(rate.flop_per_s, peak))
    if peak is None or bandwidth is None:
        yield Cell(f"{format_number(work.intensity)} FLOP/byte")
        yield Cell("not known")
        return
    ridge = ridge_flop_per_byte(peak, bandwidth)
    bound = "memory" if work.intensity < ridge else "arithmetic"
    yield Cell(f"{format_number(work.intensity)} FLOP/byte", note=f"{bound}-bound, ridge {format_number(ridge)}")
    yield Cell(format_share(rate.flop_per_s / roof_flop_per_s(work.intensity, peak, bandwidth)))


def _share(value: float, peak: float | None) -> str:
    return "" if peak is None else f"{format_share(value / peak, 1)} of the peak"
