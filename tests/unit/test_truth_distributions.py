"""Distributions as they are written on the truth engine's command line."""

import random
import re
import statistics

import pytest
from scipy import stats

from leverlab.truth.distributions import constant, parse_distribution

DRAWS = 4000


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("uniform(0.01, 0.03)", stats.uniform(0.01, 0.02)),
        ("exponential(0.05)", stats.expon(scale=0.05)),
        ("lognormal(0.05, 0.3)", stats.lognorm(0.3, scale=0.05)),
        ("gamma(0.05, 4)", stats.gamma(4, scale=0.0125)),
    ],
)
def test_what_is_drawn_is_distributed_as_declared(text, declared):
    source = random.Random(text)
    values = [parse_distribution(text).draw(source) for _ in range(DRAWS)]
    assert stats.kstest(values, declared.cdf).pvalue > 0.001
    assert statistics.fmean(values) == pytest.approx(declared.mean(), rel=0.05)


@pytest.mark.parametrize("text", ["0.05", "constant(0.05)", "5e-2", " constant( 0.05 ) "])
def test_a_number_is_a_constant(text):
    written = parse_distribution(text)
    assert written.constant == written.public() == 0.05
    assert written.draw(random.Random(1)) == 0.05
    assert constant(0.05).public() == 0.05


def test_what_is_drawn_is_shown_as_it_was_written():
    written = parse_distribution("gamma(0.05,4)")
    assert (written.constant, written.public()) == (None, "gamma(0.05,4)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lognormal(0.05)", "lognormal takes 2 numbers: lognormal(median, sigma)"),
        ("lognormal(0, 0.3)", "median must be more than 0"),
        ("normal(1, 2)", "uniform(low, high)"),
        ("soon", "neither a number of seconds nor one of constant(value)"),
        ("nan", "neither a number"),
        ("-1", "value must be at least 0"),
        ("uniform(2, 1)", "low is above high"),
        ("gamma(1, 2", "neither a number"),
    ],
)
def test_what_may_not_be_written_is_said(text, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        parse_distribution(text)
    assert text in str(error.value)
