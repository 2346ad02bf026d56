"""Phases and cells: a workload at a load point, and its place in the matrix."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from leverlab import DRAWING_VERSION, MEASUREMENT_VERSION
from leverlab.config import Configuration
from leverlab.config.study import Study
from leverlab.config.workload import Workload
from leverlab.identity import (
    HASH_LENGTH,
    MAXIMUM_ID_LENGTH,
    canonical,
    canonical_json,
    joined,
    make_id,
    seed_from,
    slug_of,
)
from leverlab.load_point import CacheState, Client, LoadPoint
from leverlab.matrix.servers import Server, model_identity


@dataclass(frozen=True, slots=True, order=True)
class ReplicateKey:
    """Replicate `number` (from 1). `copy` > 0 is an A/A copy: the same seeds on another server lifetime.

    `reproduction` marks a reproduction's own replicates, which draw their own seeds.
    """

    number: int
    copy: int = 0
    reproduction: bool = False

    def __str__(self) -> str:
        return f"{'x' if self.reproduction else 'r'}{self.number}" + (f"c{self.copy}" if self.copy else "")

    @property
    def seed_key(self) -> str:
        """What seeds depend on: the same for a replicate and its copies."""
        return f"{'x' if self.reproduction else 'r'}{self.number}"

    @classmethod
    def parse(cls, text: str) -> "ReplicateKey":
        """The key that `text` names: `r2`, `r2c1`, `x1`. Raises ValueError for anything else."""
        match = re.fullmatch(r"([rx])([1-9]\d*)(?:c([1-9]\d*))?", text)
        if match is None:
            raise ValueError(f"{text!r} is no replicate: r1, r2, …; r1c1 for a copy; x1 for a reproduction's")
        return cls(int(match[2]), int(match[3] or 0), match[1] == "x")


@dataclass(frozen=True, slots=True)
class WorkloadFile:
    """A drawn workload: every server of a replicate replays the same one."""

    id: str
    identity: Mapping[str, Any]
    model: str

    def seed(self, replicate: ReplicateKey) -> int:
        """The seed of the drawing: the same for every model, so that they get the same lengths and arrivals."""
        return workload_seed(self.identity, replicate)


@dataclass(frozen=True, slots=True)
class Phase:
    """A workload at a load point from a stated cache state. `identity` is the whole of it, as it is kept in cell.json."""

    id: str
    identity: Mapping[str, Any]
    workload: WorkloadFile
    load: LoadPoint
    cache: CacheState
    endpoint: str
    client: Client
    request_timeout_s: float
    """How long a request is followed: no part of the identity."""
    stop_after_saturation: bool = False
    """Whether the phase is left out where the server does not keep up with a lower rate: no part of the identity."""
    search_limit_s: float | None = None
    """How long a search for the rate goes on: no part of the identity; None for every other load."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the matrix, measured once per replicate."""

    id: str
    server: Server
    phase: Phase


def workload_seed(identity: Mapping[str, Any], replicate: ReplicateKey) -> int:
    """The seed with which a workload's `identity` is drawn for `replicate`: the same whichever adapters are asked."""
    drawn = {key: value for key, value in identity["workload"].items() if key != "adapters"}
    return seed_from("workload", canonical_json(drawn), replicate.seed_key)


def build_workload(configuration: Configuration, workload: Workload, model_name: str) -> WorkloadFile:
    """The workload for a model: its prompts are made of that model's tokens."""
    identity = canonical(
        {
            "drawing_version": DRAWING_VERSION,
            "workload": workload.identity(),
            "tokenizer": model_identity(model_name, configuration.models[model_name]),
        }
    )
    return WorkloadFile(make_id([workload.kind, model_name], identity, 60), identity, model_name)


def build_phase(
    study: Study,
    workload: WorkloadFile,
    load: LoadPoint,
    client: Client,
    request: Mapping[str, Any],
    cache: CacheState,
) -> Phase:
    """The phase of `study` at `load` from the state `cache`, its requests sent by `client`, each with the fields `request` in its
    body besides."""
    identity = canonical(
        {
            "measurement_version": MEASUREMENT_VERSION,
            "workload": {"id": workload.id, **workload.identity},
            "load": load.identity,
            "cache": cache,
            "endpoint": study.endpoint,
            "client": client,
            **({"request": dict(request)} if request else {}),
            **_search_identity(study, load),
        }
    )
    parts = [str(workload.identity["workload"]["kind"]), load.slug, cache]
    parts += [value for value, usual in ((study.endpoint, "completions"), (client, "replay")) if value != usual]
    parts += sorted(request)
    return Phase(
        make_id(parts, identity, 70),
        identity,
        workload,
        load,
        cache,
        study.endpoint,
        client,
        study.request_timeout,
        study.stop_after_saturation and load.kind == "rate",
        study.load.search.limit if load.kind == "search" and study.load.search else None,
    )


def _search_identity(study: Study, load: LoadPoint) -> dict[str, Any]:
    """What a search holds itself to. The time that it is given changes no answer."""
    if load.kind != "search" or study.load.search is None:
        return {}
    given = study.load.search.model_dump(exclude={"limit"}, exclude_none=True)
    return {"search": {**given, "objectives": dict(study.objectives)}}


_CELL_SLUG: Final = MAXIMUM_ID_LENGTH - HASH_LENGTH - 1


def build_cell(server: Server, phase: Phase) -> Cell:
    """The cell of `server` and `phase`; its id is made from theirs."""
    phase_slug = slug_of(phase.id)
    server_slug = joined(slug_of(server.id).split("_"), _CELL_SLUG - len(phase_slug) - 1)
    return Cell(make_id([f"{server_slug}_{phase_slug}"], [server.id, phase.id]), server, phase)
