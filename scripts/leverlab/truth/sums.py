"""Answers whose worth is declared: the last sum in a prompt, solved with a probability."""

import random
import re
from typing import Final

_SUM: Final = re.compile(r"(\d{1,9}) \+ (\d{1,9})")


def solved(prompt: str, probability: float, seed: int) -> str | None:
    """The answer to the last sum of `prompt`, in GSM8K's form (`#### 7`); None where it holds none.

    Whether it is right is drawn from `seed` and the sum: the same sum gets the same answer, and who solves more sums solves
    all that another with a smaller probability does.
    """
    sums = _SUM.findall(prompt)
    if not sums:
        return None
    one, other = map(int, sums[-1])
    draw = random.Random(f"{seed} {one} + {other}")
    right = draw.random() < probability
    value = one + other + (0 if right else draw.randint(1, 9))
    return f" It is {value}.\n#### {value}"
