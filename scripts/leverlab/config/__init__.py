"""The configuration: YAML files under config/, checked strictly before anything runs.

`load` reads them all; `Configuration.study` reads one study and checks every name in it. All errors are ConfigError and
name file, key and nearest neighbour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field

from leverlab.config.base import ConfigError, StrictModel, checked_name, nearest, validated
from leverlab.config.base import Model as ModelType
from leverlab.config.course import LineAnswer
from leverlab.config.engine import Engine
from leverlab.config.files import read_mapping
from leverlab.config.gpu import Gpu
from leverlab.config.lever import Lever
from leverlab.config.model import Model, PathSource
from leverlab.config.study import Explicit, Study
from leverlab.config.workload import ShareGpt, Workload, WorkloadEntry

SMOKE: Final = "-smoke"
"""What follows a study's name in that of its smoke size."""

__all__ = ["ConfigError", "Configuration", "Settings", "load"]


class Settings(StrictModel):
    """What config/config.yaml, `--configfile` and `--config` may set."""

    study: str | list[str] = Field(
        description="a study of config/studies/, several, or `all`; `NAME-smoke` is its smoke size, `smoke` all of them"
    )
    sharegpt_path: str | None = Field(default=None, description="the ShareGPT file, for workloads of kind sharegpt")
    lm_eval_python: str | None = Field(
        default=None,
        description="an interpreter that has lm_eval in the version of envs/lm-eval.txt; default: an environment made from that lock",
    )
    retry_failed: bool = Field(default=False, description="measure cells again whose last attempt failed")
    profiles: bool = Field(
        default=True, description="`false`: leave out the twins that studies ask for, where there is no profiler"
    )
    nsys: str | None = Field(default=None, description="path of Nsight Systems' program; default: `nsys` on PATH")
    ncu: str | None = Field(default=None, description="path of Nsight Compute's program; default: `ncu` on PATH")
    nsys_libraries: str | None = Field(
        default=None, description="folder of libraries that this program needs and the machine lacks (libdw, libelf)"
    )
    energy_price_per_kwh: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="price of a kilowatt-hour that GPUs take, in the currency of the reports",
    )
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

    @classmethod
    def empty(cls) -> Self:
        """Of a process that has been told all it needs to know otherwise: no studies, no entries."""
        return cls(Path(), Settings(study=[]), engines={}, models={}, gpus={}, levers={}, workloads={})

    @property
    def study_folder(self) -> Path:
        """Where studies are: config/studies."""
        return self.root / "config" / "studies"

    def study_names(self) -> list[str]:
        """Every study there is."""
        return sorted(checked_name(path.stem, "config/studies") for path in self.study_folder.glob("[!.]*.yaml"))

    def smoke_names(self) -> list[str]:
        """`NAME-smoke` of every study that has a smoke size."""
        return [f"{name}{SMOKE}" for name in self.study_names() if self._written(name).get("smoke")]

    def full_name(self, name: str) -> str:
        """The study of which `name` is the smoke size, or `name` itself."""
        return name if name in self.study_names() else name.removesuffix(SMOKE)

    def is_smoke(self, name: str) -> bool:
        """Whether `name` is a smoke size."""
        return self.full_name(name) != name

    def simulated(self, study: Study) -> bool:
        """Whether an engine of the study, or one that a level has serve instead, is the truth engine.

        Nothing may then be read as a finding about engines.
        """
        kinds = {self.engines[engine].kind for engine in study.engines}
        effects = [
            self.levers[lever].effect(level, kind)
            for lever, levels in study.levers.items()
            for level in levels
            for kind in kinds
        ]
        devices = {self.gpus[gpu.name].device for gpu in study.gpus}
        instead = [effect.engine_on(device) for effect in effects if effect for device in devices]
        serving = {*study.engines, *(engine for engine in instead if engine)}
        return any(self.engines[engine].kind == "truth" for engine in serving)

    def _written(self, name: str) -> dict[str, Any]:
        return read_mapping(self.study_folder / f"{name}.yaml", f"config/studies/{name}.yaml")

    def selected_studies(self) -> list[str]:
        """The studies that the setting `study` asks for, checked to exist."""
        asked = self.settings.study
        names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
        if names == ["all"]:
            return self.study_names()
        if names == ["smoke"]:
            return self.smoke_names()
        if len(set(names)) != len(names):
            raise ConfigError(f"study: a name stands twice: {', '.join(names)}")
        known = self.study_names()
        for name in names:
            if name not in known and name.removesuffix(SMOKE) not in known:
                raise ConfigError(f"study: there is no config/studies/{name}.yaml{nearest(name, known)}")
        return names

    def study(self, name: str) -> Study:
        """The study `name`, with every engine, model, GPU, lever, level and workload in it known, and every file there."""
        file = self.full_name(name)
        shown, written = f"config/studies/{file}.yaml", self._written(file)
        if file != name:
            written = _smoke(written, shown)
        if isinstance(written.get("levers"), dict):
            # First, as the study itself would only find that a misspelt lever has no baseline.
            self._check_known(shown, "levers", list(written["levers"]), self.levers)
        study = validated(Study, written, shown, "")
        self._check_known(shown, "engines", study.engines, self.engines)
        self._check_known(shown, "models", study.models, self.models)
        self._check_known(shown, "gpus", [gpu.name for gpu in study.gpus], self.gpus)
        if isinstance(study.workload, str):
            self._check_known(shown, "workload", [study.workload], self.named_workloads(study))
        for key, chosen in (("engines", study.engines), ("models", study.models), ("gpus", study.gpus)):
            if len(set(chosen)) != len(chosen):
                raise ConfigError(f"{shown}: {key}: an entry stands twice")
        self._check_levels(shown, study)
        self._check_design(shown, study)
        self._check_answers(shown, study, smoke=file != name)
        self._check_explained(shown, study, file)
        self._check_files(shown, study)
        return study

    def workload(self, study: Study) -> Workload:
        """The study's workload, looked up where the study names one."""
        if not isinstance(study.workload, str):
            return study.workload
        return self.named_workloads(study)[study.workload]

    def named_workloads(self, study: Study) -> Mapping[str, Workload]:
        """What a name of a workload means in the study: its own first, then those of config/workloads.yaml."""
        return {**self.workloads, **study.workloads}

    @staticmethod
    def _check_known(file: str, key: str, names: list[str], known: Mapping[str, object]) -> None:
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{file}: {key}: there is no {name!r} in config/{_file_of(key)}{nearest(name, known)}"
                )

    def _check_levels(self, file: str, study: Study) -> None:
        kinds = sorted({self.engines[engine].kind for engine in study.engines})
        for name, levels in study.levers.items():
            lever = self.levers[name]
            for level in levels:
                if not lever.has_level(level):
                    raise ConfigError(
                        f"{file}: levers.{name}: there is no level {level!r}{nearest(level, lever.level_names())}"
                    )
                for kind in kinds:
                    if lever.effect(level, kind) is None:
                        raise ConfigError(
                            f"{file}: levers.{name}: config/levers.yaml does not say what level {level!r} sets on an "
                            f"engine of kind {kind!r}: add it there"
                        )

    def _check_answers(self, file: str, study: Study, *, smoke: bool) -> None:
        """See that each answer is about a lever of the study; a smoke size may ask of those that it leaves out."""
        known = self.levers if smoke else study.levers
        for question in study.questions:
            for answer in question.answers:
                for lever, levels in answer.names().items():
                    if lever not in known:
                        raise ConfigError(
                            f"{file}: questions: {question.ask!r}: {lever!r} is not one of the study's levers"
                            f"{nearest(lever, known)}"
                        )
                    if isinstance(answer, LineAnswer):
                        _check_numbers(f"{file}: questions: {question.ask!r}: {lever}", study.levers.get(lever, ()))
                    there = self.levers[lever].level_names() if smoke else study.levers[lever]
                    for level in levels:
                        if level not in there and not (smoke and self.levers[lever].has_level(level)):
                            raise ConfigError(
                                f"{file}: questions: {question.ask!r}: {level!r} is not among the levels of {lever}"
                                f"{nearest(level, there)}"
                            )

    def _check_explained(self, file: str, study: Study, own: str) -> None:
        """See that the studies of `explained_by` are others, and ask for twins."""
        known = [name for name in self.study_names() if name != own] if study.explained_by else []
        for name in study.explained_by:
            if name == own:
                raise ConfigError(f"{file}: explained_by: {name} is the study itself: its own twins are shown anyway")
            if name not in known:
                raise ConfigError(f"{file}: explained_by: there is no config/studies/{name}.yaml{nearest(name, known)}")
            if self._written(name).get("profile") is None:
                raise ConfigError(f"{file}: explained_by: {name} asks for no twins (key `profile`)")

    def _check_files(self, file: str, study: Study) -> None:
        """See that what the user keeps outside the repository is there."""
        for name in study.models:
            source = self.models[name].source
            if isinstance(source, PathSource):
                folder = self.root / Path(source.path).expanduser()
                if not folder.is_dir():
                    raise ConfigError(f"config/models.yaml: {name}.source.path: there is no folder {source.path}")
                for needed in ("config.json", "tokenizer.json"):
                    if not (folder / needed).is_file():
                        raise ConfigError(f"config/models.yaml: {name}.source.path: {source.path} holds no {needed}")
        if study.accuracy is not None and study.accuracy.data is not None:
            folder = self.root / Path(study.accuracy.data).expanduser()
            if not any(folder.glob("*.jsonl")):
                raise ConfigError(
                    f"{file}: accuracy.data: {study.accuracy.data} is no folder with files `<split>.jsonl`, such as test.jsonl"
                )
        if isinstance(self.workload(study), ShareGpt):
            path = self.settings.sharegpt_path
            if path is None:
                raise ConfigError(
                    f"{file}: workload: kind sharegpt reads a file that you have: give `--config sharegpt_path=FILE`, "
                    f"or take kind sharegpt-shaped, which needs none"
                )
            if not (self.root / Path(path).expanduser()).is_file():
                raise ConfigError(f"sharegpt_path: there is no file {path}")

    @staticmethod
    def _check_design(file: str, study: Study) -> None:
        design = study.design
        if isinstance(design, str):
            return
        mappings = design.list if isinstance(design, Explicit) else [dict.fromkeys(design.factorial, "")]
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


