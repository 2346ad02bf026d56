"""What a kernel is called: the first class of config/kernel_classes.yaml whose patterns are found in its name."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from leverlab.config.base import ConfigError, nearest, validated
from leverlab.config.files import read_mapping
from leverlab.config.profile import KERNEL_CLASSES, KernelClass

FILE: Final = "config/kernel_classes.yaml"
OTHER: Final = "other"


class KernelClasses:
    """The rules, in their order."""

    def __init__(self, rules: Iterable[tuple[str, KernelClass]]) -> None:
        self._rules = [(name, re.compile("|".join(rule.patterns), re.IGNORECASE)) for name, rule in rules]

    def of(self, kernel: str) -> str:
        """The class of the kernel called `kernel`."""
        return next((name for name, pattern in self._rules if pattern.search(kernel)), OTHER)

    def mapping(self, kernels: Iterable[str]) -> dict[str, str]:
        """Name → class, for each name once."""
        return {kernel: self.of(kernel) for kernel in set(kernels)}


def kernel_classes(root: Path = Path()) -> KernelClasses:
    """The rules of the repository at `root`. Raises ConfigError."""
    written = read_mapping(root / FILE, FILE)
    for name in written:
        if name not in KERNEL_CLASSES or name == OTHER:
            known = [known for known in KERNEL_CLASSES if known != OTHER]
            raise ConfigError(f"{FILE}: there is no class {name!r}{nearest(str(name), known)}")
    return KernelClasses((name, validated(KernelClass, entry, FILE, name)) for name, entry in written.items())
