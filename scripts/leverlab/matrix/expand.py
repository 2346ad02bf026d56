"""Studies expanded to servers, cells and jobs; studies that ask for the same cell share it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from pydantic import ValidationError

from leverlab.config import ConfigError, Configuration
from leverlab.config.study import GpuChoice, Study
from leverlab.config.workload import with_requests
from leverlab.identity import content_hash
from leverlab.load_point import CacheState, LoadPoint
from leverlab.matrix.cells import Cell, Phase, ReplicateKey, WorkloadFile, build_cell, build_phase, build_workload
from leverlab.matrix.servers import Server, build_server, engine_versions, has_dummy_weights
from leverlab.matrix.settings import Place, Setting, places, setting_of
from leverlab.matrix.treatments import Treatment, treatments
from leverlab.metrics import HIGHEST_RATE, MINIMUM_SAMPLES, MetricReference, parse_metric_reference


@dataclass(frozen=True, slots=True)
class StudyCell:
    """A cell as one study sees it: where in its factors the cell stands."""

    cell: Cell
    treatment: Treatment
    place: Place
    other_answers: bool = False
    """Whether its prompts may be answered otherwise than the baseline's: a lever says so (`answers` in config/levers.yaml)."""

    @property
    def load(self) -> LoadPoint:
        return self.cell.phase.load

    def key(self, replicate: ReplicateKey) -> ReplicateKey:
        """Under which replicate key the cell is measured for `replicate`: the baseline's copy has one of its own."""
        return replace(replicate, copy=self.treatment.copy)


@dataclass(frozen=True, slots=True)
class StudyMatrix:
    """A study with its cells, each once per replicate; the baseline's copy holds the baseline's own cells once more."""

    name: str
    study: Study
    cells: tuple[StudyCell, ...]
    replicates: tuple[ReplicateKey, ...]
    primary: tuple[tuple[str, MetricReference], ...]
    """(lever, metric and load point): the metrics whose verdicts are corrected for their number."""


@dataclass(frozen=True, slots=True)
class Job:
    """One server lifetime: a server, a replicate, and the cells that some study wants of it."""

    server: Server
    replicate: ReplicateKey
    cells: tuple[Cell, ...]

    @property
    def hash(self) -> str:
        """Identifies the server, the replicate and the list of cells: the name of the job's record."""
        return content_hash([self.server.id, str(self.replicate), sorted(cell.phase.id for cell in self.cells)])

    @property
    def workloads(self) -> tuple[WorkloadFile, ...]:
        return tuple({cell.phase.workload.id: cell.phase.workload for cell in self.cells}.values())


@dataclass(frozen=True)
class Matrix:
    """All that the selected studies ask for."""

    configuration: Configuration
    studies: tuple[StudyMatrix, ...]

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """One job per server and replicate, whatever the number of studies; in the order of replicates, then studies.

        Where studies share a cell, its requests are followed for the longest of their times, and it is left out after
        saturation only where all of them say so.
        """
        wanted: dict[tuple[ReplicateKey, str], dict[str, Cell]] = {}
        for study in self.studies:
            for replicate in study.replicates:
                for entry in study.cells:
                    cells = wanted.setdefault((entry.key(replicate), entry.cell.server.id), {})
                    cells[entry.cell.id] = _shared(cells.get(entry.cell.id, entry.cell), entry.cell)
        ordered = sorted(wanted.items(), key=lambda item: item[0][0])
        return tuple(
            Job(next(iter(cells.values())).server, replicate, tuple(cells.values()))
            for (replicate, _), cells in ordered
        )

    @cached_property
    def nodes(self) -> dict[str, str]:
        """Job's hash → the node that its study pins it to; jobs that may run anywhere are left out.

        Raises ConfigError where two studies share a job and name different nodes.
        """
        pinned: dict[str, tuple[str, str]] = {}
        for study in self.studies:
            node = study.study.node
            for job in self.jobs_by_study[study.name] if node else ():
                other, said = pinned.setdefault(job.hash, (study.name, str(node)))
                if said != node:
                    raise ConfigError(
                        f"config/studies/{study.name}.yaml: node: {node} and config/studies/{other}.yaml: node: {said} "
                        f"share the server {job.server.id}: name the same node, or run them one after the other"
                    )
        return {job: node for job, (_, node) in pinned.items()}

    @cached_property
    def servers(self) -> dict[str, Server]:
        return {job.server.id: job.server for job in self.jobs}

    @cached_property
    def workloads(self) -> dict[str, WorkloadFile]:
        return {workload.id: workload for job in self.jobs for workload in job.workloads}

    @cached_property
    def jobs_by_study(self) -> dict[str, tuple[Job, ...]]:
        """For each study the jobs that measure its cells."""
        keys = {
            study.name: {
                (entry.key(replicate), entry.cell.server.id) for replicate in study.replicates for entry in study.cells
            }
            for study in self.studies
        }
        return {
            name: tuple(job for job in self.jobs if (job.replicate, job.server.id) in wanted)
            for name, wanted in keys.items()
        }


