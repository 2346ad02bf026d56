"""How much of the doubt suite is played, and the matrix that it prints at its end."""

import os
from collections.abc import Callable, Mapping

import pytest

from tests.doubt.matrix import Row, drawn
from tests.doubt.planted import NOISE

FOUND = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--clean-runs", type=int, default=40, help="cells without a fault, of which none may be invalid")
    # A trial needs a core for its engine and one for its client: with fewer, each disturbs the other.
    at_a_time = max(1, len(os.sched_getaffinity(0)) // 2)
    parser.addoption("--clean-at-a-time", type=int, default=at_a_time, help="trials of these side by side")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FOUND] = []


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str, Mapping[str, str]], None]:
    """Takes what was planted and what marked it into the matrix, without what a busy machine adds to any cell."""

    def taken(title: str, marks: Mapping[str, str], own: frozenset[str] = frozenset()) -> None:
        kept = {code: severity for code, severity in marks.items() if code in own or code not in NOISE}
        request.config.stash[FOUND].append((title, kept))

    return taken


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash[FOUND]:
        terminalreporter.section("what was planted, and what marked it")
        terminalreporter.write_line(drawn(rows))
