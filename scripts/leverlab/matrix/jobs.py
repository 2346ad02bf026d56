"""Jobs as they are handed over: which are still to be done, what each is told, and how long it may take."""

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub.constants import HF_HUB_CACHE, REPO_ID_SEPARATOR
from pydantic import TypeAdapter

from leverlab.config import Configuration
from leverlab.config.engine import InProcess
from leverlab.config.model import HubSource, PathSource
from leverlab.config.workload import Workload, rounds_of
from leverlab.environments import command_prefix
from leverlab.identity import seed_from
from leverlab.layout import REQUESTS_FILE, Layout
from leverlab.matrix.cells import Phase
from leverlab.matrix.expand import Job, Matrix
from leverlab.matrix.progress import measured, missing_phases, recorded_at_ns
from leverlab.records import JobRecord, JobSpecification, PhaseSpecification, read_json, write_json

JOB_OVERHEAD_S: Final = 180
"""Fingerprint, checks of the configuration, warm-up until steady, and stopping the server."""

_WORKLOAD: Final[TypeAdapter[Workload]] = TypeAdapter(Workload)

PHASE_OVERHEAD_S: Final = 45
"""Bringing the caches into their state, snapshots of the server's metrics, and writing the cell."""


def incomplete_jobs(matrix: Matrix, layout: Layout) -> list[Job]:
    """The jobs that have something to measure.

    For every other job this sees that its record is there and says what its cells say, with the time of the newest of
    them; the record of a job that has something to measure is removed, so that it can be made.
    """
    retry_failed = matrix.configuration.settings.retry_failed
    incomplete = []
    for job in matrix.jobs:
        found = measured(layout, job)
        path = layout.job_record(job.server.id, str(job.replicate), job.hash)
        if missing_phases(job, found, retry_failed):
            # Asked first: a plan of results that somebody else may write must not need to write there.
            if path.exists():
                path.unlink(missing_ok=True)
            incomplete.append(job)
            continue
        record = JobRecord(
            server=job.server.id,
            replicate=str(job.replicate),
            job=job.hash,
            cells={phase: summary.status for phase, summary in found.items()},
        )
        if write_if_changed(path, record.model_dump(mode="json")):
            time_ns = recorded_at_ns(layout, job, found)
            os.utime(path, ns=(time_ns, time_ns))
    return incomplete


def pattern_of(wanted: Iterable[str], others: Iterable[str]) -> str:
    """A short regular expression that matches all of `wanted` and none of `others`: hashes of one length, no two equal.

    Snakemake reads a wildcard's constraint again for every job, so listing thousands of hashes would take longer than
    all the rest of a dry run. Hashes are told apart by their first digits instead; unknown ones may match.
    """
    chosen, left_out = sorted(wanted), sorted(others)
    if not chosen:
        return "(?!)"
    return f"{_branches(chosen, left_out, 0)}[0-9a-f]*"


def _branches(chosen: list[str], left_out: list[str], position: int) -> str:
    if not left_out:
        return ""
    digits_by_rest: dict[str, str] = {}
    for digit, group in itertools.groupby(chosen, key=lambda each: each[position]):
        rest = _branches(list(group), [each for each in left_out if each[position] == digit], position + 1)
        digits_by_rest[rest] = digits_by_rest.get(rest, "") + digit
    parts = [f"[{digits}]{rest}" if len(digits) > 1 else digits + rest for rest, digits in digits_by_rest.items()]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def write_specifications(jobs: Iterable[Job], configuration: Configuration, layout: Layout) -> None:
    """Write what each of `jobs` is told, and the identities of their servers and workloads, where that is not there yet."""
    for job in jobs:
        specification = job_specification(job, configuration, layout)
        path = layout.job_specification(job.server.id, str(job.replicate), job.hash)
        write_if_changed(path, specification.model_dump(mode="json"))
        server = job.server
        write_if_changed(
            layout.server_record(server.id),
            {"id": server.id, "engine": server.engine, "model": server.model, "identity": server.identity},
        )
        for workload in job.workloads:
            record = {"id": workload.id, "model": workload.model, "identity": workload.identity}
            write_if_changed(layout.workload_record(workload.id), record)


