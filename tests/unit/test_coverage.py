"""Intervals and verdicts keep what they promise, from simulated requests through tables and effects: a sample.

The whole of it is `python benchmarks/coverage.py` and `python benchmarks/queue_coverage.py`.
"""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scipy import stats

from tests.unit.repository import SOURCE

STUDIES, SEED = 60, 1
CHANCE = 1e-4
"""How seldom a method that is right may fail a limit here; the seed makes it the same every time."""


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[Path]:
    """Their folder, in which they find each other; last of the path, since a package is called coverage too."""
    folder = SOURCE / "benchmarks"
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


def loaded(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"{path.stem}_benchmark", path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def coverage(benchmarks: Path) -> ModuleType:
    return loaded(benchmarks / "coverage.py")


@pytest.mark.parametrize("effect", [0.7, 1.0])
def test_intervals_hold_the_truth_where_requests_queue_most_unevenly(benchmarks: Path, effect: float) -> None:
    """Where a queue builds on slow nodes alone, Student's interval of a median is worst."""
    queues = loaded(benchmarks / "queue_coverage.py")
    settings = queues.covered(0.7, effect, 50, 1800, SEED, [3, 5])
    assert len(settings) == 2 * len(queues.STATISTICS)
    for setting in settings:
        least = stats.binom.ppf(CHANCE, setting.studies, 0.93)
        assert setting.held * setting.studies >= least, setting
        assert setting.held >= setting.student
    medians = [setting for setting in settings if setting.statistic == "p50"]
    assert all(setting.queued > 0.8 for setting in medians)
    if effect == 1:
        assert all(setting.held == setting.student for setting in medians), "no power is lost where there is no effect"
    else:
        assert all(setting.student < 0.9 for setting in medians), "else there is nothing to mend"


@pytest.mark.parametrize("effect", [0.9, 1.0])
def test_intervals_hold_the_truth_and_no_effect_shows_none(coverage: ModuleType, effect: float) -> None:
    settings, false_studies = coverage.covered(coverage.study_matrix(), STUDIES, SEED, effect, [3, 5], progress=False)
    least = stats.binom.ppf(CHANCE, STUDIES, 0.93)
    assert len(settings) == 2 * len(coverage.METRICS)
    for setting in settings:
        assert setting.held >= least, setting
        assert setting.held + setting.missed_below + setting.missed_above == STUDIES
    if effect == 1:
        most = stats.binom.ppf(1 - CHANCE, STUDIES, 0.05)
        assert all(wrong <= most for wrong in false_studies.values()), false_studies
    else:
        throughput = [setting for setting in settings if setting.metric == "throughput"]
        assert all(setting.true_ratio > 1.05 for setting in throughput), "work that takes less is done sooner"
        assert throughput[-1].verdicts > STUDIES / 2, "five replicates find a tenth"
