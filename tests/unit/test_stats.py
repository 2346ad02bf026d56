"""Statistics against values from textbooks and tables, and against properties that any of them must have."""

import math
import statistics
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leverlab.stats.intervals import Interval, mean_interval, percentile_interval, prediction_interval, spread
from leverlab.stats.multiple import ALPHA, bonferroni_level, holm, holm_levels
from leverlab.stats.paired import PairedChange, paired_change
from leverlab.stats.power import minimum_detectable
from leverlab.stats.verdict import judge

# Student (1908): additional hours of sleep of ten patients with two soporifics.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

values = st.lists(st.floats(0.01, 100), min_size=2, max_size=8)


def test_paired_difference_is_students_own_example() -> None:
    change = paired_change(SLEEP_1, SLEEP_2, "difference")
    interval = change.interval()
    assert interval is not None
    assert change.estimate == pytest.approx(1.58)
    assert (interval.low, interval.high) == pytest.approx((0.7001142, 2.4598858))  # as R's t.test prints it
    assert change.p_value == pytest.approx(0.002832890, rel=1e-6)


def test_ratio_is_made_on_logarithms() -> None:
    change = paired_change([1.0, 2.0, 4.0], [2.0, 2.0, 16.0], "ratio")
    assert change.estimate == pytest.approx(2.0)
    expected = stats.ttest_1samp(change.changes, 0).confidence_interval(0.95)
    interval = change.interval()
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_ratio_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        paired_change([0.0, 1.0], [1.0, 1.0], "ratio")


@given(values, st.floats(0.1, 10))
def test_swapping_the_sides_inverts_the_change(sample: list[float], factor: float) -> None:
    other = [value * factor * (1.1 if place % 2 else 1.0) for place, value in enumerate(sample)]
    there, back = paired_change(sample, other, "ratio"), paired_change(other, sample, "ratio")
    assert there.estimate is not None and back.estimate is not None
    assert there.estimate * back.estimate == pytest.approx(1.0)
    assert there.p_value == pytest.approx(back.p_value)
    forward, reverse = there.interval(), back.interval()
    assert forward is not None and reverse is not None
    assert forward.low * reverse.high == pytest.approx(1.0)


@given(values)
def test_interval_holds_no_change_exactly_when_p_is_above_its_level(sample: list[float]) -> None:
    change = PairedChange("difference", tuple(value - 20 for value in sample))
    interval, p_value = change.interval(), change.p_value
    assert (interval is None) == (p_value is None)
    if interval is not None and p_value is not None and abs(p_value - ALPHA) > 1e-9:
        assert (0.0 in interval) == (p_value > ALPHA)


@given(values, st.sampled_from([0.95, 0.975]))
def test_skew_away_from_no_change_moves_the_far_end_alone(sample: list[float], level: float) -> None:
    changes = tuple(value - 20 for value in sample)
    plain, skewed = PairedChange("difference", changes), PairedChange("difference", changes, "away")
    before, after = plain.interval(level), skewed.interval(level)
    if before is None:
        assert after is None
        return
    assert after is not None and plain.estimate is not None
    assert (skewed.p_value, skewed.test_level(0.05), after.level) == (plain.p_value, 0.05, level)
    stretched = (before.high - plain.estimate) * (1 + 2 / math.sqrt(len(sample)))
    if plain.estimate < 0:
        assert (after.low, after.high) == (pytest.approx(plain.estimate - stretched), before.high)
    elif plain.estimate > 0:
        assert (after.low, after.high) == (before.low, pytest.approx(plain.estimate + stretched))
    assert (0 in after) == (0 in before), "the verdict stays what Student's test says"


def test_the_spread_of_a_change_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[float]] = []

    def counted(values: Sequence[float]) -> float | None:
        asked.append(values)
        return spread(values)

    for module in ("paired", "intervals"):
        monkeypatch.setattr(sys.modules[f"leverlab.stats.{module}"], "spread", counted)
    change = PairedChange("difference", (1.0, 2.0, 4.0))
    told = change.interval(), change.interval(0.99), change.prediction(), change.p_value, change.spread
    assert None not in told and len(asked) == 1


