"""The configuration: YAML files under config/, checked strictly before anything runs.

`load` reads them all; `Configuration.study` reads one study and checks every name in it. All errors are ConfigError and
name file, key and nearest neighbour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from leverlab.config.base import ConfigError, StrictModel, nearest, validated
from leverlab.config.base import Model as ModelType
from leverlab.config.engine import Engine
from leverlab.config.files import read_mapping
from leverlab.config.gpu import Gpu
from leverlab.config.lever import Lever
from leverlab.config.model import Model
from leverlab.config.study import Study
from leverlab.config.workload import Workload

__all__ = ["ConfigError", "Configuration", "Settings", "load"]


class _NamedWorkload(StrictModel):
    """Wraps a workload, so that its errors are reported like those of every other entry."""

    workload: Workload


class Settings(StrictModel):
    """What config/config.yaml, `--configfile` and `--config` may set."""

    study: str | list[str] = Field(description="a study of config/studies/, several, or `all`")
    sharegpt_path: str | None = Field(default=None, description="the ShareGPT file, for workloads of kind sharegpt")
    retry_failed: bool = Field(default=False, description="measure cells again whose last attempt failed")
    engines: dict[str, Any] = Field(
        default={}, description="entries that replace or extend those of config/engines.yaml"
    )
    models: dict[str, Any] = Field(default={}, description="the same for config/models.yaml")
    gpus: dict[str, Any] = Field(default={}, description="the same for config/gpus.yaml")
    levers: dict[str, Any] = Field(default={}, description="the same for config/levers.yaml")
    workloads: dict[str, Any] = Field(default={}, description="the same for config/workloads.yaml")


@dataclass(frozen=True, slots=True)
class Configuration:
    """Every entry by name, and where the studies are. `root` is the repository."""

    root: Path
    settings: Settings
    engines: Mapping[str, Engine]
    models: Mapping[str, Model]
    gpus: Mapping[str, Gpu]
    levers: Mapping[str, Lever]
    workloads: Mapping[str, Workload]

    @property
    def study_folder(self) -> Path:
        """Where studies are: config/studies."""
        return self.root / "config" / "studies"

    def study_names(self) -> list[str]:
        """Every study there is."""
        return sorted(path.stem for path in self.study_folder.glob("*.yaml"))

    def selected_studies(self) -> list[str]:
        """The studies that the setting `study` asks for, checked to exist."""
        asked = self.settings.study
        names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
        if names == ["all"]:
            return self.study_names()
        if len(set(names)) != len(names):
            raise ConfigError(f"study: a name stands twice: {', '.join(names)}")
        for name in names:
            if name not in self.study_names():
                raise ConfigError(
                    f"study: there is no {self.study_folder.relative_to(self.root)}/{name}.yaml{nearest(name, self.study_names())}"
                )
        return names

    def study(self, name: str) -> Study:
        """The study `name`, with every engine, model, GPU, lever, level and workload in it known."""
        file = self.study_folder / f"{name}.yaml"
        shown = file.relative_to(self.root)
        study = validated(Study, read_mapping(file), shown, "")
        self._check_known(shown, "engines", study.engines, self.engines)
        self._check_known(shown, "models", study.models, self.models)
        self._check_known(shown, "gpus", [gpu.name for gpu in study.gpus], self.gpus)
        self._check_known(shown, "levers", list(study.levers), self.levers)
        if isinstance(study.workload, str):
            self._check_known(shown, "workload", [study.workload], self.workloads)
        self._check_levels(shown, study)
        self._check_design(shown, study)
        return study

    def workload(self, study: Study) -> Workload:
        """The study's workload, looked up where the study names one."""
        return self.workloads[study.workload] if isinstance(study.workload, str) else study.workload

    @staticmethod
    def _check_known(file: Path, key: str, names: list[str], known: Mapping[str, object]) -> None:
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{file}: {key}: there is no {name!r} in config/{_file_of(key)}{nearest(name, known)}"
                )
        if len(set(names)) != len(names):
            raise ConfigError(f"{file}: {key}: a name stands twice: {', '.join(names)}")

    def _check_levels(self, file: Path, study: Study) -> None:
        kinds = {self.engines[engine].kind for engine in study.engines}
        for name, levels in study.levers.items():
            lever = self.levers[name]
            for level in levels:
                for kind in sorted(kinds):
                    try:
                        lever.effect(level, kind)
                    except KeyError as missing:
                        if missing.args[0] == level:
                            raise ConfigError(
                                f"{file}: levers.{name}: there is no level {level!r}{nearest(level, lever.level_names())}"
                            ) from None
                        raise ConfigError(
                            f"{file}: levers.{name}: config/levers.yaml does not say what level {level!r} sets on engine kind {kind!r}: add it there"
                        ) from None

    @staticmethod
    def _check_design(file: Path, study: Study) -> None:
        design = study.design
        if isinstance(design, str):
            return
        mappings = design.list if hasattr(design, "list") else [dict.fromkeys(design.factorial, "")]
        for treatment in mappings:
            for lever, level in treatment.items():
                if lever not in study.levers:
                    raise ConfigError(
                        f"{file}: design: {lever!r} is not one of the study's levers{nearest(lever, study.levers)}"
                    )
                if level and level not in study.levers[lever]:
                    raise ConfigError(
                        f"{file}: design: {lever}: {level!r} is not among its levels{nearest(level, study.levers[lever])}"
                    )


def _file_of(key: str) -> str:
    return "workloads.yaml" if key == "workload" else f"{key}.yaml"


def load(root: Path, settings: Mapping[str, Any]) -> Configuration:
    """Read and check every file under `root`/config, with the entries of `settings` laid over them."""
    checked = validated(Settings, dict(settings), "config/config.yaml or --config", "")
    return Configuration(
        root=root,
        settings=checked,
        engines=_entries(root, "engines", Engine, checked.engines),
        models=_entries(root, "models", Model, checked.models),
        gpus=_entries(root, "gpus", Gpu, checked.gpus),
        levers=_entries(root, "levers", Lever, checked.levers),
        workloads={name: entry.workload for name, entry in _wrapped_workloads(root, checked.workloads).items()},
    )


def _merged(root: Path, name: str, overlay: Mapping[str, Any]) -> dict[str, Any]:
    entries = read_mapping(root / "config" / f"{name}.yaml")
    for key, value in overlay.items():
        base = entries.get(key)
        entries[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
    return entries


def _entries(root: Path, name: str, model: type[ModelType], overlay: Mapping[str, Any]) -> dict[str, ModelType]:
    file = f"config/{name}.yaml"
    return {key: validated(model, value, file, str(key)) for key, value in _merged(root, name, overlay).items()}


def _wrapped_workloads(root: Path, overlay: Mapping[str, Any]) -> dict[str, _NamedWorkload]:
    entries = _merged(root, "workloads", overlay)
    return {
        key: validated(_NamedWorkload, {"workload": value}, "config/workloads.yaml", str(key))
        for key, value in entries.items()
    }
