"""How much of the doubt suite is played."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--clean-runs", type=int, default=40, help="cells without a fault, of which none may be invalid")