@given(values)
def test_skew_on_an_unknown_side_moves_both_ends_and_the_test_with_them(sample: list[float]) -> None:
    change = PairedChange("difference", tuple(value - 20 for value in sample), "either way")
    plain = mean_interval(change.changes)
    interval = change.interval()
    if interval is None or plain is None:
        assert change.p_value is None
        return
    assert interval.high - interval.low == pytest.approx((plain.high - plain.low) * (1 + 2 / math.sqrt(len(sample))))
    assert change.p_value is not None
    assert (0 in interval) == (change.p_value > 0.05)
    student = PairedChange("difference", change.changes).p_value
    assert student is not None
    assert (student > change.test_level(0.05)) == (0 in interval)


@given(values, st.floats(0.1, 10))
def test_swapping_the_sides_inverts_a_skewed_change(sample: list[float], factor: float) -> None:
    other = [value * factor * (1 + 0.1 * place) for place, value in enumerate(sample)]
    there, back = (paired_change(*sides, "ratio", "away").interval() for sides in ((sample, other), (other, sample)))
    if there is not None and back is not None:
        assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low))


def test_prediction_interval_of_three_values() -> None:
    # mean 10, s = 1, t(0.975; 2) = 4.302653, √(1 + 1/3) = 1.154701
    interval = prediction_interval([9.0, 10.0, 11.0], log=False)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((10 - 4.968275, 10 + 4.968275), abs=1e-5)
    logarithmic = prediction_interval([1.0, 10.0, 100.0], log=True)
    assert logarithmic is not None
    assert logarithmic.low * logarithmic.high == pytest.approx(100.0)
    assert prediction_interval([1.0], log=False) is None
    assert prediction_interval([0.0, 1.0], log=True) is None


@given(values)
def test_prediction_interval_is_wider_than_the_means(sample: list[float]) -> None:
    mean, further = mean_interval(sample), prediction_interval(sample, log=False)
    assert (mean is None) == (further is None)
    if mean is not None and further is not None:
        assert further.low < mean.low <= statistics.fmean(sample) <= mean.high < further.high


@pytest.mark.parametrize("sample", [[0.3, 0.3, 0.3], [1e9, 1e9], [0.1 + 0.2, 0.3, 0.3], [5.0]])
def test_no_spread_gives_no_interval(sample: list[float]) -> None:
    assert spread(sample) is None
    assert mean_interval(sample) is None
    assert prediction_interval(sample, log=False) is None


def test_percentile_interval_from_tables() -> None:
    # Hahn and Meeker: for n = 100 the 40th and 61st values bound the median with at least 95 %.
    assert percentile_interval(range(1, 101), 0.5) == Interval(40, 61, 0.95)
    assert percentile_interval(range(1, 101), 0.99) is None, "one in a hundred cannot bound a p99 from above"
    assert percentile_interval([], 0.5) is None


@given(st.integers(6, 400), st.sampled_from([0.25, 0.5, 0.9, 0.95]))
def test_percentile_interval_covers_by_the_binomial(count: int, share: float) -> None:
    interval = percentile_interval(range(1, count + 1), share)
    if interval is not None:
        below = stats.binom(count, share)
        covered = below.cdf(interval.high - 1) - below.cdf(interval.low - 1)
        assert covered >= 0.95
        inner = below.cdf(interval.high - 2) - below.cdf(interval.low)
        assert inner < 0.95, "a shorter interval on both sides would have done"


def test_holm_on_his_method() -> None:
    # As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_properties(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, value in enumerate(adjusted):
        assert p_values[place] <= value <= min(1.0, len(p_values) * p_values[place])
    assert [adjusted[place] for place in order] == sorted(adjusted)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_level_of_each_interval_agrees_with_holms_decision(p_values: list[float]) -> None:
    for p_value, adjusted, level in zip(p_values, holm(p_values), holm_levels(p_values), strict=True):
        assert level + 1e-12 >= 0.95 and level <= bonferroni_level(len(p_values)) + 1e-12
        if abs(adjusted - ALPHA) > 1e-9:
            assert (p_value <= 1 - level) == (adjusted <= ALPHA)


