"""What a treatment chooses at one place of a study's matrix: what serves, what it is asked, from which state
of its caches, and effects on the server."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from leverlab.config import ConfigError, Configuration
from leverlab.config.base import nearest
from leverlab.config.lever import Effect
from leverlab.config.model_reference import own_models
from leverlab.config.study import Study
from leverlab.config.workload import InteractiveBatch, Workload, adapters_of, rounds_of
from leverlab.load_point import CacheState, Client
from leverlab.matrix.treatments import Treatment

T = TypeVar("T")

_WORKLOAD: TypeAdapter[Workload] = TypeAdapter(Workload)


@dataclass(frozen=True, slots=True)
class Place:
    """One of the combinations that the study itself names: treatments are compared within it.

    A level may have another engine, model or number of GPUs serve; its cells are still at this place.
    """

    engine: str
    model: str
    gpu: str
    gpu_count: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What a treatment comes to at a place. `effects` holds (lever, level, what it sets on the engine that serves)."""

    engine: str
    model: str
    gpu_count: int
    workload: Workload
    client: Client
    request: Mapping[str, Any]
    """Fields that levels add to every request's body."""
    cache: CacheState
    effects: tuple[tuple[str, str, Effect], ...]


def places(study: Study) -> Iterator[Place]:
    """Every combination of the study's engines, models and GPUs, in the order in which it names them."""
    for engine in study.engines:
        for model in study.models:
            for gpu in study.gpus:
                yield Place(engine, model, gpu.name, gpu.count)


def setting_of(configuration: Configuration, name: str, study: Study, place: Place, treatment: Treatment) -> Setting:
    """The setting of `treatment` at `place` of the study `name`.

    Raises ConfigError where a level names what there is not, or two levels disagree about what serves, or asks.
    """
    here = configuration.engines[place.engine].kind
    named = [(lever, level, configuration.levers[lever].effect(level, here)) for lever, level in treatment.levels]
    device = configuration.gpus[place.gpu].device
    instead = [effect.engine_on(device) for _, _, effect in named if effect]
    engine = _agreed(treatment, "engine", instead) or place.engine
    _check_there(configuration.engines, "engine", engine)
    kind = configuration.engines[engine].kind
    effects: list[tuple[str, str, Effect]] = []
    for lever, level, own in named:
        effect = own if own and own.engine_on(device) else configuration.levers[lever].effect(level, kind)
        if effect is None:
            raise ConfigError(
                f"config/studies/{name}.yaml: levers.{lever}: config/levers.yaml does not say what level {level!r} sets on an "
                f"engine of kind {kind!r}: add it there"
            )
        effects.append((lever, level, effect))
    of = [effect for _, _, effect in effects]
    model = _agreed(treatment, "model", [effect.model for effect in of]) or place.model
    _check_there(configuration.models, "model", model)
    workload = _workload(configuration, name, study, effects)
    client: Client = _agreed(treatment, "client", [effect.client for effect in of]) or study.client
    if rounds_of(workload)[0] > 1 and client != "replay":
        raise ConfigError(
            f"config/studies/{name}.yaml: the client {client!r} cannot wait for an answer, and in a workload of kind "
            f"{workload.kind} requests wait for each other: take the client 'replay', or another workload"
        )
    if isinstance(workload, InteractiveBatch) and client != "replay":
        raise ConfigError(
            f"config/studies/{name}.yaml: the client {client!r} sends no priorities, and in a workload of kind {workload.kind} each request "
            "has one: take the client 'replay', or another workload"
        )
    if adapters_of(workload) and client != "replay":
        raise ConfigError(
            f"config/studies/{name}.yaml: the client {client!r} names no LoRA adapters, and {adapters_of(workload)} are asked: take the client "
            "'replay'"
        )
    if adapters_of(workload) and kind != "truth" and "adapters" not in own_models([effect.flags for effect in of]):
        raise ConfigError(
            f"config/studies/{name}.yaml: {treatment.name}: requests name LoRA adapters, and no level has the server load any: add a lever "
            "whose level does (`lora_slots`), or let them name none"
        )
    if isinstance(workload, InteractiveBatch) and kind == "sglang":
        raise ConfigError(
            f"config/studies/{name}.yaml: {engine}: SGLang serves the larger priority first, and a workload of kind {workload.kind} gives "
            "interactive requests the smaller: take vLLM"
        )
    # What is split in two ways takes the product: two GPUs a layer, in each of two runs of layers, are four.
    stated = [int(effect.gpus) for effect in of if effect.gpus is not None]
    gpus = math.prod(stated) if stated else None
    if configuration.gpus[place.gpu].device == "cpu":
        gpus = None  # ranks of an engine on a CPU share it
    return Setting(
        engine,
        model,
        gpus or place.gpu_count,
        workload,
        client,
        _request(effects),
        _agreed(treatment, "cache", [effect.cache for effect in of]) or study.cache,
        tuple(effects),
    )


def _agreed(treatment: Treatment, key: str, values: Sequence[T | None]) -> T | None:
    """The one value that levels of `treatment` name; None where none does."""
    named = list(dict.fromkeys(value for value in values if value is not None))
    if len(named) > 1:
        told = ", ".join(map(str, named))
        raise ConfigError(f"config/levers.yaml: levels of {treatment.name} name different values of {key}: {told}")
    return named[0] if named else None


def _check_there(known: Any, key: str, name: str) -> None:  # noqa: ANN401 - entries of any kind
    if name not in known:
        raise ConfigError(f"config/levers.yaml: a level names the {key} {name!r}, which is none{nearest(name, known)}")


def _workload(
    configuration: Configuration, name: str, study: Study, effects: list[tuple[str, str, Effect]]
) -> Workload:
    """The study's workload, or the one that a level names, with the keys that levels change."""
    named = [effect.workload for _, _, effect in effects if isinstance(effect.workload, str)]
    if len(set(named)) > 1:
        raise ConfigError(
            f"config/levers.yaml: two levers name a workload, {named[0]} and {named[-1]}: only one can be asked"
        )
    known = configuration.named_workloads(study)
    if named:
        _check_there(known, "workload", named[0])
    workload = known[named[0]] if named else configuration.workload(study)
    changed: dict[str, Any] = {}
    for lever, level, effect in effects:
        for key, value in effect.workload.items() if isinstance(effect.workload, dict) else ():
            if key not in type(workload).model_fields or key == "kind":
                raise ConfigError(
                    f"config/studies/{name}.yaml: {lever}={level} sets {key!r} of the workload, and one of kind "
                    f"{workload.kind} has no such key{nearest(key, type(workload).model_fields)}"
                )
            if changed.setdefault(key, value) != value:
                raise ConfigError(f"config/levers.yaml: two levers set {key!r} of the workload, to different values")
    if not changed:
        return workload
    try:
        return _WORKLOAD.validate_python({**workload.model_dump(), **changed})
    except ValidationError as error:
        told = "; ".join(str(each["msg"]) for each in error.errors())
        raise ConfigError(f"config/studies/{name}.yaml: workload with {changed}: {told}") from None


def _request(effects: list[tuple[str, str, Effect]]) -> dict[str, Any]:
    """The fields that levels add to a request's body; none is set to two values."""
    added: dict[str, Any] = {}
    for lever, level, effect in effects:
        for key, value in effect.request.items():
            if added.setdefault(key, value) != value:
                raise ConfigError(
                    f"config/levers.yaml: {lever}={level} and another level set {key!r} of a request, to different values"
                )
    return added
