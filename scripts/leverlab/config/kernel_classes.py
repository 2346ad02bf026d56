"""The rules by which kernels are called: config/kernel_classes.yaml, in its order."""

from pathlib import Path
from typing import Final

from leverlab.config.base import ConfigError, nearest, validated
from leverlab.config.files import read_mapping
from leverlab.config.profile import KERNEL_CLASSES, KernelClass

KERNEL_CLASSES_FILE: Final = "config/kernel_classes.yaml"
OTHER: Final = "other"
"""What no rule names."""


def kernel_class_rules(root: Path = Path()) -> list[tuple[str, list[str]]]:
    """(class, patterns) of the repository at `root`, in the order in which they are tried. Raises ConfigError."""
    written = read_mapping(root / KERNEL_CLASSES_FILE, KERNEL_CLASSES_FILE)
    for name in written:
        if name not in KERNEL_CLASSES or name == OTHER:
            known = [known for known in KERNEL_CLASSES if known != OTHER]
            raise ConfigError(f"{KERNEL_CLASSES_FILE}: there is no class {name!r}{nearest(str(name), known)}")
    return [
        (name, validated(KernelClass, entry, KERNEL_CLASSES_FILE, name).patterns) for name, entry in written.items()
    ]
