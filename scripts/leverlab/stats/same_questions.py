"""Two servers on the same questions: the change of their mean mark, question by question."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from scipy import stats

from leverlab.stats.intervals import LEVEL, mean_interval
from leverlab.stats.multiple import ALPHA

Method = Literal["McNemar", "paired t"]
AccuracyVerdict = Literal["improves", "worsens", "no difference found"]

_RIGHT_OR_WRONG: Final = {0.0, 1.0}


@dataclass(frozen=True, slots=True)
class QuestionChange:
    """The change of the mean mark from one server to another over the same `pairs` questions, with its 95 % interval.

    `gained` questions are marked higher by the second server, `lost` ones lower. `p_value` is two-sided, of `method`.
    """

    pairs: int
    gained: int
    lost: int
    difference: float
    low: float | None
    high: float | None
    p_value: float
    method: Method


def question_change(baseline: Sequence[float], treatment: Sequence[float]) -> QuestionChange | None:
    """The change from `baseline` to `treatment`, whose marks at one place are of one question; None without a question.

    Right or wrong: McNemar's exact test (McNemar 1947, Psychometrika 12), which asks whether as many questions were gained as
    lost, and the interval of Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10. Other marks: Student's paired t.
    Raises ValueError for lengths that differ.
    """
    pairs = list(zip(baseline, treatment, strict=True))
    if not pairs:
        return None
    gained = sum(after > before for before, after in pairs)
    lost = sum(after < before for before, after in pairs)
    difference = math.fsum(after - before for before, after in pairs) / len(pairs)
    if {*baseline, *treatment} <= _RIGHT_OR_WRONG:
        low, high = _newcombe(
            both=sum(before == after == 1.0 for before, after in pairs), gained=gained, lost=lost, pairs=len(pairs)
        )
        p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        return QuestionChange(len(pairs), gained, lost, difference, low, high, p_value, "McNemar")
    changes = [after - before for before, after in pairs]
    interval = mean_interval(changes)
    test = stats.ttest_1samp(changes, 0.0) if interval else None
    return QuestionChange(
        len(pairs),
        gained,
        lost,
        difference,
        interval.low if interval else None,
        interval.high if interval else None,
        float(test.pvalue) if test else 1.0,
        "paired t",
    )


def accuracy_verdict(change: QuestionChange, adjusted_p: float, *, higher_is_better: bool) -> AccuracyVerdict:
    """The verdict on a change, from a p value corrected for the number of comparisons."""
    if adjusted_p > ALPHA or change.difference == 0:
        return "no difference found"
    return "improves" if (change.difference > 0) == higher_is_better else "worsens"


def _newcombe(both: int, gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """Wilson's intervals of the two shares, squared and added, less what the two have in common (correlation phi)."""
    neither = pairs - both - gained - lost
    before, after = both + lost, both + gained
    one, other = _wilson(before, pairs), _wilson(after, pairs)
    first, second = before / pairs, after / pairs
    margins = before * (pairs - before) * after * (pairs - after)
    product = float(both * neither - gained * lost)
    if product > 0:
        product = max(product - pairs / 2, 0.0)
    phi = product / math.sqrt(margins) if margins else 0.0
    down = _rest(second - other[0], one[1] - first, phi)
    up = _rest(other[1] - second, first - one[0], phi)
    return second - first - down, second - first + up


def _rest(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))


def _wilson(count: int, total: int) -> tuple[float, float]:
    found = stats.binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)