def _shared(one: Cell, other: Cell) -> Cell:
    """A cell as two studies that share it want it measured."""
    mine, theirs = one.phase, other.phase
    timeout_s = max(mine.request_timeout_s, theirs.request_timeout_s)
    stops = mine.stop_after_saturation and theirs.stop_after_saturation
    limits = [limit_s for limit_s in (mine.search_limit_s, theirs.search_limit_s) if limit_s is not None]
    phase = replace(
        mine,
        request_timeout_s=timeout_s,
        stop_after_saturation=stops,
        search_limit_s=max(limits, default=None),
    )
    return replace(one, phase=phase)


def expand(configuration: Configuration, names: Sequence[str]) -> Matrix:
    """The matrix of the studies `names`. Raises ConfigError for whatever cannot be expanded."""
    return Matrix(configuration, tuple(_expand_study(configuration, name) for name in names))


def _expand_study(configuration: Configuration, name: str) -> StudyMatrix:
    study = configuration.study(name)
    chosen = treatments(study)
    _check_search(configuration, name, study)
    cells: list[StudyCell] = []
    asked: dict[tuple[str, str], str] = {}
    versions: dict[str, dict[str, str]] = {}
    for place in places(study):
        for treatment in chosen:
            setting = setting_of(configuration, name, study, place, treatment)
            _check_device(configuration, name, setting.engine, GpuChoice(name=place.gpu, count=setting.gpu_count))
            if setting.engine not in versions:
                versions[setting.engine] = engine_versions(configuration.root, setting.engine, configuration)
            server = build_server(configuration, setting, versions[setting.engine], place.gpu)
            _check_restarts(name, study, setting.cache)
            _check_offline(name, study, setting, server)
            phases = [
                _phase(configuration, name, study, setting, place, load)
                for load in study.load.points()
                if setting.client != "offline" or load.kind in BATCHES
            ]
            if not treatment.copy:
                _check_distinct(name, asked, (server.id, phases[0].id), f"{treatment.name} on {place.engine}")
            other = _other_answers(configuration, study, treatment, server)
            cells += [StudyCell(build_cell(server, phase), treatment, place, other) for phase in phases]
    replicates = tuple(ReplicateKey(number) for number in range(1, study.replicates + 1))
    return StudyMatrix(name, study, tuple(cells), replicates, tuple(_primary(configuration, study)))


def _other_answers(configuration: Configuration, study: Study, treatment: Treatment, server: Server) -> bool:
    dummy_weights = has_dummy_weights(server.identity["flags"])
    return any(
        configuration.levers[lever].other_answers(level, study.baseline[lever], dummy_weights=dummy_weights)
        for lever, level in treatment.changed
    )


def _phase(
    configuration: Configuration, name: str, study: Study, setting: Setting, place: Place, load: LoadPoint
) -> Phase:
    """What `setting` asks at `load`: its workload, with as many requests as the study's load says for that."""
    requests = study.load.requests_at(load, setting.workload.requests)
    try:
        workload = with_requests(setting.workload, requests)
    except ValidationError as error:
        told = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise ConfigError(f"config/studies/{name}.yaml: load.requests: {requests} at {load}: {told}") from error
    drawn = build_workload(configuration, workload, place.model)
    return build_phase(study, drawn, load, setting.client, setting.request, setting.cache)


