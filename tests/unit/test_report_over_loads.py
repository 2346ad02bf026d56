"""What a treatment does at several load points, in one sentence."""

from collections.abc import Sequence
from dataclasses import replace

from leverlab.report import over_loads
from leverlab.report.effect import Effect
from leverlab.report.sentences import verdict_sentence
from tests.unit.told_effects import OFF, TELLING


def effects_over_loads(effects: Sequence[Effect], marked: str = "") -> list[str]:
    return [*over_loads.effects_over_loads(effects, TELLING, lambda own: marked and f" {marked} {len(own)}.")]


def test_what_is_the_same_at_several_load_points_is_said_once() -> None:
    four = replace(
        OFF, load="rate 4", baseline=0.1, value=0.4, estimate=4.0, low=3.5, high=4.5, level=0.95, primary=False
    )
    ten = replace(four, load="rate 10", verdict="no difference found", estimate=1.02, value=0.102, low=0.95, high=1.1)
    alone = replace(OFF, load="rate 2", verdict="not judgeable", reason="one pair")
    said = effects_over_loads([ten, four, OFF, alone])
    assert said[0] == (
        "Prefix caching off instead of on raises the median time to first token at 1 request/s by a factor of 5.00 "
        "(97.5 % interval 4.00 to 6.25), from 62 ms to 310 ms; at 4 requests/s by a factor of 4.00 (95 % interval 3.50 to 4.50), "
        "from 100 ms to 400 ms, each in 3 replicates. That is worse."
    )
    assert said[1:] == [verdict_sentence(alone, TELLING), verdict_sentence(ten, TELLING)]


def test_what_is_invalid_at_several_load_points_is_no_missing_difference() -> None:
    """Two of three replicates are invalid at both: the pair that is left has an estimate all the same."""
    spoilt = replace(OFF, verdict="invalid", pairs=1, reason="treatment r2, r3: invalid", low=None, high=None)
    said = effects_over_loads([spoilt, replace(spoilt, load="rate 4")])
    assert len(said) == 2
    assert all("no difference" not in sentence and "invalid" in sentence for sentence in said)


def test_at_several_load_points_the_correction_is_told_too() -> None:
    none = replace(
        OFF,
        verdict="no difference found",
        estimate=1.1,
        value=0.07,
        low=0.98,
        high=1.3,
        alone=(1.02, 1.2),
        primary=True,
    )
    (said,) = effects_over_loads([none, replace(none, load="rate 4", primary=False)])
    assert said.count("Alone it would count as a difference") == 1


def test_at_several_load_points_the_level_stands_once_and_what_differs_at_each() -> None:
    def at(load: str, **changes: object) -> Effect:
        return replace(OFF, load=load, **changes)  # type: ignore[arg-type]

    (said,) = effects_over_loads([at("rate 1"), at("rate 4", pairs=2, reason="left out: treatment r2")])
    assert said.endswith(
        "at 4 requests/s by a factor of 5.00 (4.00 to 6.25), from 62 ms to 310 ms, in 2 replicates (left out: treatment r2). That is worse."
    )
    near = {"estimate": 1.4, "value": 0.0868, "low": 1.3, "high": 1.5}
    (said,) = effects_over_loads([at("rate 1"), at("rate 4", **near)])
    assert "at 1 request/s by 400 % (97.5 % interval 300 % to 525 %)" in said and "by 40 % (30 % to 50 %)" in said, (
        "one scale"
    )
    none = {"verdict": "no difference found", "estimate": 1.0, "value": 0.062, "low": 0.9, "high": 1.1}
    (said,) = effects_over_loads([at("rate 1", **none), at("rate 4", **none)])
    assert said.count("no difference found") == 1 and said.count("97.5 % interval") == 1
    assert "at 4 requests/s from 62 ms to 62 ms, a ratio of 1.00 (0.90 to 1.10), where " in said


def test_what_one_replicate_leaves_open_is_said_once_for_all_load_points() -> None:
    """Where device time ended after the first replicate."""
    one = replace(
        OFF,
        verdict="not judgeable",
        reason="baseline r2, r3: not measured yet",
        low=None,
        high=None,
        level=None,
        pairs=1,
    )
    (said,) = effects_over_loads([one, replace(one, load="rate 4", value=0.32)])
    assert said == (
        "Prefix caching off instead of on: the effect on the median time to first token is not judgeable: at 1 request/s from 62 ms to "
        "310 ms; at 4 requests/s from 62 ms to 320 ms, each in 1 replicate. Baseline r2, r3: not measured yet."
    )
    other = replace(one, load="rate 4", reason="treatment r1: infeasible", estimate=None, value=None)
    assert (effects_over_loads([one, other])) == [
        verdict_sentence(one, TELLING),
        verdict_sentence(other, TELLING),
    ]


def test_what_is_held_against_the_effects_of_a_sentence_stands_behind_it() -> None:
    ten = replace(OFF, load="rate 10", verdict="no difference found", estimate=1.02, low=0.95, high=1.1)
    rising, none = effects_over_loads([ten, OFF, replace(OFF, load="rate 4")], "Marked in")
    assert rising.endswith("That is worse. Marked in 2.")
    assert none.endswith(" Marked in 1.")
