"""What a plain run leaves to other days: the seed from which samples are drawn, and how many of what takes minutes fit."""

import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SEED_VARIABLE: Final = "LEVERLAB_SAMPLE_SEED"


def seed() -> str:
    """What samples are drawn from: the variable, else the commit."""
    given = os.environ.get(SEED_VARIABLE)
    if given:
        return given
    here = Path(__file__).parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def drawn(durations_s: Mapping[str, float], drawn_from: str, left_s: float) -> list[str]:
    """Names in the order in which `drawn_from` shuffles them, as many as fit into `left_s`; one at least."""
    names = list(durations_s)
    random.Random(drawn_from).shuffle(names)
    chosen: list[str] = []
    for name in names:
        if durations_s[name] <= left_s or not chosen:
            chosen.append(name)
            left_s -= durations_s[name]
    return chosen
