"""A server's identity: all that has to be known to start it, and nothing else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from leverlab import SYNTHETIC_VERSION
from leverlab.config import ConfigError, Configuration
from leverlab.config.base import FlagValue, nearest
from leverlab.config.engine import Container, Engine, LockedEnvironment
from leverlab.config.model import AdaptersSource, Model, SyntheticSource
from leverlab.config.model_reference import OWN_MODELS, folders_in, named_models, own_models, with_own
from leverlab.config.topology import (
    CACHE_DAEMONS,
    CONNECTORS,
    OFFLINE_ENGINES,
    CacheDaemon,
    Offline,
    PrefillDecode,
    Topology,
    topology_from,
)
from leverlab.environments import identity_versions
from leverlab.identity import canonical, make_id
from leverlab.matrix.settings import Setting
from leverlab.models.adapters import adapter_names

_UNNAMED: Final[Mapping[str, FlagValue]] = {
    "seed": 0,
    "generation-config": "vllm",
    "enable-prompt-tokens-details": True,
    "load-format": "dummy",
    "enforce-eager": True,
    "gpu-memory-utilization": 0.9,
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "random-seed": 0,
    "sampling-defaults": "openai",
    "enable-metrics": True,
    "enable-cache-report": True,
    "mem-fraction-static": 0.85,
}
"""Settings so usual that a slug does not name them. Fixed, and not the engine's entry: else an id would change with the
entry where the server that it stands for does not."""

_POOLS: Final = ("prefill", "decode")
"""Parameters of a topology that are too long for a slug."""


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

    @property
    def other_models(self) -> tuple[str, ...]:
        """Models that its flags refer to besides the one that it serves."""
        return other_models(self.identity)


def other_models(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Models that a server's identity refers to besides the one that it serves."""
    return tuple(identity.get("models", {}))


def model_identity(name: str, model: Model) -> dict[str, Any]:
    """What identifies a model's files: never the path where a machine keeps them."""
    made = {"version": SYNTHETIC_VERSION} if isinstance(model.source, SyntheticSource | AdaptersSource) else {}
    return {"name": name, **model.source.identity("path"), **made}


def has_dummy_weights(flags: Mapping[str, Any]) -> bool:
    """Whether a server with `flags` makes its weights up instead of loading them."""
    return flags.get("load-format") == "dummy"


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


def build_server(configuration: Configuration, setting: Setting, versions: Mapping[str, str], gpu: str) -> Server:
    """The server of a treatment.

    Raises ConfigError where two levers set the same flag to different values, or a flag refers to a model that there is not.
    """
    engine, model = configuration.engines[setting.engine], configuration.models[setting.model]
    flags: dict[str, FlagValue] = {**engine.flags, **model.flags.get(engine.kind, {})}
    environment: dict[str, str] = dict(engine.environment)
    topology: dict[str, Any] = {"kind": "single"}
    set_by: dict[str, tuple[object, str]] = {}
    for lever, level, effect in setting.effects:
        own: dict[str, object] = {**effect.flags, **effect.environment}
        named = effect.topology.model_dump(exclude_unset=True) if effect.topology else {}
        own |= {f"topology.{key}": value for key, value in named.items()}
        for key, value in own.items():
            other, setter = set_by.setdefault(key, (value, f"{lever}={level}"))
            if other != value:
                raise ConfigError(
                    f"config/levers.yaml: {lever}={level} and {setter} both set {key}, to different values"
                )
        flags |= effect.flags
        environment |= effect.environment
        topology |= named
    if engine.kind == "truth":
        flags |= _stands_for(setting)
    elif not has_dummy_weights(flags):
        _check_no_form_is_claimed(setting)
    flags = _with_models_known(configuration, setting.model, flags)
    # Left out where there is none, so that servers of one model keep the ids that they had.
    others = {name: model_identity(name, configuration.models[name]) for name in named_models(flags)}
    chosen = _topology(setting, topology, engine)
    parameters = {key: value for key, value in chosen.identity().items() if key != "kind"}
    identity = canonical(
        {
            **({"models": others} if others else {}),
            "engine": {"kind": engine.kind, "device": engine.device, "versions": dict(versions)},
            "model": model_identity(setting.model, model),
            "gpu": {"type": gpu, "count": setting.gpu_count},
            "flags": {name: _as_typed(value) for name, value in flags.items()},
            "environment": environment,
            "topology": chosen.kind,
            **({"topology_settings": parameters} if parameters else {}),
        }
    )
    return Server(make_id(_parts(identity), identity), identity, setting.engine, setting.model, gpu, setting.gpu_count)


def _check_no_form_is_claimed(setting: Setting) -> None:
    for lever, level, effect in setting.effects:
        if effect.only_dummy_weights:
            raise ConfigError(
                f"config/levers.yaml: {lever}={level} says in which form the weights of {setting.model} are, which is so of dummy weights alone "
                "(load-format: dummy): give the checkpoint an entry in config/models.yaml, and compare it by the lever `model` "
                "(docs/accuracy.md, Quantized checkpoints)"
            )


def _stands_for(setting: Setting) -> dict[str, FlagValue]:
    """A name for the levels that set nothing on the truth engine, so that each is a server of its own all the same."""
    named = [f"{lever}={level}" for lever, level, effect in setting.effects if not effect.model_fields_set]
    return {"stands-for": ", ".join(named)} if named else {}


