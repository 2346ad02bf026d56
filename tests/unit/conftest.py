"""What holds for every unit test."""

from pathlib import Path

import pytest
from hypothesis import settings

from leverlab.models.synthetic import synthetic_files
from tests.unit.drawn_workloads import SHAPE

# How long an example takes is a matter of what else runs beside it.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # An engine takes a port, and a core by its number: two of them at a time would share it.
        alone = any(item.get_closest_marker(name) for name in ("serial", "engine"))
        if item.path.is_relative_to(Path(__file__).parent) and not alone:
            item.add_marker("parallel")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a made-up model, from which workloads are drawn."""
    folder = tmp_path_factory.mktemp("model")
    for name, content in synthetic_files(SHAPE, 10_000).items():
        (folder / name).write_bytes(content)
    return folder
