"""What a kernel is called: the first class of config/kernel_classes.yaml whose patterns are found in its name."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from leverlab.config.kernel_classes import OTHER, kernel_class_rules


class KernelClasses:
    """The rules, in their order."""

    def __init__(self, rules: Iterable[tuple[str, Sequence[str]]]) -> None:
        self._rules = [(name, re.compile("|".join(patterns), re.IGNORECASE)) for name, patterns in rules]

    def of(self, kernel: str) -> str:
        """The class of the kernel called `kernel`."""
        return next((name for name, pattern in self._rules if pattern.search(kernel)), OTHER)

    def mapping(self, kernels: Iterable[str]) -> dict[str, str]:
        """Name → class, for each name once."""
        return {kernel: self.of(kernel) for kernel in set(kernels)}


def kernel_classes(root: Path = Path()) -> KernelClasses:
    """The rules of the repository at `root`. Raises ConfigError."""
    return KernelClasses(kernel_class_rules(root))
