"""Which modules marked `minutes` are run: in a plain run a sample, all of them with `--all-minutes`, and those that are asked for.

At the end of a run of minutes stands how long its parts took.
"""

from typing import Final

import pytest

from tests.durations import told
from tests.sampling import SEED_VARIABLE, drawn, seed

SAMPLE_S: Final = 150.0
"""What the modules of a sample may take, one after another; one that takes longer has its turn alone."""


LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-minutes", action="store_true", help="run every module marked `minutes`, not a sample")


@pytest.hookimpl(trylast=True)  # what `-m` and `-k` leave out is gone by then, and takes nothing of the sample's time
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out of a plain run what the sample does not hold; a module that lacks something here stays, to say so."""
    if config.getoption("--all-minutes") or not _plain(config):
        return
    durations_s = {
        item.nodeid.partition("::")[0]: float(marker.kwargs["seconds"])
        for item in items
        if (marker := item.get_closest_marker("minutes")) is not None
        and not ("lacks" in marker.kwargs and marker.kwargs["lacks"]())
    }
    if not durations_s:
        return
    left_out = set(durations_s) - set(drawn(durations_s, seed(), SAMPLE_S))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid.partition("::")[0] in left_out])
    items[:] = [item for item in items if item.nodeid.partition("::")[0] not in left_out]
    config.stash[LEFT_OUT] = sorted(left_out)


def _plain(config: pytest.Config) -> bool:
    """Whether no folder was named and no kind of tests asked for with `-m`."""
    asked = str(config.getoption("-m"))
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and (not asked or asked.startswith("not "))


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    left_out = config.stash.get(LEFT_OUT, [])
    if not left_out:
        return None
    return f"left to other seeds than {SEED_VARIABLE}={seed()}, and to --all-minutes: {', '.join(left_out)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    took_s: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                module = report.nodeid.partition("::")[0]
                took_s[module] = took_s.get(module, 0.0) + report.duration
    if lines := told(took_s):
        terminalreporter.section("how long it took")
        for line in lines:
            terminalreporter.write_line(line)
