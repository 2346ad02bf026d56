"""Flags as words of a command line: one way for every engine."""

import json
from collections.abc import Mapping
from typing import Any


def flag_words(flags: Mapping[str, Any], *, negations: bool = True) -> list[str]:
    """The words of `flags`, in their order.

    true → `--x`; false → `--no-x`, and nothing where the engine's switches have no `negations` and are false unless given;
    a mapping → `--x` and its JSON; a list → `--x` and its items; else `--x` and the text.
    """
    words: list[str] = []
    for name, value in flags.items():
        words += flag_and_value(name, value, negations=negations)
    return words


def flag_and_value(name: str, value: Any, *, negations: bool = True) -> list[str]:  # noqa: ANN401 - any value that YAML can hold
    """The words of one flag."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else [f"--no-{name}"] if negations else []
    if isinstance(value, Mapping):
        return [f"--{name}", json.dumps(value, separators=(",", ":"), sort_keys=True)]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    # A value that begins with a dash would be read as another flag.
    return [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]
