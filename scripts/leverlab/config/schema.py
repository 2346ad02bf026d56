"""Generates config/schema/*.json and the tables of config/README.md from the pydantic models.

`python -m leverlab.config.schema` writes them; with `--check` it writes nothing and exits 1 where they have drifted.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, RootModel, create_model
from pydantic.fields import FieldInfo

from leverlab.config import Configuration, Settings, load
from leverlab.config.base import Written
from leverlab.config.course_rows import CourseEntry
from leverlab.config.engine import Engine, EngineKind
from leverlab.config.gpu import Gpu
from leverlab.config.lever import Effect, Lever
from leverlab.config.model import Model
from leverlab.config.profile import KernelClass
from leverlab.config.study import Study
from leverlab.config.workload import WorkloadEntry
from leverlab.records import write_bytes

ENTRIES: Final[dict[str, type[BaseModel]]] = {
    "engines": Engine,
    "models": Model,
    "gpus": Gpu,
    "levers": Lever,
    "workloads": WorkloadEntry,
    "course": CourseEntry,
    "kernel_classes": KernelClass,
}
"""Files of named entries, and what an entry is."""

README: Final = Path("config/README.md")
SCHEMA_FOLDER: Final = Path("config/schema")
_MARKED: Final = re.compile(r"(<!-- generated: (?P<name>[a-z_-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class SchemaError(Exception):
    """config/README.md lacks a place for a table, or has one for a table that there is not."""


def schemas() -> dict[str, dict[str, Any]]:
    """File name → JSON schema of that configuration file."""
    whole: dict[str, type[BaseModel]] = {"config": Settings, "study": Study}
    found = {f"{name}.json": _schema(name, model.model_json_schema()) for name, model in whole.items()}
    for name, model in ENTRIES.items():
        file = create_model(name, __base__=RootModel[dict[str, model]])  # type: ignore[valid-type]
        found[f"{name}.json"] = _schema(name, file.model_json_schema())
    return found


def _schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"leverlab: {name}"}


def tables(configuration: Configuration) -> dict[str, str]:
    """Name of a marked place in config/README.md → the Markdown that belongs there."""
    found = {
        "settings": _tables_of(Settings),
        "study": _tables_of(Study),
        "levers-in-use": _levers_table(configuration),
    }
    return found | {name: _tables_of(model) for name, model in ENTRIES.items()}


def _tables_of(model: type[BaseModel]) -> str:
    """A table for `model`, and one for every model that stands in it, each under its name."""
    parts: list[str] = []
    elsewhere = set() if model is WorkloadEntry else set(_reachable(WorkloadEntry))
    for number, each in enumerate(_reachable(model)):
        if not issubclass(each, RootModel) and each not in elsewhere:
            heading = "" if number == 0 else f"**{_title(each)}** {_summary(each)}\n\n"
            parts.append(heading + _table(each))
    return "\n\n".join(parts)


def _reachable(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for each in found:  # grows while it is gone through
        for field in each.model_fields.values():
            found += [inner for inner in _models_in(field.annotation) if inner not in found]
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - any annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _title(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return f"`kind: {kind.default}`." if kind is not None and not kind.is_required() else f"{model.__name__}."


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(model: type[BaseModel]) -> str:
    rows = [
        (f"`{name}`", _shown(_value(field)), _default(field), _shown(field.description or ""))
        for name, field in model.model_fields.items()
        if name != "kind" or field.is_required()
    ]
    if not rows:
        return "It has no further keys."
    return _markdown(("key", "value", "default", "meaning"), rows)


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(text: str) -> str:
    return text.replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None or value in ({}, []):
        return "–"
    written = _written(field.metadata)
    if written is not None and written.unit:
        return f"`{value / written.scale:g} {written.unit}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _value(field: FieldInfo) -> str:
    """What a key takes: as its type says that it is written, or the type in words."""
    written = _written(field.metadata)
    return written.text if written is not None else _type(field.annotation)


def _written(metadata: Iterable[Any]) -> Written | None:
    return next((part for part in metadata if isinstance(part, Written)), None)


_TYPES: Final[dict[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "nothing",
    Any: "anything",
}


def _type(annotation: Any) -> str:  # noqa: ANN401
    """An annotation in words."""
    if annotation in _TYPES:
        return _TYPES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[0])} → {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _title(annotation).removesuffix(".")
    if hasattr(annotation, "__metadata__"):
        written = _written(annotation.__metadata__)
        return written.text if written is not None else _type(annotation.__origin__)
    return " or ".join(dict.fromkeys(_type(argument) for argument in arguments if argument is not type(None)))


def _levers_table(configuration: Configuration) -> str:
    rows = []
    for name, lever in configuration.levers.items():
        levels: dict[str, dict[EngineKind, Effect]] = dict(lever.levels)
        if lever.values is not None:
            levels[lever.level_names()[-1]] = lever.values.engines
        for level, effects in levels.items():
            effect = "; ".join(f"{kind}: {_effect(each)}" for kind, each in effects.items())
            rows.append((f"`{name}`", level, effect, f"{lever.indicator.metric}, {lever.indicator.load}"))
    return _markdown(("lever", "level", "what it sets", "expected to show in"), rows)


def _effect(effect: Effect) -> str:
    flags = [f"`{key}: {json.dumps(value)}`" for key, value in effect.flags.items()]
    flags += [f"`{key}={value}`" for key, value in effect.environment.items()]
    if effect.topology:
        flags += [f"topology `{json.dumps(effect.topology.model_dump(exclude_unset=True))}`"]
    engines = effect.engine if isinstance(effect.engine, dict) else {"": effect.engine}
    engine = ", ".join(f"{name} ({device})" if device else str(name) for device, name in engines.items() if name)
    instead = {
        "cache": effect.cache,
        "client": effect.client,
        "engine": engine,
        "model": effect.model,
        "GPUs": effect.gpus,
    }
    flags += [f"{what} `{value}`" for what, value in instead.items() if value]
    if isinstance(effect.workload, str):
        flags.append(f"workload `{effect.workload}`")
    else:
        flags += [f"workload `{key}: {json.dumps(value)}`" for key, value in effect.workload.items()]
    flags += [f"request `{key}: {json.dumps(value)}`" for key, value in effect.request.items()]
    return ", ".join(flags) or "the engine's default"


def generated(root: Path) -> dict[Path, str]:
    """Every generated file, relative to `root`, with the content that it should have. Raises SchemaError."""
    files = {
        SCHEMA_FOLDER / name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }
    content = tables(load(root, {"study": []}))
    text = (root / README).read_text(encoding="utf-8")
    places = {match["name"] for match in _MARKED.finditer(text)}
    if places != set(content):
        raise SchemaError(f"{README}: the marked places are {sorted(places)}, and the tables {sorted(content)}")
    files[README] = _MARKED.sub(lambda match: f"{match[1]}{content[match['name']]}\n{match[3]}", text)
    return files


def main() -> int:
    """Write what is generated; with `--check`, exit code 1 and the names of the files that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file has drifted")
    arguments = parser.parse_args()
    root = Path()
    drifted = []
    for file, content in generated(root).items():
        path = root / file
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            drifted.append(str(file))
            if not arguments.check:
                write_bytes(path, content.encode())
    if drifted and arguments.check:
        print(f"out of date: {', '.join(drifted)}: run `python -m leverlab.config.schema`", file=sys.stderr)
        return 1
    print(f"{'written' if drifted else 'up to date'}: {', '.join(drifted) or 'config/schema, config/README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
