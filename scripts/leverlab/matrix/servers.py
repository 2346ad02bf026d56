"""A server's identity: all that has to be known to start it, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leverlab.config import ConfigError, Configuration
from leverlab.config.base import FlagValue
from leverlab.config.engine import Container, LockedEnvironment
from leverlab.config.model import Model
from leverlab.environments import identity_versions
from leverlab.identity import MAXIMUM_ID_LENGTH, make_id
from leverlab.matrix.treatments import Treatment

SLUG_LIMIT = 90
"""Characters of a server's id: a cell's id holds its slug and the phase's."""


@dataclass(frozen=True, slots=True)
class Server:
    """engine × model × GPU type and count × treatment. `identity` is the whole of it, as it is kept in server.json."""

    id: str
    identity: Mapping[str, Any]
    engine: str
    """The engine's name in config/engines.yaml: how to start it here, which is no part of the identity."""
    model: str
    gpu: str
    gpu_count: int


def model_identity(name: str, model: Model) -> dict[str, Any]:
    """What identifies a model's files: never the path where a machine keeps them."""
    return {"name": name, **model.source.model_dump(exclude={"path"})}


def engine_versions(root: Path, name: str, configuration: Configuration) -> dict[str, str]:
    """Versions that affect a measurement: read from the lock, the image's digest, or as declared."""
    engine = configuration.engines[name]
    versions = dict(engine.versions)
    if isinstance(engine.launch, Container):
        versions["image"] = engine.launch.digest
    if isinstance(engine.launch, LockedEnvironment):
        lock = root / engine.launch.lock
        if not lock.is_file():
            raise ConfigError(f"config/engines.yaml: {name}.launch.lock: there is no file {engine.launch.lock}")
        try:
            versions |= identity_versions(
                lock, [p for p in engine.identity_packages if p != "torch" or not engine.launch.torch]
            )
        except KeyError as missing:
            raise ConfigError(
                f"config/engines.yaml: {name}.identity_packages: {missing.args[0]!r} is not in {engine.launch.lock}"
            ) from None
        if engine.launch.torch:
            versions["torch"] = engine.launch.torch
    return versions


def build_server(
    configuration: Configuration,
    engine_name: str,
    versions: Mapping[str, str],
    model_name: str,
    gpu: str,
    gpu_count: int,
    treatment: Treatment,
) -> Server:
    """The server of a treatment. Raises ConfigError where two levers set the same flag to different values."""
    engine, model = configuration.engines[engine_name], configuration.models[model_name]
    base_flags: dict[str, FlagValue] = {**engine.flags, **model.flags.get(engine.kind, {})}
    flags, environment = dict(base_flags), dict(engine.environment)
    topology, set_by = "single", dict[str, str]()
    for lever, level in treatment.levels:
        effect = configuration.levers[lever].effect(level, engine.kind)
        for key, value in [*effect.flags.items(), *effect.environment.items()]:
            if key in set_by and {**flags, **environment}[key] != value:
                raise ConfigError(
                    f"config/levers.yaml: {lever}={level} and {set_by[key]} both set {key}, to different values"
                )
            set_by[key] = f"{lever}={level}"
        flags |= effect.flags
        environment |= effect.environment
        topology = effect.topology or topology
    identity = {
        "engine": {"kind": engine.kind, "device": engine.device, "versions": dict(versions)},
        "model": model_identity(model_name, model),
        "gpu": {"type": gpu, "count": gpu_count},
        "flags": flags,
        "environment": environment,
        "topology": topology,
    }
    own = {key: value for key, value in flags.items() if base_flags.get(key) != value}
    parts = [
        f"{engine.kind}-{engine.device}" if engine.device == "cpu" else engine.kind,
        model_name,
        gpu if gpu_count == 1 else f"{gpu_count}x{gpu}",
    ]
    parts += [_flag_slug(key, value) for key, value in sorted(own.items())]
    limit = min(SLUG_LIMIT, MAXIMUM_ID_LENGTH)
    return Server(make_id(parts, identity, limit), identity, engine_name, model_name, gpu, gpu_count)


def _flag_slug(name: str, value: FlagValue) -> str:
    if value is True:
        return name
    return f"no-{name}" if value is False else f"{name}-{value}"
