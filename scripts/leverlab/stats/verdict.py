"""The verdict on a change, from the interval it rests on."""

from dataclasses import dataclass
from typing import Final, Literal

from leverlab.metrics import Better
from leverlab.stats.intervals import Interval
from leverlab.stats.paired import NO_CHANGE, PairedChange

Verdict = Literal["improves", "worsens", "no difference found", "not judgeable", "invalid"]

LEAST_PAIRS: Final = 3
"""Pairs of replicates from which on a verdict is given. Two have an interval, with a factor t of 12.7, and too little to see by that they
agree by chance."""

TOO_FEW: Final = "a verdict needs three"
"""What is said of fewer than `LEAST_PAIRS`."""

_FEW: Final = ("no pair of replicates", "one pair of replicates", "two pairs of replicates")
_NEITHER: Final = "neither direction of this metric is better"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and, where it is not plain from the interval, why."""

    verdict: Verdict
    reason: str = ""


def judge(change: PairedChange, interval: Interval | None, better: Better, *, fixed: bool = False) -> Judgement:
    """The verdict on `change`, resting on `interval` (at whatever level the family asks for).

    An interval that leaves out "no change" improves or worsens by the metric's direction, one that holds it finds no
    difference. Fewer than `LEAST_PAIRS` pairs give no verdict, whatever is measured. Without an interval there is nothing to judge
    from: pairs that all changed by exactly the same, where "no spread" is not "no error". The exception is a metric that every pair left exactly as it
    was: there no difference was found; and a fact that the configuration decides (`fixed`), of which the same change in each pair is
    the change. A metric of which neither direction is better is never called improved.
    """
    pairs, none = len(change.changes), NO_CHANGE[change.comparison]
    if pairs < LEAST_PAIRS:
        return Judgement("not judgeable", f"{_FEW[pairs]}: {TOO_FEW}{', an interval two' * (pairs < 2)}")
    if interval is None:
        if not any(change.changes):
            return Judgement("no difference found", f"the same in each of {pairs} pairs, to the last digit")
        if fixed:
            told = f"the same change in each of {pairs} pairs: a fact of the server's start that does not vary, so that it has no interval"
            if better == "neither":
                return Judgement("not judgeable", f"{told}; {_NEITHER}")
            return _moved(change.changes[0] > 0, better, told)
        return Judgement(
            "not judgeable", f"all {pairs} pairs changed by exactly the same: no spread to build an interval on"
        )
    if none in interval:
        return Judgement("no difference found")
    if better == "neither":
        return Judgement("not judgeable", f"it changed, and {_NEITHER}")
    return _moved(interval.low > none, better)


def _moved(rises: bool, better: Better, reason: str = "") -> Judgement:
    return Judgement("improves" if rises == (better == "higher") else "worsens", reason)
