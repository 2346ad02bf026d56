"""Getting a model's files to where an engine can read them, and what is recorded of them in model.json."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from leverlab.config import ConfigError
from leverlab.config.base import nearest
from leverlab.config.model import AdaptersSource, HubSource, Model, PathSource, SyntheticSource
from leverlab.layout import Layout
from leverlab.models.adapters import adapter_files, adapter_names
from leverlab.models.dimensions import dimensions
from leverlab.models.synthetic import synthetic_files
from leverlab.records import read_json, write_bytes, write_json

RECORD: Final = "model.json"

_WEIGHTS_THAT_NO_ENGINE_READS: Final = ["original/*", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "consolidated*"]


def prepare_model(name: str, model: Model, layout: Layout) -> Path:
    """Fetch, check or make the model's files, then write its model.json, and return that file's path.

    model.json holds the source and the dimensions, and no machine's path: `model_folder` finds the files. Raises
    ConfigError naming entry, key and remedy where the files cannot be had.
    """
    record = layout.model(name) / RECORD
    source = model.source
    if isinstance(source, SyntheticSource):
        _make(name, source, layout)
    elif isinstance(source, HubSource):
        _fetch(name, source)
    folder = model_folder(name, model, layout)
    try:
        configuration = read_json(folder / "config.json")
        size = dataclasses.asdict(dimensions(configuration))
    except (KeyError, ValueError, json.JSONDecodeError) as error:
        raise ConfigError(f"config/models.yaml: {name}: {folder / 'config.json'} is not a model's: {error}") from None
    described = source.model_dump(exclude={"path"}, mode="json")
    write_json(record, {"model": name, "source": described, "dimensions": size})
    return record


def prepare_adapters(name: str, models: Mapping[str, Model], layout: Layout) -> Path:
    """Make the adapters of the entry `name` of `models` for their base, whose files are there already, then their model.json.

    Each is a folder of its own beside it. Raises ConfigError naming entry, key and remedy where they cannot be made.
    """
    source = models[name].source
    assert isinstance(source, AdaptersSource), name
    key = f"config/models.yaml: {name}.source"
    if source.base not in models:
        raise ConfigError(f"{key}.base: there is no model {source.base!r}{nearest(source.base, models)}")
    base = read_json(model_folder(source.base, models[source.base], layout) / "config.json")
    for adapter in adapter_names(source.count):
        try:
            files = adapter_files(source, adapter, base)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{key}: no adapters for {source.base}: {error}") from None
        _write_changed(layout.model(name) / adapter, files)
    record = layout.model(name) / RECORD
    write_json(record, {"model": name, "source": source.model_dump(mode="json")})
    return record


def model_folder(name: str, model: Model, layout: Layout) -> Path:
    """The folder that an engine is given, on this machine, without asking any network.

    Raises ConfigError where it is not there or lacks a tokenizer or a configuration.
    """
    key = f"config/models.yaml: {name}.source"
    match model.source:
        case SyntheticSource():
            folder = layout.model(name)
            remedy = f"make it with `snakemake {layout.model(name) / RECORD}`"
        case PathSource(path=path):
            folder = Path(path).expanduser()
            remedy = f"{key}.path must name a folder that this machine sees"
        case HubSource() as source:
            folder = _cached(key, source)
            remedy = "the download is incomplete: delete it and fetch it again"
        case AdaptersSource(base=base):
            raise ConfigError(f"{key}: LoRA adapters are served with a model: ask for {base}")
    if not folder.is_dir():
        raise ConfigError(f"{key}: there is no folder {folder}: {remedy}")
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ConfigError(f"{key}: {folder} has no {file}: {remedy}")
    return folder


def _make(name: str, source: SyntheticSource, layout: Layout) -> None:
    try:
        files = synthetic_files(source.shape, source.vocabulary)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"config/models.yaml: {name}.source.shape: {error}") from None
    _write_changed(layout.model(name), files)


def _write_changed(folder: Path, files: Mapping[str, bytes]) -> None:
    for file, content in files.items():
        path = folder / file
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


def _fetch(name: str, source: HubSource) -> None:
    """Download the revision into the hub's cache (HF_HOME), which other programs of this user share.

    The token, where the repository needs one, is taken from the environment or from `hf auth login` by the hub's
    library; it is never read or printed here.
    """
    try:
        snapshot_download(source.id, revision=source.revision, ignore_patterns=_WEIGHTS_THAT_NO_ENGINE_READS)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"config/models.yaml: {name}.source: {source.id} at {source.revision} cannot be fetched:"
            f" {str(error).splitlines()[0]}. A gated repository needs HF_TOKEN in the environment and its licence"
            " accepted on the hub; without a network, fetch it elsewhere and name the folder (`kind: path`)."
        ) from None


def _cached(key: str, source: HubSource) -> Path:
    try:
        return Path(snapshot_download(source.id, revision=source.revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        where = os.environ.get("HF_HOME", "~/.cache/huggingface")
        raise ConfigError(
            f"{key}: {source.id} at {source.revision} is not in the hub's cache ({where}): fetch it on a machine with a"
            " network by making its model.json"
        ) from None