def _with_models_known(
    configuration: Configuration, served: str, flags: Mapping[str, FlagValue]
) -> dict[str, FlagValue]:
    """`flags` with the models of the model `served` that they ask for by their names, and every model that they name known."""
    said_by: dict[str, str] = {}
    for key in own_models(flags):
        own: str | None = getattr(configuration.models[served], key)
        if own is None:
            raise ConfigError(
                f"config/models.yaml: {served}: a level of config/levers.yaml asks for its {OWN_MODELS[key]}, and it names none: add `{key}:`"
            )
        flags = with_own(flags, key, own)
        if key == "adapters":
            _check_adapters(configuration, served, own, flags)
        said_by[own] = f"config/models.yaml: {served}.{key}"
    for name in named_models(flags):
        if name not in configuration.models:
            of = said_by.get(name, "config/levers.yaml")
            raise ConfigError(f"{of}: there is no model {name!r}{nearest(name, configuration.models)}")
    return dict(flags)


def _check_adapters(configuration: Configuration, served: str, name: str, flags: Mapping[str, FlagValue]) -> None:
    """That the entry `name` holds adapters of the model `served`, and all that `flags` name."""
    where = f"config/models.yaml: {served}.adapters"
    if name not in configuration.models:
        raise ConfigError(f"{where}: there is no model {name!r}{nearest(name, configuration.models)}")
    source = configuration.models[name].source
    if not isinstance(source, AdaptersSource) or source.base != served:
        raise ConfigError(
            f"{where}: {name} is no entry of adapters of {served}: its source must say `kind: adapters, base: {served}`"
        )
    there = adapter_names(source.count)
    for asked in folders_in(flags, name):
        if asked not in there:
            raise ConfigError(
                f"config/models.yaml: {name}.source.count: there are {source.count} adapters, and a level of config/levers.yaml serves {asked}: "
                "make more, or name fewer there"
            )


def _topology(setting: Setting, named: Mapping[str, Any], engine: Engine) -> Topology:
    """The topology that levels name together, seen to be one that this engine and these GPUs can have."""
    levels = ", ".join(f"{lever}={level}" for lever, level, effect in setting.effects if effect.topology)
    where = f"config/levers.yaml: {levels}: topology"
    try:
        topology = topology_from(named)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ConfigError(f"{where} {dict(named)}: {told}") from None
    if isinstance(topology, PrefillDecode) and topology.connector not in CONNECTORS[engine.kind]:
        known = nearest(topology.connector, CONNECTORS[engine.kind])
        raise ConfigError(f"{where}: an engine of kind {engine.kind!r} has no connector {topology.connector!r}{known}")
    if isinstance(topology, CacheDaemon) and engine.kind not in CACHE_DAEMONS:
        raise ConfigError(
            f"{where}: an engine of kind {engine.kind!r} keeps nothing in LMCache's daemon: there is {CACHE_DAEMONS[0]}"
        )
    if isinstance(topology, Offline) and engine.kind not in OFFLINE_ENGINES:
        raise ConfigError(
            f"{where}: an engine of kind {engine.kind!r} has no program for offline batches: there are {' and '.join(OFFLINE_ENGINES)}"
        )
    servers = topology.engine_servers
    if engine.device == "cuda" and setting.gpu_count % servers:
        raise ConfigError(
            f"{where}: {servers} servers do not share {setting.gpu_count} GPUs evenly: write `gpus: [NAME:{servers}]` in the study"
        )
    return topology


def _as_typed(value: FlagValue) -> FlagValue:
    """A number, where `value` is text that a command line could not tell from one: `"64"` and `64` start one server."""
    if isinstance(value, list):
        return [item for item in map(_as_typed, value) if isinstance(item, str | int | float)]
    if isinstance(value, str):
        for number in (int, float):
            try:
                if str(number(value)) == value and math.isfinite(float(value)):
                    return number(value)
            except ValueError:
                continue
    return value


def _parts(identity: Mapping[str, Any]) -> list[str]:
    """The readable parts of a server's id, from its identity alone: engine, model, GPU, topology, and its settings.

    Settings with the shortest names come first, so that most of them fit.
    """
    engine, gpu = identity["engine"], identity["gpu"]
    settings = {**identity["flags"], **identity["environment"]}
    named = sorted((key for key in settings if _UNNAMED.get(key) != settings[key]), key=lambda key: (len(key), key))
    return [
        f"{engine['kind']}-cpu" if engine["device"] == "cpu" else engine["kind"],
        identity["model"]["name"],
        f"{gpu['count']}x{gpu['type']}" if gpu["count"] > 1 else gpu["type"],
        *([identity["topology"]] if identity["topology"] != "single" else []),
        *(
            _setting_slug(key, value)
            for key, value in identity.get("topology_settings", {}).items()
            if key not in _POOLS
        ),
        *(_setting_slug(key, settings[key]) for key in named),
    ]


def _setting_slug(name: str, value: FlagValue) -> str:
    if isinstance(value, bool):
        return f"{'' if value else 'no-'}{name.removeprefix('enable-')}"
    return f"{name}-{value}"
