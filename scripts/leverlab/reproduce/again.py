"""Measuring a recorded cell again, alone, from its record: its own draw of the workload, its own server."""

from pathlib import Path

from leverlab import MEASUREMENT_VERSION
from leverlab.config import ConfigError, Configuration
from leverlab.config.base import nearest
from leverlab.config.study import Search, Study
from leverlab.layout import REQUESTS_FILE, Layout
from leverlab.matrix.cells import Cell, Phase, ReplicateKey, WorkloadFile, workload_seed
from leverlab.matrix.expand import Job
from leverlab.matrix.jobs import job_specification
from leverlab.matrix.servers import Server, model_identity
from leverlab.models.prepare import model_folder
from leverlab.records import JobSpecification
from leverlab.reproduce.evidence import Evidence
from leverlab.reproduce.recorded import server_of
from leverlab.workloads import draw


def prepare(evidence: Evidence, number: int, configuration: Configuration, layout: Layout) -> JobSpecification:
    """Draw the workload of reproduction `number` and return what its job is to measure, all below its own folder.

    The draw has a seed that no replicate of the matrix has: the new value is one more of the same kind. Raises ConfigError
    where config/ of this checkout cannot start what was recorded.
    """
    key = ReplicateKey(number, reproduction=True)
    cell = _cell(evidence)
    _check(evidence, configuration)
    job = Job(cell.server, key, (cell,))
    own = Layout(layout.reproduction(evidence.cell, number))
    folder = own.workload(cell.phase.workload.id, str(key))
    if not (folder / REQUESTS_FILE).is_file():
        model = model_folder(cell.server.model, configuration.models[cell.server.model], layout)
        path = configuration.settings.sharegpt_path
        identity = cell.phase.workload.identity
        draw(identity, workload_seed(identity, key), model, folder, None if path is None else Path(path).expanduser())
    specification = job_specification(job, configuration, layout)
    [wanted] = specification.cells
    here = wanted.model_copy(update={"workload_file": str(folder / REQUESTS_FILE)})
    return specification.model_copy(update={"results": str(own.root), "cells": [here]})


def _cell(evidence: Evidence) -> Cell:
    identity, phase = evidence.specification["server"], evidence.specification["phase"]
    at = server_of(evidence.engine, identity)
    server = Server(evidence.server, identity, at.engine, at.model, at.gpu, at.gpu_count)
    drawn = {key: value for key, value in phase["workload"].items() if key != "id"}
    workload = WorkloadFile(phase["workload"]["id"], drawn, at.model)
    timeout_s = evidence.request_timeout_s or float(Study.model_fields["request_timeout"].default)
    built = Phase(
        evidence.phase,
        phase,
        workload,
        evidence.load,
        phase["cache"],
        phase["endpoint"],
        phase["client"],
        timeout_s,
        search_limit_s=float(Search.model_fields["limit"].default) if evidence.load.kind == "search" else None,
    )
    return Cell(evidence.cell, server, built)


def _check(evidence: Evidence, configuration: Configuration) -> None:
    identity = evidence.specification["server"]
    version = evidence.specification["phase"]["measurement_version"]
    if version != MEASUREMENT_VERSION:
        raise ConfigError(
            f"the cell was measured by version {version} of the way of measuring, and this is {MEASUREMENT_VERSION}: use the "
            "leverlab that measured it (CHANGELOG.md names the versions)"
        )
    engines = configuration.engines
    if evidence.engine not in engines:
        raise ConfigError(
            f"config/engines.yaml: there is no {evidence.engine!r}, with which the cell was measured"
            f"{nearest(evidence.engine, engines)}. Add an entry that says how it is started here"
        )
    engine, recorded = engines[evidence.engine], identity["engine"]
    if (engine.kind, engine.device) != (recorded["kind"], recorded["device"]):
        raise ConfigError(
            f"config/engines.yaml: {evidence.engine} is {engine.kind} on {engine.device} here, and was {recorded['kind']} on "
            f"{recorded['device']} where the cell was measured"
        )
    for model in (identity["model"], *identity.get("models", {}).values()):
        name = model["name"]
        if name not in configuration.models:
            raise ConfigError(
                f"config/models.yaml: there is no {name!r}, which the cell's server serves{nearest(name, configuration.models)}"
            )
        here = model_identity(name, configuration.models[name])
        if here != model:
            raise ConfigError(f"config/models.yaml: {name} is {here} here, and was {model} where the cell was measured")
