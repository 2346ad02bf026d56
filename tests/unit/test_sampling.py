"""The samples that a plain run takes: those of a seed, within their time, and over many seeds all of them."""

from tests.sampling import drawn

DURATIONS_S = {"a": 100.0, "b": 60.0, "c": 50.0, "d": 400.0}


def test_a_seed_draws_the_same_again_and_within_its_time() -> None:
    for seed in map(str, range(20)):
        chosen = drawn(DURATIONS_S, seed, 180.0)
        assert chosen == drawn(DURATIONS_S, seed, 180.0)
        assert len(chosen) == 1 or sum(DURATIONS_S[name] for name in chosen) <= 180.0


def test_every_name_has_its_turn_even_one_that_takes_longer() -> None:
    assert {name for seed in range(50) for name in drawn(DURATIONS_S, str(seed), 180.0)} == set(DURATIONS_S)