def _check_search(configuration: Configuration, name: str, study: Study) -> None:
    """See that every objective of a search can be told from one run of the workload."""
    requests = configuration.workload(study).requests
    for objective in study.objectives if study.load.search else ():
        needed = MINIMUM_SAMPLES.get(objective.rpartition("_")[2], 1)
        if requests < needed:
            raise ConfigError(
                f"config/studies/{name}.yaml: objectives.{objective}: it takes {needed} requests to tell, and the workload has "
                f"{requests}: add requests, or take a lower percentile"
            )


def _check_restarts(name: str, study: Study, cache: CacheState) -> None:
    """A search offers the workload many times, and each time would begin with a restart."""
    if cache == "restarted" and study.load.search is not None:
        raise ConfigError(
            f"config/studies/{name}.yaml: load.search: a phase that begins `restarted` is offered once: give rates instead"
        )


BATCHES: Final = ("burst", "concurrency")
"""Kinds of load that an offline batch has: all at once, or batches of that size. Requests do not arrive at it one by one."""


def _check_offline(name: str, study: Study, setting: Setting, server: Server) -> None:
    """See that batches are handed to a program that takes them, and to nothing else, and hold what it takes."""
    asked, made = setting.client == "offline", server.identity["topology"] == "offline"
    where = f"config/studies/{name}.yaml"
    if asked != made:
        raise ConfigError(
            f"{where}: the client `offline` and the topology `offline` go together, and a treatment has "
            f"{'the client' if asked else 'the topology'} alone: take the lever `interface`, whose level `offline` sets both"
        )
    if not asked:
        return
    if not any(load.kind in BATCHES for load in study.load.points()):
        raise ConfigError(
            f"{where}: load: an offline batch has no rate and no search: add `inf` to `rates`, or `concurrencies`"
        )
    if study.endpoint != "completions" or setting.request:
        raise ConfigError(
            f"{where}: an offline batch is of plain prompts: take the endpoint `completions`, and no lever that adds fields to requests"
        )


def _check_device(configuration: Configuration, study: str, engine: str, choice: GpuChoice) -> None:
    gpu = choice.name
    wanted, given = configuration.engines[engine].device, configuration.gpus[gpu].device
    if given == "cpu" and choice.count > 1:
        raise ConfigError(f"config/studies/{study}.yaml: gpus: {gpu} is no GPU, so there is one of it: write `{gpu}`")
    if wanted != given and configuration.engines[engine].kind != "truth":
        raise ConfigError(
            f"config/studies/{study}.yaml: engine {engine!r} computes on {wanted!r} and gpu {gpu!r} is a {given!r} device: "
            f"change `engines` or `gpus`"
        )


def _check_distinct(study: str, seen: dict[tuple[str, str], str], asked: tuple[str, str], described: str) -> None:
    """See that no two places of the study's matrix ask the same of the same server. `seen`: (server, phase) → description."""
    if asked in seen:
        raise ConfigError(
            f"config/studies/{study}.yaml: `{seen[asked]}` and `{described}` start the same server: "
            f"their flags, environment and topology are equal, and so is what it is asked, so there is nothing to compare"
        )
    seen[asked] = described


def _primary(configuration: Configuration, study: Study) -> list[tuple[str, MetricReference]]:
    references = []
    for lever in study.levers:
        # The noise floor is judged by the lever's indicator even where the study changes nothing.
        if len(study.levers[lever]) < 2 and not study.noise_floor:
            continue
        stated = study.primary_reference(lever)
        if stated is None and study.load.points() == [LoadPoint("search")]:
            stated = MetricReference(HIGHEST_RATE, None, LoadPoint("search"))
        if stated is None:
            indicator = configuration.levers[lever].indicator
            bare = parse_metric_reference(indicator.metric)
            stated = MetricReference(bare.metric, bare.statistic, _load_for(indicator.load, study.load.points()))
        references.append((lever, stated))
    return references


def _load_for(description: str, points: list[LoadPoint]) -> LoadPoint:
    """The study's load point that an indicator means; the nearest there is where the study lacks it."""
    points = [point for point in points if point.kind != "search"]
    rates = [point for point in points if point.kind == "rate"]
    if description == "burst":
        return points[-1]
    candidates = rates or points
    return candidates[0] if description == "lowest rate" else candidates[-1]
