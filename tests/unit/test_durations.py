"""What a run of tests says of how long its parts took."""

from tests.durations import told


def test_the_longest_folder_comes_first_and_names_the_modules_that_take_long() -> None:
    took_s = {"tests/unit/test_a.py": 12.0, "tests/slurm/test_b.py": 30.4, "tests/slurm/test_c.py": 45.0}
    assert told(took_s) == ["    75 s  tests/slurm: test_c 45, test_b 30", "    12 s  tests/unit"]


def test_a_short_run_says_nothing() -> None:
    assert told({"tests/unit/test_a.py": 59.0}) == []
