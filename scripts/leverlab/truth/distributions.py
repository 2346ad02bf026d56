"""Times that are drawn, as they are written on the command line: `lognormal(0.05, 0.3)`, or a plain number of seconds."""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WRITTEN: Final = re.compile(r"\s*([a-z]+)\s*\(([^()]*)\)\s*")


@dataclass(frozen=True, slots=True)
class _Form:
    """A family of distributions: what its parameters are called, in order, and how one value is drawn."""

    parameters: tuple[str, ...]
    draw: Callable[..., float]
    may_be_zero: bool = False


_FORMS: Final = {
    "constant": _Form(("value",), lambda _, value: value, may_be_zero=True),
    "uniform": _Form(("low", "high"), lambda source, low, high: source.uniform(low, high), may_be_zero=True),
    "exponential": _Form(("mean",), lambda source, mean: source.expovariate(1 / mean)),
    # Of the normal distribution's two parameters the mean of the logarithm is written as what it is in seconds: the median.
    "lognormal": _Form(
        ("median", "sigma"), lambda source, median, sigma: source.lognormvariate(math.log(median), sigma)
    ),
    "gamma": _Form(("mean", "shape"), lambda source, mean, shape: source.gammavariate(shape, mean / shape)),
}

FORMS_TEXT: Final = ", ".join(f"{name}({', '.join(form.parameters)})" for name, form in _FORMS.items())
"""Every form with its parameters, for messages and help."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of non-negative seconds. `text` is how it was written."""

    text: str
    form: str
    parameters: tuple[float, ...]

    @property
    def constant(self) -> float | None:
        """The value of a constant; None where something is drawn."""
        return self.parameters[0] if self.form == "constant" else None

    def draw(self, source: random.Random) -> float:
        """One value, in seconds."""
        return _FORMS[self.form].draw(source, *self.parameters)

    def public(self) -> float | str:
        """What a configuration shows: a number for a constant, else the text as it was written."""
        return self.text if self.constant is None else self.constant


def constant(value: float) -> Distribution:
    """Always `value` seconds."""
    return Distribution(str(value), "constant", (value,))


def parse_distribution(text: str) -> Distribution:
    """The distribution that `text` writes. Raises ValueError, with what may be written, for anything else."""
    written = _WRITTEN.fullmatch(text)
    if written is None:
        form, words = "constant", [text]
    else:
        form, words = written[1], written[2].split(",")
    words = [word.strip() for word in words]
    if form not in _FORMS or not all(_NUMBER.fullmatch(word) for word in words):
        raise ValueError(f"{text!r} is neither a number of seconds nor one of {FORMS_TEXT}")
    names, values = _FORMS[form].parameters, tuple(map(float, words))
    if len(values) != len(names):
        raise ValueError(f"{text!r}: {form} takes {len(names)} numbers: {form}({', '.join(names)})")
    for name, value in zip(names, values, strict=True):
        if value < 0 or (value == 0 and not _FORMS[form].may_be_zero):
            least = "at least 0" if _FORMS[form].may_be_zero else "more than 0"
            raise ValueError(f"{text!r}: {name} must be {least}")
    if form == "uniform" and values[0] > values[1]:
        raise ValueError(f"{text!r}: low is above high")
    return Distribution(text, form, values)
