"""What holds for every unit test."""

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is a matter of what else runs beside it.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("serial") is None:
            item.add_marker("parallel")
