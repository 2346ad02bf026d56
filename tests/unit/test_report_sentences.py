"""A report's sentences: each says the direction, the size with its interval, and changes when the sides are swapped."""

from dataclasses import replace

import pytest

from leverlab.config.lever import Effect as LevelEffect
from leverlab.config.lever import Indicator, Lever, LeverExpectation
from leverlab.report import in_short as short
from leverlab.report import index
from leverlab.report.effect import Effect
from leverlab.report.sentences import (
    Telling,
    expectation_sentence,
    level_phrase,
    limit_kind,
    limit_sentence,
    row_sentence,
    spread_sentence,
    verdict_sentence,
)
from tests.unit.told_effects import LIMIT, OFF, TELLING, unmarked

SIMULATED = replace(TELLING, simulated=True)


CACHING = Lever(
    title="Prefix caching",
    mechanism="keeps blocks",
    indicator=Indicator(metric="ttft_s p50", load="lowest rate"),
    expectation=LeverExpectation(
        direction="decreases", of="on", against="off", because="The shared part is not computed again."
    ),
    levels={"on": {"vllm": LevelEffect()}, "off": {"vllm": LevelEffect()}},
)


def headline(effects: list[Effect], telling: Telling) -> str:
    return short.headline(effects, telling, unmarked)


def swapped(effect: Effect) -> Effect:
    """The same pairs of cells, with baseline and treatment exchanged."""
    assert effect.estimate and effect.low and effect.high
    return replace(
        effect,
        changed={lever: (base, level) for lever, (level, base) in effect.changed.items()},
        baseline=effect.value,
        value=effect.baseline,
        estimate=1 / effect.estimate,
        low=1 / effect.high,
        high=1 / effect.low,
        alone=effect.alone and (1 / effect.alone[1], 1 / effect.alone[0]),
        verdict={"worsens": "improves", "improves": "worsens"}.get(effect.verdict, effect.verdict),
    )


def told(effect: Effect, telling: Telling = TELLING) -> list[str]:
    """Every sentence that a report makes of one effect."""
    return [
        verdict_sentence(effect, telling),
        headline([effect], telling),
        expectation_sentence(effect, CACHING, telling)[1],
        limit_sentence([effect], telling, " on one machine"),
        row_sentence(effect),
        index.verdict_line([effect], telling, unmarked),
    ]


def test_a_large_effect_is_told_as_a_factor_with_values_and_replicates() -> None:
    assert verdict_sentence(OFF, TELLING) == (
        "Prefix caching off instead of on raises the median time to first token at 1 request/s by a factor of 5.00 "
        "(97.5 % interval 4.00 to 6.25): from 62 ms to 310 ms, in 3 replicates. That is worse."
    )


def test_seen_from_the_other_side_the_same_factor_is_a_reduction() -> None:
    assert verdict_sentence(swapped(OFF), TELLING) == (
        "Prefix caching on instead of off lowers the median time to first token at 1 request/s by a factor of 5.00 "
        "(97.5 % interval 4.00 to 6.25): from 310 ms to 62 ms, in 3 replicates. That is better."
    )


def test_a_small_effect_is_told_in_percent() -> None:
    sentence = verdict_sentence(LIMIT, TELLING)
    assert "lowers the output tokens per second in a burst by 12 % (97.5 % interval 9 % to 15 %)" in sentence
    assert sentence.endswith("That is worse.")


@pytest.mark.parametrize("verdict", ["worsens", "no difference found", "not judgeable"])
@pytest.mark.parametrize("effect", [OFF, LIMIT], ids=["caching", "limit"])
def test_swapping_baseline_and_treatment_changes_every_sentence(effect: Effect, verdict: str) -> None:
    effect = replace(effect, verdict=verdict)
    pairs = list(zip(told(effect), told(swapped(effect)), strict=True))
    assert all(before != after for before, after in pairs), pairs


def test_no_difference_says_what_would_have_been_seen() -> None:
    effect = replace(
        OFF, estimate=1.02, low=0.95, high=1.1, value=0.063, verdict="no difference found", minimum_detectable=1.09
    )
    sentence = verdict_sentence(effect, TELLING)
    assert "no difference found" in sentence
    assert "a ratio of 1.02 (97.5 % interval 0.95 to 1.10)" in sentence
    assert "A change by 9 % or more would have been seen in four of five such studies." in sentence


def test_a_difference_that_the_correction_takes_away_is_told() -> None:
    effect = replace(OFF, estimate=1.2, low=0.98, high=1.47, alone=(1.01, 1.4), verdict="no difference found")
    assert "a ratio of 1.20 (97.5 % interval 0.98 to 1.47)" in verdict_sentence(effect, TELLING)
    assert "corrected for 2 primary comparisons it does not" in verdict_sentence(effect, TELLING)


@pytest.mark.parametrize(
    ("level", "told"),
    [(0.95, "95 %"), (0.975, "97.5 %"), (1 - 0.05 / 3, "98.3 %"), (1 - 0.05 / 600, "99.9917 %"), (None, "95 %")],
)
def test_the_interval_is_called_by_its_level(level: float | None, told: str) -> None:
    assert level_phrase(replace(OFF, level=level)) == f"{told} interval"


