"""How long the parts of a run of tests took: what is to be made shorter is seen in the log of every run."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

WORTH_TELLING_S: Final = 60.0
"""A run that took less says nothing."""
LONG_S: Final = 20.0
"""A module that takes longer is named."""


def told(took_s: Mapping[str, float]) -> list[str]:
    """A line for each folder of modules, longest first, with those of its modules that take long; of a short run none.

    `took_s` has seconds by a module's path. Modules that ran side by side are added up.
    """
    if sum(took_s.values()) < WORTH_TELLING_S:
        return []
    folders: dict[str, dict[str, float]] = {}
    for module, seconds in took_s.items():
        path = PurePosixPath(module)
        folders.setdefault(str(path.parent), {})[path.stem] = seconds
    lines = []
    for folder, modules in sorted(folders.items(), key=lambda entry: -sum(entry[1].values())):
        long = sorted((entry for entry in modules.items() if entry[1] >= LONG_S), key=lambda entry: -entry[1])
        named = ", ".join(f"{name} {seconds:.0f}" for name, seconds in long)
        lines.append(f"{sum(modules.values()):6.0f} s  {folder}{f': {named}' if named else ''}")
    return lines
