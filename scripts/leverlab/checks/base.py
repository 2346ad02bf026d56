"""What a check is given and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from leverlab.checks.columns import Floats, ended_well, numeric
from leverlab.checks.keeping_up import KeepingUp, keeping_up
from leverlab.config.workload import Workload, rounds_of
from leverlab.load_point import LoadPoint
from leverlab.records import CheckResult, SearchRecord
from leverlab.theory.floors import Floors

Severity = Literal["ok", "caution", "invalid"]
KeptTable = Literal["requests", "chunks", "gpu", "host"]
"""Tables of `CellInputs` that are kept beside cell.json."""

_WORKLOAD: Final[TypeAdapter[Workload]] = TypeAdapter(Workload)


@dataclass(frozen=True)  # without slots, which leave no place for what is computed once
class CellInputs:
    """All that the checks of one measured cell look at. What is not known is None or empty, never a guess."""

    specification: Mapping[str, Any]
    """`{server: identity, phase: identity}`, as in cell.json."""
    requests: pa.Table
    """Schema `leverlab.load.schema.REQUESTS`."""
    chunks: pa.Table
    """Schema `leverlab.load.schema.CHUNKS`; without rows where the client does not tell."""
    workload_requests: int
    """Requests in the phase's workload file."""
    workload_card: Mapping[str, Any] = field(default_factory=dict)
    """card.json of the workload: its `expected_prefix_hit_ratio` gives, by size of block, the hits of an ideal cache that
    is empty when the phase begins."""
    server_delta: Mapping[str, float] = field(default_factory=dict)
    """Canonical counters and histograms, after the cell - before it; negative where a counter fell."""
    instrument: Mapping[str, Any] = field(default_factory=dict)
    """`leverlab.load.instrument.InstrumentError` as a mapping; empty for a client that states no error."""
    differences: Sequence[Mapping[str, Any]] = ()
    """Intended against effective settings, as in trial.json: `{key, intended, effective, expected}`."""
    cache: Mapping[str, Any] = field(default_factory=dict)
    """As in cell.json: `asked` (cold, warm, tier, restarted) and `verified` (true, false, or null where it could not be seen)."""
    installed_versions: Mapping[str, str] = field(default_factory=dict)
    """package → version, found in the engine's environment on the node (`image`: the container's digest)."""
    client_cores: Sequence[int] = ()
    engine_cores: Sequence[int] = ()
    """Cores that the client and the engine may run on; empty: not restricted."""
    warmup_steady: bool | None = None
    """Whether the last two windows of the warm-up agreed."""
    gpu: pa.Table | None = None
    """Samples of the GPUs over the cell (gpu.parquet)."""
    gpu_names: Sequence[str] = ()
    """What NVML calls the GPUs; empty where it does not tell."""
    pcie_bytes_per_s: float | None = None
    """The most that one of the GPUs can receive over PCIe; None where it is not known."""
    host: pa.Table | None = None
    """Samples of the host over the cell."""
    not_sampled: Mapping[str, str] = field(default_factory=dict)
    """As in cell.json: table of samples that is not there, or not whole → why."""
    compilation_lines: Sequence[str] | None = None
    """Lines that the server's log got during the cell and that tell of a compilation; None where the log is not known."""
    gpu_memory_before: Mapping[str, int] = field(default_factory=dict)
    """GPU → bytes in use before the server was started."""
    floors: Floors | None = None
    """The least that a step and a prefill can take on these GPUs; None where theory does not know."""
    kv_bytes_per_token: float | None = None
    """Bytes that the KV cache of one token takes, on all GPUs that share the model; None where theory does not know."""

    search: SearchRecord | None = None
    """What a search for the rate found, of which `requests` and all else are the run at `kept`."""

    @property
    def load(self) -> LoadPoint:
        """The load point that was offered."""
        return offered_load(self.specification, self.search)

    @property
    def waiting(self) -> bool:
        """Whether requests wait for the answers to others; see `requests_wait`."""
        return requests_wait(self.specification["phase"])

    @cached_property
    def keeping_up(self) -> KeepingUp:
        """How the server kept up with the load, for every check that asks."""
        return keeping_up(self.requests, self.load, self.waiting)

    def column(self, name: str) -> Floats:
        """A numeric column of `requests` as float64, NaN where it is null."""
        return numeric(self.requests, name)

    @property
    def ended_well(self) -> NDArray[np.bool_]:
        """Which rows of `requests` have the status ok."""
        return ended_well(self.requests)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `remedy` says what to do about it, and is empty when there is nothing to do."""

    severity: Severity
    saw: str
    expected: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: a stable code for programs, the question it answers, and the function that answers it.

    `look` returns None where the question does not arise in this cell. With `kept` it can also be asked of a cell that was
    measured before the check was made (`leverlab.aggregate.younger_checks`): then `look` may rest on cell.json (specification,
    counters, cache, instrument, search, installed versions, names and links of the GPUs, bytes of a token) and the tables beside it that `kept`
    names. None: it needs more. The tables of `kept_if_there` it can do without: they are empty or None where they are not kept.
    """

    code: str
    question: str
    look: Callable[[CellInputs], Finding | None]
    kept: tuple[KeptTable, ...] | None = None
    kept_if_there: tuple[KeptTable, ...] = ()

    def result(self, inputs: CellInputs) -> CheckResult | None:
        """The check's entry in checks.json."""
        found = self.look(inputs)
        if found is None:
            return None
        return CheckResult(
            code=self.code, severity=found.severity, saw=found.saw, expected=found.expected, remedy=found.remedy
        )


def offered_load(specification: Mapping[str, Any], search: SearchRecord | None) -> LoadPoint:
    """The load point at which a cell's tables were made: that of its phase, or the rate that a search kept."""
    return LoadPoint(**specification["phase"]["load"]) if search is None else LoadPoint("rate", search.kept)


def requests_wait(phase: Mapping[str, Any]) -> bool:
    """Whether requests of a phase (its identity) wait for the answers to others, so that a slow server is asked less."""
    drawn = phase.get("workload", {}).get("workload")
    return drawn is not None and rounds_of(_WORKLOAD.validate_python(dict(drawn)))[0] > 1


def milliseconds(seconds: float) -> str:
    """A duration for a sentence: `12.3 ms`."""
    return f"{seconds * 1000:.3g} ms"