def job_specification(job: Job, configuration: Configuration, layout: Layout) -> JobSpecification:
    """All that the job's server lifetime needs to know."""
    server, replicate = job.server, str(job.replicate)
    engine = configuration.engines[server.engine]
    pinned = server.identity["engine"]["versions"]
    return JobSpecification(
        server=server.id,
        identity=dict(server.identity),
        replicate=replicate,
        job=job.hash,
        cells=[
            PhaseSpecification(
                cell=cell.id,
                phase=cell.phase.id,
                identity=dict(cell.phase.identity),
                workload_file=str(layout.workload(cell.phase.workload.id, job.replicate.seed_key) / REQUESTS_FILE),
                request_timeout_s=cell.phase.request_timeout_s,
                stop_after_saturation=cell.phase.stop_after_saturation,
                search_limit_s=cell.phase.search_limit_s,
            )
            for cell in job.cells
        ],
        engine=server.engine,
        engine_kind=engine.kind,
        device=engine.device,
        gpu_count=server.gpu_count if configuration.gpus[server.gpu].device == "cuda" else 0,
        command_prefix=command_prefix(server.engine, engine),
        # An image's digest is compared where the image is, and the truth engine is no package.
        identity_packages=[] if isinstance(engine.launch, InProcess) else sorted(set(pinned) - {"image"}),
        gpu_bandwidth=configuration.gpus[server.gpu].bandwidth,
        gpu_peak=configuration.gpus[server.gpu].peak,
        model_folder=str(_model_folder(server.model, configuration, layout)),
        other_model_folders={name: str(_model_folder(name, configuration, layout)) for name in server.other_models},
        start_timeout_s=engine.start_timeout,
        order_seed=seed_from("order", job.replicate.seed_key),
        results=str(layout.root),
        retry_failed=configuration.settings.retry_failed,
    )


def _model_folder(name: str, configuration: Configuration, layout: Layout) -> Path:
    """Where the model's files will be once its rule has run: `leverlab.models` puts them there and finds them there."""
    match configuration.models[name].source:
        case HubSource(id=repository, revision=revision):
            folder = REPO_ID_SEPARATOR.join(["models", *repository.split("/")])
            return Path(HF_HUB_CACHE) / folder / "snapshots" / revision
        case PathSource(path=path):
            return Path(path).expanduser()
        case _:
            return layout.model(name)


def walltime_s(job: Job, configuration: Configuration) -> int:
    """How long the job may take at the most, for a scheduler: start, load points, and requests followed to their end.

    All phases count, also those that are measured already: the number does not depend on what a run finds.
    """
    engine = configuration.engines[job.server.engine]
    longest = sum(_longest_s(cell.phase) + PHASE_OVERHEAD_S for cell in job.cells)
    starts = 1 + sum(cell.phase.cache == "restarted" for cell in job.cells)
    return math.ceil(starts * engine.start_timeout + JOB_OVERHEAD_S + longest)


def request_count(phase: Phase) -> int:
    """Requests that the phase sends."""
    return int(phase.workload.identity["workload"]["requests"])


def workload_of(phase: Phase) -> Workload:
    """What the phase sends, as its study states it, read back from its identity."""
    return _WORKLOAD.validate_python(dict(phase.workload.identity["workload"]))


def _longest_s(phase: Phase) -> float:
    """An open loop ends when its last request is given up. A closed loop waits for each; a tenth of that time is usual.

    So do the rounds of a conversation, which is one arrival, and its pauses come on top.
    """
    requests, followed_s = request_count(phase), phase.request_timeout_s
    rounds, pause_s = rounds_of(workload_of(phase))
    conversations = requests / rounds
    # A drawn sum of pauses exceeds three times its mean in one of twenty conversations of one pause, and hardly ever in longer ones.
    conversing_s = (rounds - 1) * (followed_s / 10 + 3 * pause_s)
    if phase.load.value is None:
        return followed_s + conversing_s + (phase.search_limit_s or 0.0)
    if phase.load.kind == "rate":
        # Three standard deviations of the last of that many Poisson arrivals.
        arrivals_s = rounds * (conversations + 3 * math.sqrt(conversations)) / phase.load.value
        return arrivals_s + conversing_s + followed_s
    return math.ceil(conversations / phase.load.value) * (followed_s / 10 + conversing_s) + followed_s


def write_if_changed(path: Path, data: Mapping[str, Any]) -> bool:
    """Write `data` as JSON unless it is there already; whether it was written."""
    try:
        if read_json(path) == json.loads(json.dumps(data)):
            return False
    except (OSError, ValueError):
        pass  # there is none, or none that can be read
    write_json(path, data)
    return True
