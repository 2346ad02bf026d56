"""What is kept of a cell beside its tables: the record of how it was measured, and what the checks find of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leverlab.checks import CellInputs, check_cell
from leverlab.layout import CARD_FILE
from leverlab.pcie import pcie_bytes_per_s
from leverlab.records import (
    CellRecord,
    CheckResult,
    PhaseSpecification,
    SearchRecord,
    TrialRecord,
    gpu_names,
    read_json,
)
from leverlab.trial.events import utc_now
from leverlab.trial.floors import expected_floors, expected_kv_bytes
from leverlab.trial.job import Job
from leverlab.trial.phase import Measurement
from leverlab.trial.server_facts import server_facts


def cell_record(job: Job, trial: TrialRecord, wanted: PhaseSpecification, position: int) -> CellRecord:
    """The record of a cell that `trial` reached as its phase number `position`, before anything of it is measured."""
    spec = job.specification
    return CellRecord(
        cell=wanted.cell,
        server=spec.server,
        phase=wanted.phase,
        replicate=spec.replicate,
        status="measured",
        specification=_specification(job, wanted),
        engine=spec.engine,
        trial=trial.trial,
        position=position,
        started_at=utc_now(),
        duration_s=0.0,
        request_timeout_s=wanted.request_timeout_s,
        provenance=trial.fingerprint,
    )


def measured_record(
    job: Job,
    trial: TrialRecord,
    wanted: PhaseSpecification,
    position: int,
    found: Measurement,
    search: SearchRecord | None,
) -> CellRecord:
    """The same with what was measured."""
    return cell_record(job, trial, wanted, position).model_copy(
        update={
            "started_at": found.started_at,
            "duration_s": round(found.duration_s, 3),
            "cache": found.cache.as_mapping(),
            "instrument": dict(found.instrument),
            "server_delta": dict(found.server_delta),
            "server_facts": server_facts(trial),
            "processes": trial.processes,
            "not_sampled": dict(found.not_sampled),
            "sampling": dict(found.sampling),
            "search": search,
        }
    )


def check_measured(
    job: Job,
    trial: TrialRecord,
    wanted: PhaseSpecification,
    found: Measurement,
    search: SearchRecord | None,
    warmup_steady: bool | None,
    gpu_memory_before: Mapping[str, int],
) -> list[CheckResult]:
    """What every check finds of a cell that was just measured."""
    return check_cell(
        CellInputs(
            specification=_specification(job, wanted),
            requests=found.tables["requests"],
            chunks=found.tables["chunks"],
            workload_requests=len(job.workloads[wanted.workload_file]),
            workload_card=_card(Path(wanted.workload_file)),
            server_delta=found.server_delta,
            instrument=found.instrument,
            differences=trial.differences,
            cache=found.cache.as_mapping(),
            installed_versions=_installed_versions(trial),
            client_cores=job.client_cores,
            engine_cores=job.devices.engine_cores,
            warmup_steady=warmup_steady,
            gpu=found.tables["gpu"],
            gpu_names=gpu_names(trial.fingerprint),
            pcie_bytes_per_s=pcie_bytes_per_s(trial.fingerprint),
            host=found.tables["host"],
            not_sampled=found.not_sampled,
            compilation_lines=found.compilation_lines,
            gpu_memory_before=gpu_memory_before,
            floors=expected_floors(job.specification),
            kv_bytes_per_token=expected_kv_bytes(job.specification),
            search=search,
        )
    )


def _specification(job: Job, wanted: PhaseSpecification) -> dict[str, Any]:
    return {"server": job.specification.identity, "phase": wanted.identity}


def _installed_versions(trial: TrialRecord) -> dict[str, str]:
    """Package → version, as the fingerprint found them; empty where they could not be asked for."""
    versions = trial.fingerprint.get("versions")
    return versions if isinstance(versions, dict) else {}


def _card(workload_file: Path) -> dict[str, Any]:
    path = workload_file.with_name(CARD_FILE)
    return read_json(path) if path.is_file() else {}
