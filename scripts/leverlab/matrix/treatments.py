"""Treatments: one level chosen for every lever of a study."""

import itertools
from dataclasses import dataclass, replace
from typing import Final

from leverlab.config.study import Explicit, Factorial, Study

BASELINE: Final = "baseline"
"""The name of the treatment that every other is compared with."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """`levels` holds (lever, level) for every lever of the study; `changed` those that differ from the baseline.

    `copy` 1 is the baseline once more: the same server and seeds in a lifetime of its own, to be compared with the first.
    """

    levels: tuple[tuple[str, str], ...]
    changed: tuple[tuple[str, str], ...]
    copy: int = 0

    @property
    def is_baseline(self) -> bool:
        return not self.changed and not self.copy

    @property
    def name(self) -> str:
        """`baseline`, or what differs from it: `prefix_caching=off`, `prefix_caching=off, max_num_seqs=4`."""
        if self.copy:
            return "baseline again"
        return ", ".join(f"{lever}={level}" for lever, level in self.changed) or BASELINE


def treatments(study: Study) -> list[Treatment]:
    """The study's treatments, baseline first, each once, in the order of the study's levers and levels.

    Where the study asks for its noise floor the baseline's copy is the last of them.
    """
    baseline = study.baseline
    choices: list[dict[str, str]] = [dict(baseline)]
    design = study.design
    if design == "one-at-a-time":
        choices += [{**baseline, lever: level} for lever, levels in study.levers.items() for level in levels]
    elif isinstance(design, Explicit):
        choices += [{**baseline, **chosen} for chosen in design.list]
    else:
        names = design.factorial if isinstance(design, Factorial) else list(study.levers)
        for levels in itertools.product(*(study.levers[name] for name in names)):
            choices.append({**baseline, **dict(zip(names, levels, strict=True))})
    unique = dict.fromkeys(tuple((lever, choice[lever]) for lever in study.levers) for choice in choices)
    found = [Treatment(levels, tuple(pair for pair in levels if baseline[pair[0]] != pair[1])) for levels in unique]
    return [*found, replace(found[0], copy=1)] if study.noise_floor else found
