"""Which of a matrix's treatments their engine accepts: asked once for each environment and treatment."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leverlab.config import Configuration
from leverlab.config.topology import LMCACHE_DAEMON, CacheDaemon, PrefillDecode, parts_of, topology_of
from leverlab.engines import engine_for
from leverlab.engines.base import Engine, Settings, Transfer
from leverlab.environments import ENVIRONMENTS, command_prefix
from leverlab.identity import content_hash
from leverlab.layout import Layout
from leverlab.matrix.expand import Matrix
from leverlab.matrix.servers import Server
from leverlab.matrix.treatments import Treatment
from leverlab.records import Reason, read_json, write_json

READY_FILE: Final = "ready.json"

_NAMED: Final = re.compile(r"--(?:no-)?([\w.-]+)|(?<![\w-])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server that its engine refuses: `where` says which file and key asked for what is refused."""

    server: str
    study: str
    treatment: str
    where: str
    reason: Reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason.message} ({self.study}: {self.treatment})"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an engine says of its servers. `reachable` is False where its environment is not on this machine."""

    engine: str
    reachable: bool
    servers: int
    asked: int
    refusals: tuple[Refusal, ...]


def check_engine(name: str, matrix: Matrix, layout: Layout, through: str | None = None) -> Acceptance:
    """Put the flags of every server of the engine `name` to its own argument parser.

    `through` is another engine of its kind whose environment is asked instead; default: its own. What was accepted is kept beside the output, under the environment's content and the flags, so that a treatment is asked
    about once; a refusal, which stops the run, is asked about again. Raises EngineUnreachableError where an environment that should be there does not run.
    """
    configuration = matrix.configuration
    asked_through = through or name
    engine = configuration.engines[asked_through]
    places = _places(name, matrix)
    ready = environment_record(asked_through, layout)
    if ready.get("reachable") is False:
        return Acceptance(name, False, len(places), 0, ())
    accepted = _accepted(asked_through, layout)
    keys = {server.id: _key(engine.kind, ready, server) for server, _, _ in places}
    missing = [place for place in places if keys[place[0].id] not in accepted]
    refusals = []
    if missing:
        module = engine_for(engine.kind)
        settings = [_settings(module, server) for server, _, _ in missing]
        answers = iter(
            module.check_flags(command_prefix(asked_through, engine), [one for of in settings for one in of])
        )
        for (server, study, treatment), own in zip(missing, settings, strict=True):
            answer = next(filter(None, [next(answers) for _ in own]), None)
            if answer is None:
                accepted.add(keys[server.id])
            else:
                where = _where(configuration, server, treatment, answer)
                refusals.append(Refusal(server.id, study, treatment.name, where, answer))
        write_json(_memory(asked_through, layout), {"accepted": sorted(accepted)})
    return Acceptance(name, True, len(places), len(missing), tuple(refusals))


def _places(name: str, matrix: Matrix) -> Sequence[tuple[Server, str, Treatment]]:
    """Each server of the engine once, with the study and treatment that first asks for it."""
    places: dict[str, tuple[Server, str, Treatment]] = {}
    for study in matrix.studies:
        for entry in study.cells:
            server = entry.cell.server
            if server.engine == name:
                places.setdefault(server.id, (server, study.name, entry.treatment))
    return list(places.values())


def environment_record(name: str, layout: Layout) -> dict[str, Any]:
    """What is recorded of the engine's environment on this machine; empty where there is none."""
    path = layout.root / ENVIRONMENTS / name / READY_FILE
    return read_json(path) if path.is_file() else {}


def _key(kind: str, ready: dict[str, Any], server: Server) -> str:
    identity = server.identity
    several = [identity["topology"], identity.get("topology_settings", {})] if identity["topology"] != "single" else []
    return content_hash([kind, ready, identity["flags"], identity["environment"], *several], 16)


def _settings(engine: Engine, server: Server) -> list[Settings]:
    """What each engine server of the topology is told, once where several are told the same."""
    topology = topology_of(server.identity)
    found: list[Settings] = []
    for part in parts_of(server.identity):
        own = Settings(part.flags, part.environment)
        if isinstance(topology, PrefillDecode) and part.role in ("prefill", "decode"):
            told = engine.handing_over(Transfer(part.role, topology.connector, 1, Path("kv")), part.flags)
            own = Settings({**own.flags, **told.flags}, {**own.environment, **told.environment})
        if isinstance(topology, CacheDaemon):
            told = engine.handing_over(Transfer("server", LMCACHE_DAEMON, 1, Path("kv")), own.flags)
            own = Settings({**own.flags, **told.flags}, {**own.environment, **told.environment})
        if own not in found:
            found.append(own)
    return found


def _memory(name: str, layout: Layout) -> Path:
    return layout.results / "flags" / f"{name}.accepted.json"


def _accepted(name: str, layout: Layout) -> set[str]:
    try:
        return set(read_json(_memory(name, layout))["accepted"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _where(configuration: Configuration, server: Server, treatment: Treatment, reason: Reason) -> str:
    """The file and key of the flag or variable that the reason names first: a lever's, the model's, or the engine's."""
    kind = configuration.engines[server.engine].kind
    for dashed, variable in _NAMED.findall(reason.message):
        wanted = dashed or variable
        for lever, level in treatment.levels:
            effect = configuration.levers[lever].effect(level, kind)
            if effect is not None and wanted in {**effect.flags, **effect.environment}:
                return f"config/levers.yaml: {lever}={level}: {wanted}"
        if wanted in configuration.models[server.model].flags.get(kind, {}):
            return f"config/models.yaml: {server.model}.flags.{kind}.{wanted}"
        engine = configuration.engines[server.engine]
        for part, settings in (("flags", engine.flags), ("environment", engine.environment)):
            if wanted in settings:
                return f"config/engines.yaml: {server.engine}.{part}.{wanted}"
    return f"config/engines.yaml: {server.engine}"
