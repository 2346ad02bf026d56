"""Theory's servers from the configuration: dimensions of a model by name, and a server from its identity."""

import json
from collections.abc import Mapping
from typing import Any

from leverlab.config import ConfigError, Configuration
from leverlab.config.model import AdaptersSource, SyntheticSource
from leverlab.config.model_reference import named_models
from leverlab.config.topology import Topology, topology_of
from leverlab.layout import Layout
from leverlab.models.dimensions import Dimensions, dimensions
from leverlab.models.prepare import model_folder
from leverlab.models.synthetic import configuration_of_shape
from leverlab.records import read_json
from leverlab.theory.server import TheoryServer
from leverlab.theory.unknown import NotKnownError


def model_dimensions(name: str, configuration: Configuration) -> Dimensions:
    """The dimensions of a model of models.yaml: stated there, of its shape, or of its files where this machine has them.

    Raises NotKnownError where there are none, or what there is lacks a key.
    """
    if name not in configuration.models:
        raise NotKnownError(f"config/models.yaml holds no {name} any more")
    model = configuration.models[name]
    stated: Mapping[str, Any]
    if model.dimensions:
        stated = model.dimensions
    elif isinstance(model.source, SyntheticSource):
        stated = configuration_of_shape(model.source.shape, model.source.vocabulary)
    else:
        try:
            stated = read_json(model_folder(name, model, Layout(configuration.root)) / "config.json")
        except (ConfigError, OSError, json.JSONDecodeError, ValueError):
            raise NotKnownError(
                f"config/models.yaml states no `dimensions` of {name}, and its files are not on this machine"
            ) from None
    try:
        return dimensions(stated)
    except (KeyError, TypeError) as error:
        raise NotKnownError(f"the dimensions of {name} lack {error}") from None


def is_adapters(name: str, configuration: Configuration) -> bool:
    """Whether `name` stands for LoRA adapters: no model that could be served, and none that drafts."""
    return base_of_adapters(name, configuration) is not None


def base_of_adapters(name: str, configuration: Configuration) -> str | None:
    """The model that the LoRA adapters `name` belong to; None where these are none."""
    source = configuration.models[name].source if name in configuration.models else None
    return source.base if isinstance(source, AdaptersSource) else None


def _topology(identity: Mapping[str, Any]) -> Topology:
    try:
        return topology_of(identity)
    except ValueError as error:
        raise NotKnownError(
            f"the topology {identity['topology']!r} is not known: {str(error).splitlines()[0]}"
        ) from None


def server_of(identity: Mapping[str, Any], configuration: Configuration) -> TheoryServer:
    """The server of an identity, as server.json and the column `specification` keep it.

    Raises NotKnownError where its model or GPU is not known.
    """
    gpu = str(identity["gpu"]["type"])
    if gpu not in configuration.gpus:
        raise NotKnownError(f"config/gpus.yaml holds no {gpu} any more")
    flags = identity.get("flags", {})
    named = [name for name in named_models(flags) if not is_adapters(name, configuration)]
    return TheoryServer(
        dimensions=model_dimensions(str(identity["model"]["name"]), configuration),
        gpu_name=gpu,
        gpu=configuration.gpus[gpu],
        gpu_count=int(identity["gpu"]["count"]),
        engine=str(identity["engine"]["kind"]),
        flags=flags,
        environment=identity.get("environment", {}),
        topology=_topology(identity),
        draft=model_dimensions(named[0], configuration) if named else None,
        energy_price_per_kwh=configuration.settings.energy_price_per_kwh,
    )