def _smoke(written: dict[str, Any], shown: str) -> dict[str, Any]:
    """A study as written, in its smoke size: the keys of `smoke` instead of its own, and a title that says so."""
    smaller = written.get("smoke")
    if not isinstance(smaller, dict):
        raise ConfigError(f"{shown}: smoke: the study has no smoke size: add `smoke:` with the keys that it changes")
    nested = sorted({"smoke", "week"} & set(smaller))
    if nested:
        raise ConfigError(f"{shown}: smoke: {', '.join(nested)}: a smoke size is of the same study and has none itself")
    title = {"title": f"{written['title']}, smoke size"} if written.get("title") else {}
    # What twins of a full size show explains no smoke size, which another engine serves.
    return {**written, **title, "explained_by": [], **smaller, "smoke": None}


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
        workloads={
            name: entry.root for name, entry in _entries(root, "workloads", WorkloadEntry, checked.workloads).items()
        },
    )


def _entries(root: Path, name: str, model: type[ModelType], overlay: Mapping[str, Any]) -> dict[str, ModelType]:
    """The entries of config/<name>.yaml. Each key of an entry in `overlay` replaces that key of the file's entry."""
    file = f"config/{name}.yaml"
    entries = read_mapping(root / "config" / f"{name}.yaml", file)
    sources = dict.fromkeys(entries, file)
    for key, value in overlay.items():
        base = entries.get(key)
        entries[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
        sources[key] = f"{file} with --config or --configfile" if base is not None else "--config or --configfile"
    for key in entries:
        checked_name(key, sources[key])
    return {
        key: validated(model, value, sources[key], key if sources[key] == file else f"{name}.{key}")
        for key, value in entries.items()
    }


def _check_numbers(where: str, levels: Sequence[str]) -> None:
    """See that a line can be drawn over `levels`."""
    for level in levels:
        try:
            float(level)
        except ValueError:
            raise ConfigError(
                f"{where}: its level {level!r} is no number, as `kind: line` needs: use `kind: levels`"
            ) from None
