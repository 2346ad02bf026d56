"""The topologies: which processes each declares, on which ports, GPUs and cores, and in which order they start."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from leverlab.config.topology import (
    LMCACHE_DAEMON,
    CacheDaemon,
    Offline,
    Part,
    PrefillDecode,
    Single,
    parts_of,
    topology_of,
)
from leverlab.engines.base import TIER_FOLDER, Engine, Launch, Settings, Transfer
from leverlab.engines.cores import dealt
from leverlab.identity import content_hash
from leverlab.topology.daemon import DAEMON, blocks_port, cache_daemon
from leverlab.topology.declared import LOG_FILE, Plan, ProcessPlan
from leverlab.topology.fronts import Behind, front
from leverlab.topology.ports import free_ports, steady_ports

NOTHING_KEPT: Final[Mapping[str, ProcessPlan]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one of several engine servers runs."""

    port: int
    gpus: list[str]
    cores: list[int]
    transfer: Transfer | None


def planned(engine: Engine, launch: Launch, kept: Mapping[str, ProcessPlan] = NOTHING_KEPT) -> Plan:
    """The processes of `launch`, whose port is that of the front. Raises ValueError for a topology that there is not.

    `kept`: name → plan of those that run already.
    """
    topology, parts = topology_of(launch.identity), parts_of(launch.identity)
    if isinstance(topology, Single | Offline):
        return Plan([[_engine_server(engine, launch, parts[0], LOG_FILE)]])
    if isinstance(topology, CacheDaemon):
        daemon = kept.get(DAEMON) or cache_daemon(launch, topology)
        return Plan([[daemon], [_engine_server(engine, *_beside(daemon, engine, launch, parts[0]), LOG_FILE)]])
    connector = topology.connector if isinstance(topology, PrefillDecode) else None
    # Where tiers keep their files, so that they are emptied together with them.
    folder = (launch.scratch or launch.folder.resolve()) / TIER_FOLDER
    behind = []
    for part, place in zip(parts, _places(launch, parts, connector, folder), strict=True):
        own = _own_launch(engine, launch, part, len(parts), place)
        behind.append(Behind(_engine_server(engine, own, part, f"{part.name}.log"), part.role, place.transfer))
    return Plan([[one.server for one in behind], [front(engine, launch, topology, behind)]])


def _beside(daemon: ProcessPlan, engine: Engine, launch: Launch, part: Part) -> tuple[Launch, Part]:
    """The launch of the engine server that keeps its blocks in `daemon`."""
    folder = launch.scratch or launch.folder
    told = engine.handing_over(Transfer("server", LMCACHE_DAEMON, blocks_port(daemon), folder), part.flags)
    identity = {
        **launch.identity,
        "flags": {**part.flags, **told.flags},
        "environment": {**part.environment, **told.environment},
    }
    return replace(launch, identity=identity), part


def engine_launches(engine: Engine, launch: Launch) -> Mapping[str, Launch]:
    """Engine server → its own launch: with its own flags, GPUs and cores."""
    plans = planned(engine, launch).processes
    return {process.name: process.launch for process in plans if process.launch is not None}


def launches_to_check(engine: Engine, launch: Launch) -> list[Launch]:
    """One launch for all engine servers that differ in nothing but their place on this machine."""
    found: dict[str, Launch] = {}
    declared = {part.name: part for part in parts_of(launch.identity)}
    for name, own in engine_launches(engine, launch).items():
        found.setdefault(content_hash([own.identity["flags"], declared[name].environment]), own)
    return list(found.values())


def _places(launch: Launch, parts: list[Part], connector: str | None, folder: Path) -> list[_Place]:
    count = len(parts)
    ports = free_ports(count, launch.host)
    channels = steady_ports(count, launch.host) if connector is not None else []
    cores = dealt(launch.cores, count)
    gpus = [[launch.gpus[at] for at in share] for share in dealt(range(len(launch.gpus)), count)]
    places = []
    for number, part in enumerate(parts):
        transfer = None
        if connector is not None and part.role in ("prefill", "decode"):
            transfer = Transfer(part.role, connector, channels[number], folder)
        places.append(_Place(ports[number], gpus[number], cores[number], transfer))
    return places


def _own_launch(engine: Engine, launch: Launch, part: Part, count: int, place: _Place) -> Launch:
    """The launch of one of `count` engine servers: what engines write besides their log goes to a folder of its own."""
    handing_over = Settings({}, {}) if place.transfer is None else engine.handing_over(place.transfer, part.flags)
    gpu = launch.identity["gpu"]
    folder = launch.folder / part.name
    folder.mkdir(parents=True, exist_ok=True)
    scratch = launch.scratch and launch.scratch / part.name
    if scratch:
        scratch.mkdir(exist_ok=True)
    return replace(
        launch,
        port=place.port,
        gpus=place.gpus,
        cores=place.cores,
        folder=folder,
        scratch=scratch,
        identity={
            **launch.identity,
            "gpu": {**gpu, "count": max(gpu["count"] // count, 1)},
            "flags": {**part.flags, **handing_over.flags},
            "environment": {**part.environment, **handing_over.environment},
        },
    )


def _engine_server(engine: Engine, launch: Launch, part: Part, log: str) -> ProcessPlan:
    if launch.around is not None:
        launch = launch.around(part.name, launch)
    return ProcessPlan(
        name=part.name,
        command=engine.command(launch),
        environment=engine.environment(launch),
        log=log,
        host=launch.host,
        port=launch.port,
        cores=launch.cores,
        ready=engine.ready,
        explain=engine.explain_exit,
        launch=launch,
        answers=part.answers,
    )
