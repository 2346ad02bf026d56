"""The samples that a plain run takes: those of a seed, within their time, and over many seeds all of them."""

from pathlib import Path

import pytest

from tests.sampling import SEED_VARIABLE, drawn

pytest_plugins = ["pytester"]

DURATIONS_S = {"a": 100.0, "b": 60.0, "c": 50.0, "d": 400.0}


def test_a_seed_draws_the_same_again_and_within_its_time() -> None:
    for seed in map(str, range(20)):
        chosen = drawn(DURATIONS_S, seed, 180.0)
        assert chosen == drawn(DURATIONS_S, seed, 180.0)
        assert len(chosen) == 1 or sum(DURATIONS_S[name] for name in chosen) <= 180.0


def test_every_name_has_its_turn_even_one_that_takes_longer() -> None:
    assert {name for seed in range(50) for name in drawn(DURATIONS_S, str(seed), 180.0)} == set(DURATIONS_S)


def test_what_is_not_run_here_takes_nothing_of_the_samples_time(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three modules of which the time holds one: one is not asked for, and one lacks what it needs."""
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text())
    pytester.makeini("[pytest]\ntestpaths = .\nmarkers =\n  minutes: takes long\n  engine: needs one\n")
    module = "import pytest\npytestmark = [{}]\ndef test_it() -> None:\n    {}\n"
    pytester.makepyfile(
        test_here=module.format("pytest.mark.minutes(seconds=290)", "pass"),
        test_engine=module.format("pytest.mark.engine, pytest.mark.minutes(seconds=290)", "raise AssertionError"),
        test_lacking=module.format(
            "pytest.mark.minutes(seconds=290, lacks=lambda: 'no cluster')", "pytest.skip('no cluster')"
        ),
    )
    for seed in map(str, range(6)):
        monkeypatch.setenv(SEED_VARIABLE, seed)
        # The skipped one stays: its reason is to be read.
        pytester.runpytest_inprocess("-m", "not engine").assert_outcomes(passed=1, skipped=1, deselected=1)
