"""A second model that a flag names: `{draft}`, `{eagle}` and `{adapters}`, the served model's own draft model, EAGLE head and LoRA
adapters, and `{model:NAME}`, any model of models.yaml.

An identity holds `{model:NAME}` and beside it what identifies that model; the folder with its files, which differs from machine
to machine, takes its place when a server is started.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

OWN_MODELS: Final[Mapping[str, str]] = {"draft": "draft model", "eagle": "EAGLE head", "adapters": "LoRA adapters"}
"""Key of a model's entry in models.yaml, which stands in braces in a flag → what it names."""

_MODEL: Final = re.compile(r"\{model:([^{}]*)\}")


def own_models(value: Any) -> list[str]:  # noqa: ANN401 - any value that YAML can hold
    """Which of the served model's own models (keys of `OWN_MODELS`) `value`, or a value within it, asks for."""
    found: list[str] = []

    def look(text: str) -> str:
        found.extend(key for key in OWN_MODELS if f"{{{key}}}" in text)
        return text

    replaced(value, look)
    return list(dict.fromkeys(found))


def with_own(value: Any, key: str, name: str) -> Any:  # noqa: ANN401
    """`value` with the model `name` where it asks for the served model's own of `key`."""
    return replaced(value, lambda text: text.replace(f"{{{key}}}", f"{{model:{name}}}"))


def named_models(value: Any) -> list[str]:  # noqa: ANN401
    """Names of the models that `value` refers to, each once, in order."""
    names: list[str] = []

    def look(text: str) -> str:
        names.extend(_MODEL.findall(text))
        return text

    replaced(value, look)
    return list(dict.fromkeys(names))


def folders_in(value: Any, name: str) -> list[str]:  # noqa: ANN401
    """What `value` names within the folder of the model `name`: of `{model:NAME}/one` it is `one`."""
    found: list[str] = []
    within = re.compile(re.escape(f"{{model:{name}}}/") + r"([\w.-]+)")

    def look(text: str) -> str:
        found.extend(within.findall(text))
        return text

    replaced(value, look)
    return list(dict.fromkeys(found))


def with_folders(identity: Mapping[str, Any], folders: Mapping[str, str]) -> dict[str, Any]:
    """A server's `identity` as this machine starts it: its flags with the model's folder where they refer to a model.

    `folders`: model's name → folder, for every model that the flags refer to.
    """
    flags = replaced(identity["flags"], lambda text: _MODEL.sub(lambda found: folders[found[1]], text))
    return {**identity, "flags": flags}


def replaced(value: Any, replace: Callable[[str], str]) -> Any:  # noqa: ANN401
    """`value`, any that YAML can hold, with each text in it passed through `replace`."""
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, Mapping):
        return {key: replaced(item, replace) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item, replace) for item in value]
    return value