def test_minimum_detectable_is_gpowers() -> None:
    # G*Power 3.1, matched pairs, α 0.05 two-sided: dz = 0.5 needs 34 pairs for a power of 0.8078; dz = 1 needs 10 (0.8031).
    at_34, at_10 = minimum_detectable(1.0, 34, "difference"), minimum_detectable(1.0, 10, "difference")
    assert at_34 is not None and at_10 is not None
    assert minimum_detectable(1.0, 34, "difference", power=0.8077775) == pytest.approx(0.5, abs=1e-3)
    assert at_34 < 0.5 and minimum_detectable(1.0, 33, "difference") > 0.5  # type: ignore[operator]
    assert at_10 < 1.0 and minimum_detectable(1.0, 9, "difference") > 1.0  # type: ignore[operator]


def test_minimum_detectable_of_few_replicates() -> None:
    assert minimum_detectable(None, 3, "ratio") is None
    assert minimum_detectable(0.1, 1, "ratio") is None
    assert minimum_detectable(2.0, 2, "ratio") is None, "a factor of e²³ is no statement"
    factor, difference = minimum_detectable(0.02, 3, "ratio"), minimum_detectable(0.02, 3, "difference")
    assert factor is not None and difference is not None
    assert factor == pytest.approx(math.exp(difference))
    smaller = minimum_detectable(0.02, 5, "ratio")
    assert smaller is not None and smaller < factor


@pytest.mark.parametrize(
    ("changes", "better", "verdict"),
    [
        ((0.50, 0.51, 0.49), "higher", "improves"),
        ((0.50, 0.51, 0.49), "lower", "worsens"),
        ((-0.50, -0.51, -0.49), "lower", "improves"),
        ((-0.50, -0.51, -0.49), "higher", "worsens"),
        ((0.50, -0.51, 0.02), "lower", "no difference found"),
        ((0.50, 0.51, 0.49), "neither", "not judgeable"),
        ((0.50, 0.50001), "lower", "not judgeable"),
        ((-0.50, -0.50001), "lower", "not judgeable"),
        ((0.50, -0.51), "lower", "not judgeable"),
        ((0.0, 0.0), "lower", "not judgeable"),
        ((0.50,), "lower", "not judgeable"),
        ((), "lower", "not judgeable"),
        ((0.0, 0.0, 0.0), "lower", "no difference found"),
        ((0.25, 0.25, 0.25), "lower", "not judgeable"),
    ],
)
@pytest.mark.parametrize("comparison", ["ratio", "difference"])
def test_verdicts(changes: tuple[float, ...], better: str, verdict: str, comparison: str) -> None:
    change = PairedChange(comparison, changes)  # type: ignore[arg-type]
    judgement = judge(change, change.interval(), better)  # type: ignore[arg-type]
    assert judgement.verdict == verdict
    assert bool(judgement.reason) == (change.interval() is None or better == "neither" or len(changes) < 3)
    if len(changes) == 2:
        assert judgement.reason == "two pairs of replicates: a verdict needs three"


@pytest.mark.parametrize(
    ("changes", "better", "verdict"),
    [
        ((0.25, 0.25, 0.25), "higher", "improves"),
        ((0.25, 0.25, 0.25), "lower", "worsens"),
        ((0.25, 0.25), "lower", "not judgeable"),
        ((-0.25, -0.25, -0.25), "lower", "improves"),
        ((0.25, 0.25, 0.25), "neither", "not judgeable"),
        ((0.25,), "higher", "not judgeable"),
        ((0.0, 0.0, 0.0), "higher", "no difference found"),
        ((0.50, 0.51, 0.49), "higher", "improves"),
    ],
)
def test_a_fact_that_changes_by_the_same_in_each_pair_is_a_difference(
    changes: tuple[float, ...], better: str, verdict: str
) -> None:
    """What a configuration decides, such as the tokens that fit, needs no interval; where it does vary, it has one as all."""
    change = PairedChange("ratio", changes)
    judgement = judge(change, change.interval(), better, fixed=True)  # type: ignore[arg-type]
    assert judgement.verdict == verdict
    assert ("does not vary" in judgement.reason) == (len(changes) > 2 and changes[0] == changes[1] != 0)