def test_one_replicate_is_not_judgeable() -> None:
    effect = replace(
        OFF, low=None, high=None, level=None, alone=None, pairs=1, verdict="not judgeable", minimum_detectable=None
    )
    assert "not judgeable" in verdict_sentence(effect, TELLING)
    assert "in 1 replicate." in verdict_sentence(effect, TELLING)
    assert "any two runs" in limit_sentence([effect], TELLING, " on one machine")
    assert row_sentence(effect) == "×5.00"


def test_without_a_pair_there_is_no_number() -> None:
    effect = replace(
        OFF,
        baseline=None,
        value=None,
        estimate=None,
        low=None,
        high=None,
        pairs=0,
        verdict="not judgeable",
        reason="the server died",
    )
    assert verdict_sentence(effect, TELLING).endswith("is not judgeable. The server died.")
    assert row_sentence(effect) == "–"


def test_a_ratio_that_can_be_zero_is_told_as_a_difference_in_points() -> None:
    effect = replace(
        OFF, metric="cache_hit_ratio", statistic=None, baseline=0.87, value=0.0, estimate=-0.87, low=-0.9, high=-0.84
    )
    assert "lowers the prefix-cache hit ratio at 1 request/s by 87 points" in verdict_sentence(effect, TELLING)
    assert row_sentence(effect) == "−87 points (−90 to −84)"


def test_what_replicates_cannot_say_is_one_sentence_for_the_levels_of_a_lever() -> None:
    half = replace(
        OFF, changed={"prefix_caching": ("half", "on")}, treatment="prefix_caching=half", minimum_detectable=1.1
    )
    kinds = [limit_kind(effect) for effect in (OFF, half, LIMIT, replace(half, pairs=1))]
    assert kinds[0] == kinds[1] and len(set(kinds)) == 3
    assert limit_sentence([OFF, half], TELLING, " on one machine") == (
        "Prefix caching off and half instead of on: with 3 replicates on one machine, a change by less than 25 % at off or 10 % at half "
        "in the median time to first token at 1 request/s could easily have gone unseen."
    )
    alike = replace(half, minimum_detectable=OFF.minimum_detectable)
    assert " a change by less than 25 % in the median " in limit_sentence([OFF, alike], TELLING, " on one machine")
    few = [replace(effect, pairs=1) for effect in (OFF, half)]
    assert limit_sentence(few, TELLING, " on one machine").startswith(
        "Prefix caching off and half instead of on: with 1 replicate nothing"
    )
    spread = spread_sentence("ttft_s", [0.061, 0.063], {"off": [0.3, 0.32], "half": [0.1, 0.2], "none": [0.1]})
    assert spread == (
        " The replicates themselves gave 61 ms to 63 ms at the baseline, 300 ms to 320 ms at off and 100 ms to 200 ms at half."
    )


@pytest.mark.parametrize(
    ("effect", "outcome"),
    [
        (swapped(OFF), "confirmed"),
        (OFF, "confirmed"),
        (replace(OFF, estimate=0.5, low=0.4, high=0.6, verdict="improves"), "contradicted"),
        (replace(OFF, verdict="no difference found"), "not resolved"),
        (replace(OFF, verdict="not judgeable"), "not resolved"),
        (replace(OFF, changed={"prefix_caching": ("half", "on")}), "not stated for this comparison"),
        (replace(OFF, metric="tpot_s"), "not stated for this comparison"),
    ],
)
def test_the_expectation_is_compared_from_either_side(effect: Effect, outcome: str) -> None:
    assert expectation_sentence(effect, CACHING, TELLING)[0] == outcome


def test_an_expected_size_is_compared_with_the_interval() -> None:
    assert CACHING.expectation
    sized = CACHING.model_copy(update={"expectation": CACHING.expectation.model_copy(update={"factor": 0.2})})
    assert "inside the interval" in expectation_sentence(OFF, sized, TELLING)[1]
    assert "outside the interval" in expectation_sentence(replace(OFF, low=4.9, high=4.99), sized, TELLING)[1]


def test_a_simulated_engine_is_named_and_confirms_nothing() -> None:
    assert verdict_sentence(OFF, SIMULATED).startswith("Simulated: ")
    assert headline([OFF], SIMULATED).startswith("Simulated: ")
    outcome, sentence = expectation_sentence(OFF, CACHING, SIMULATED)
    assert outcome == "simulated"
    assert "onfirmed" not in sentence


def test_with_several_contexts_a_sentence_says_where() -> None:
    assert "(tiny on cpu with vllm)" in verdict_sentence(OFF, replace(TELLING, several_contexts=True))


def test_the_spread_of_the_replicates_is_told_for_both_sides() -> None:
    sentence = spread_sentence("ttft_s", [0.061, 0.063], {"off": [0.3, 0.32]})
    assert (
        sentence
        == " The replicates themselves gave 61 ms to 63 ms at the baseline and 300 ms to 320 ms with the treatment."
    )
    assert spread_sentence("ttft_s", [0.061], {"off": [0.3, 0.32]}) == ""


def test_a_fact_that_does_not_vary_is_told_as_a_difference_without_an_interval() -> None:
    fact = replace(
        LIMIT, metric="kv_cache_tokens", baseline=12800.0, value=6400.0, estimate=0.5, low=None, high=None, level=None, alone=None,
        minimum_detectable=None, reason="the same change in each of 3 pairs: a fact",
    )  # fmt: skip
    sentence = verdict_sentence(fact, TELLING)
    assert " by a factor of 2.00: from " in sentence and "interval" not in sentence
    assert sentence.endswith("That is worse. The same change in each of 3 pairs: a fact.")
