"""What the person at the terminal sees: a live line, or a line every ten seconds where nobody watches."""

import faulthandler
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from leverlab.units import format_seconds

QUIET_INTERVAL_S: Final = 10.0
_LIVE_INTERVAL_S: Final = 0.2


class Progress:
    """Lines that stay (`say`) and one that moves (`show`): on the terminal, and in the job's log.

    On a terminal the moving line is rewritten in place; elsewhere, and in the log, it becomes a line every ten seconds.

    A crash in native code meanwhile (SIGSEGV, SIGABRT, …) leaves the stacks of all threads, at the end of the file that was opened last,
    on the terminal where there is none. It must be one file, so that a trial's own is chosen: Snakemake deletes the job's log before it
    tries again. Who has faulthandler on already (PYTHONFAULTHANDLER) keeps what it is set to.
    """

    def __init__(
        self, log: Path | None = None, screen: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._screen = sys.stderr if screen is None else screen
        self._live = self._screen.isatty()
        self._clock = clock
        self._drawn = False
        self._shown_at = self._logged_at = float("-inf")
        self._open = ExitStack()
        self._logs: list[TextIO] = []
        self._takes_stacks = not faulthandler.is_enabled()
        self._take_stacks()
        if log is not None:
            self._open.enter_context(self.also_to(log))

    @contextmanager
    def also_to(self, path: Path) -> Iterator[None]:
        """Write what is said meanwhile to `path` too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", buffering=1) as file:
            self._logs.append(file)
            self._take_stacks()
            try:
                yield
            finally:
                self._logs.remove(file)
                self._take_stacks()

    def say(self, message: str) -> None:
        """A line that stays."""
        self._clear()
        self._write([self._screen, *self._logs], message)

    def show(self, message: str) -> None:
        """The moving line; most calls write nothing."""
        now = self._clock()
        if now - self._logged_at >= QUIET_INTERVAL_S:
            self._logged_at = now
            self._write(self._logs if self._live else [self._screen, *self._logs], message)
        if self._live and now - self._shown_at >= _LIVE_INTERVAL_S:
            self._shown_at = now
            self._screen.write(f"\r\x1b[K{message}")
            self._screen.flush()
            self._drawn = True

    def _take_stacks(self) -> None:
        if self._takes_stacks:
            faulthandler.enable(self._logs[-1] if self._logs else sys.stderr)

    def _clear(self) -> None:
        if self._drawn:
            self._screen.write("\r\x1b[K")
            self._drawn = False

    @staticmethod
    def _write(files: list[TextIO], message: str) -> None:
        stamp = datetime.now().astimezone().strftime("%H:%M:%S")
        for file in files:
            file.write(f"{stamp} {message}\n")
            file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clear()
        self._open.close()
        if self._takes_stacks:
            faulthandler.disable()


def phase_line(trial: int, number: int, of: int, name: str, done: int, requests: int, left_s: float | None) -> str:
    """The moving line of a phase: trial, cell k of n, requests done, time left of all cells where it can be told."""
    left = "" if left_s is None else f", about {format_seconds(max(left_s, 0.0))} left"
    return f"trial {trial}, cell {number} of {of} ({name}): {done}/{requests} requests{left}"
