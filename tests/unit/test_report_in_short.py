"""The answer at a page's head: its headline, and a line for each lever."""

from dataclasses import replace

import pytest

from leverlab.report import in_short as short
from leverlab.report import index
from leverlab.report.effect import Effect
from leverlab.report.sentences import Telling
from tests.unit.told_effects import LIMIT, OFF, TELLING, unmarked


def headline(effects: list[Effect], telling: Telling) -> str:
    return short.headline(effects, telling, unmarked)


def in_short(effects: list[Effect], telling: Telling) -> list[str]:
    return short.in_short(effects, telling, unmarked)


def test_the_headline_names_the_lever_that_moved_most() -> None:
    sentence = headline([LIMIT, OFF], TELLING)
    assert (
        sentence
        == "Prefix caching moved its primary metric most: off instead of on raises the median time to first token at 1 request/s 5.00-fold, from 62 ms to 310 ms."
    )


@pytest.mark.parametrize(
    ("effects", "ending"),
    [
        ([OFF], "from 62 ms to 310 ms (marked: its sides shared no GPU; its replicates disagree)."),
        ([replace(OFF, metric="cache_hit_ratio", estimate=-0.5)], "the median prefix-cache hit ratio (marked: its sides shared no GPU; its replicates disagree)."),
        ([replace(OFF, verdict="no difference found")], "(marked: its sides shared no GPU; its replicates disagree)."),
        (
            [replace(OFF, verdict="no difference found"), replace(LIMIT, verdict="no difference found")],
            "(1 of 2 comparisons are marked: its sides shared no GPU; its replicates disagree).",
        ),
    ],
)  # fmt: skip
def test_a_headline_that_rests_on_a_marked_effect_says_so(effects: list[Effect], ending: str) -> None:
    def doubts(effect: Effect) -> tuple[str, ...]:
        return ("its sides shared no GPU", "its replicates disagree") if effect.treatment == OFF.treatment else ()

    assert short.headline([*effects], TELLING, doubts).endswith(ending)
    assert "marked" not in short.headline([LIMIT], TELLING, doubts)
    lines = short.in_short([OFF, LIMIT], TELLING, doubts)
    assert "310 ms at off (worse, marked)." in lines[0] and "(worse)." in lines[1]
    assert index.verdict_line([OFF, LIMIT], TELLING, doubts).count("worsens, marked, ") == 1


def test_with_one_lever_the_headline_says_what_it_did() -> None:
    assert headline([OFF], TELLING) == (
        "Prefix caching off instead of on raises the median time to first token at 1 request/s 5.00-fold, from 62 ms to 310 ms."
    )


def test_a_lever_of_the_load_is_no_headline_beside_one_of_the_server() -> None:
    """A shorter prompt is no answer to what a server's lever does, however much it moves."""
    asked = replace(TELLING, of_the_load=frozenset({"prefix_caching"}))
    assert headline([LIMIT, OFF], asked).startswith("Batch limit moved its primary metric most")
    assert headline([replace(LIMIT, verdict="no difference found"), OFF], asked).startswith("Prefix caching moved")


def test_in_short_each_lever_is_told_with_its_values_at_every_level() -> None:
    half = replace(OFF, changed={"prefix_caching": ("half", "on")}, value=61.9e-3, verdict="no difference found")
    lines = in_short([half, OFF, LIMIT], TELLING)
    assert lines[0] == (
        "Prefix caching: the median time to first token at 1 request/s is 62 ms at on, 61.9 ms at half (no difference found) "
        "and 310 ms at off (worse)."
    )
    assert len(lines) == 2 and lines[1].startswith(
        "Batch limit: the output tokens per second in a burst is 250 tokens/s at "
    )
    invalid = replace(half, baseline=None, value=None, estimate=None, verdict="invalid")
    assert in_short([invalid, OFF, LIMIT], TELLING)[0].endswith(
        "is 62 ms at on and 310 ms at off (worse); nothing is known at half (invalid)."
    )
    assert in_short([invalid, LIMIT], TELLING) == [], "one place that is known"
    assert in_short([OFF], TELLING) == [], "the headline says it"
    assert in_short([replace(OFF, primary=False), LIMIT], TELLING) == []
    many = [replace(OFF, load=f"rate {rate}") for rate in range(1, 12)]
    assert in_short(many, TELLING)[-1] == "3 more stand below."


def test_the_headline_does_not_name_a_lever_that_moved_nothing() -> None:
    undecided = [replace(effect, verdict="no difference found") for effect in (OFF, LIMIT)]
    assert headline(undecided, TELLING) == (
        "No difference was found in the median time to first token at 1 request/s with Prefix caching off instead of on, "
        "or in the output tokens per second in a burst with Batch limit 4 instead of 64."
    )
    half = replace(undecided[0], changed={"prefix_caching": ("half", "on")}, treatment="prefix_caching=half")
    assert headline([undecided[0], half], TELLING).endswith("with Prefix caching off or half instead of on.")
    later = [replace(effect, load="rate 2") for effect in undecided]
    assert headline([*undecided, *later], TELLING) == (
        "No difference was found in any primary metric, with any of 2 treatments."
    )


def test_an_exploratory_effect_is_no_headline() -> None:
    assert "Nothing was compared" in headline([replace(OFF, primary=False)], TELLING)
