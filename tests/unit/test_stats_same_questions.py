"""Changes on the same questions: McNemar's test, Newcombe's interval, Student's t for marks in between."""

import numpy as np
import pytest
from scipy import stats

from leverlab.stats.same_questions import accuracy_verdict, question_change


def marks(both: int, lost: int, gained: int, neither: int) -> tuple[list[float], list[float]]:
    baseline = [1.0] * (both + lost) + [0.0] * (gained + neither)
    treatment = [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither
    return baseline, treatment


def test_mcnemar_is_the_sign_test_of_the_questions_that_changed() -> None:
    change = question_change(*marks(both=100, lost=12, gained=3, neither=85))
    assert (change.pairs, change.lost, change.gained) == (200, 12, 3)
    assert change.difference == pytest.approx(-9 / 200)
    assert change.p_value == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5))
    assert change.method == "McNemar"
    assert change.low < change.difference < change.high


def test_swapped_sides_give_the_mirrored_change() -> None:
    baseline, treatment = marks(both=30, lost=9, gained=2, neither=9)
    one, other = question_change(baseline, treatment), question_change(treatment, baseline)
    assert one.difference == -other.difference
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == other.p_value
    assert (one.gained, one.lost) == (other.lost, other.gained)


def test_no_change_and_no_question() -> None:
    same = question_change([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert same.low < 0 < same.high
    assert question_change([], []) is None
    with pytest.raises(ValueError):
        question_change([1.0], [])


def test_pairing_makes_the_interval_of_alike_servers_narrower() -> None:
    alike = question_change(*marks(both=70, lost=3, gained=3, neither=24))
    unlike = question_change(*marks(both=53, lost=20, gained=20, neither=7))
    assert alike.high - alike.low < (unlike.high - unlike.low) / 2


@pytest.mark.parametrize(("shift", "tie"), [(0.0, 0.9), (-0.08, 0.8)])
def test_the_interval_holds_the_true_change_as_often_as_it_says(shift: float, tie: float) -> None:
    draw = np.random.default_rng(5)
    held, tried = 0, 300
    for _ in range(tried):
        baseline = draw.random(150) < 0.7
        other = draw.random(150) < 0.7 + shift / (1 - tie)
        treatment = np.where(draw.random(150) < tie, baseline, other)
        change = question_change(baseline.astype(float).tolist(), treatment.astype(float).tolist())
        held += change.low <= shift <= change.high
    assert held >= stats.binom.ppf(1e-4, tried, 0.93)


def test_marks_in_between_are_compared_by_students_t() -> None:
    baseline, treatment = [0.2, 0.5, 0.9, 0.4], [0.4, 0.6, 0.9, 0.7]
    change = question_change(baseline, treatment)
    assert change.method == "paired t"
    assert change.p_value == pytest.approx(stats.ttest_rel(treatment, baseline).pvalue)
    assert question_change([0.5, 0.5], [0.7, 0.7]).low is None, "no spread, no interval"


def test_verdicts_follow_the_corrected_p_and_which_way_is_better() -> None:
    worse = question_change(*marks(both=100, lost=12, gained=3, neither=85))
    assert accuracy_verdict(worse, 0.03, higher_is_better=True) == "worsens"
    assert accuracy_verdict(worse, 0.03, higher_is_better=False) == "improves"
    assert accuracy_verdict(worse, 0.06, higher_is_better=True) == "no difference found"
