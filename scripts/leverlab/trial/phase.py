"""One phase: the cache brought into its state, counters before, the workload replayed to its end, counters after."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest
from leverlab.records import PhaseSpecification, SamplingCost
from leverlab.telemetry import Sampling, difference
from leverlab.telemetry.gpu import GPU
from leverlab.trial.cache_state import CacheReport, bring_about
from leverlab.trial.events import utc_now
from leverlab.trial.offer import Clients, Progress
from leverlab.trial.served import Served
from leverlab.trial.warmup import PromptMaker


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a phase left: tables by the name of their file, and what cell.json says of it."""

    started_at: str
    duration_s: float
    tables: Mapping[str, pa.Table]
    cache: CacheReport
    instrument: Mapping[str, Any]
    server_delta: Mapping[str, float]
    not_sampled: Mapping[str, str]
    sampling: Mapping[str, SamplingCost]
    compilation_lines: Sequence[str]


def measure_phase(
    served: Served,
    wanted: PhaseSpecification,
    workload: Sequence[PlannedRequest],
    load: LoadPoint,
    *,
    prompts: PromptMaker,
    clients: Clients,
    sampling: Callable[[], Sampling],
    folder: Path,
    progress: Progress,
) -> Measurement:
    """Offer the requests `workload` at `load`, once. `prompts`: those that are in no workload; `folder`: for temporary files.

    Raises ServerDiedError where the server ends meanwhile, ClientFailedError where the client does.
    """
    identity = wanted.identity
    served = replace(
        served,
        endpoint=Endpoint(identity["endpoint"]),
        request_timeout_s=wanted.request_timeout_s,
        request=identity.get("request", {}),
    )
    started_at, begun_s = utc_now(), time.monotonic()

    def watched(done: int, of: int) -> None:
        served.check_alive()
        progress(done, of)

    cache = bring_about(identity["cache"], served, workload, prompts)
    before = served.settled_counters()
    with sampling() as samples:
        offered = clients.offer(
            identity["client"],
            served.target,
            workload,
            load,
            wanted.request_timeout_s,
            folder,
            watched,
        )
    after = served.settled_counters()
    return Measurement(
        started_at=started_at,
        duration_s=time.monotonic() - begun_s,
        tables={
            "requests": offered.requests,
            "chunks": offered.chunks,
            "gpu": GPU.empty_table(),
            **samples.tables(offered.origin_ns),
        },
        cache=cache,
        instrument=offered.instrument,
        server_delta={**difference(before, after), **samples.log_counters},
        not_sampled={**samples.missing, **offered.not_told},
        sampling=samples.costs,
        compilation_lines=samples.compilation_lines,
    )
