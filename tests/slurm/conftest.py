"""The one-box Slurm that all tests here share."""

from collections.abc import Iterator

import pytest

from tests.slurm.one_box import OneBoxSlurm, why_not_here


@pytest.fixture(scope="session")
def slurm() -> Iterator[OneBoxSlurm]:
    """A running cluster; skips with the reason where there can be none."""
    if reason := why_not_here():
        pytest.skip(reason)
    with OneBoxSlurm() as cluster:
        yield cluster
