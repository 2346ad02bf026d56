"""YAML files as people write them: `on` stays a word, a name given twice is an error, and so is anything but a mapping."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from leverlab.config.base import ConfigError

_LEFT_OUT = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")


# libyaml's where PyYAML was built with it, as its wheels are: the same values, ten times sooner.
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc, valid-type]
    """SafeLoader without YAML 1.1's dates and its booleans beyond true and false, with YAML 1.2's `1e-5` and unique keys."""

    shown = ""
    """What messages call the file."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag not in _LEFT_OUT]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise ConfigError(f"{loader.shown}: line {line}: a key must be a word, and is {key!r}")
        if key in seen:
            raise ConfigError(f"{loader.shown}: {key!r} stands twice, on line {seen[key]} and line {line}: rename one")
        seen[key] = line
    found: dict[Any, Any] = yaml.SafeLoader.construct_mapping(loader, node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def read_mapping(path: Path, shown: Path | str | None = None) -> dict[str, Any]:
    """The mapping in the YAML file `path`. Raises ConfigError when it is missing, broken, empty or no mapping.

    Messages call the file `shown` where that is given.
    """
    name = str(shown or path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: is not text in UTF-8") from None
    try:
        loader = _Loader(text)
        loader.shown = name
        data = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{name}: {line}not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{name}: must be a mapping of keys to values, and is {kind}")
    return data
