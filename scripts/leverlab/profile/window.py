"""When the profiler records: a stretch in the middle of the load, told to the server while requests are under way."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

BEGIN_AT: Final = 1 / 3
"""Share of the load, in requests or in tokens, after which the window opens."""

SILENT_S: Final = 5.0
"""After this time with requests running the window opens where neither requests nor tokens have told how far the load is."""

_LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Looked:
    """What the counters say: tokens generated so far, requests running; None where no server tells."""

    generated: float | None
    running: float | None
    iterations: Mapping[str, float | None]
    """Engine server → its iterations so far; None of one that does not tell."""

    @property
    def all_iterations(self) -> float | None:
        """Of all servers together; None where one does not tell, as the sum of the others is no count of all."""
        told = [count for count in self.iterations.values() if count is not None]
        return sum(told) if told and len(told) == len(self.iterations) else None


_UNKNOWN: Final = Looked(None, None, {})


@dataclass(frozen=True, slots=True)
class Window:
    """How the window went. The profiler began between the first two counts of iterations and ended between the last two."""

    opened_at_s: float | None = None
    """From the start of the load; None where the window never opened."""
    recorded_s: float | None = None
    """How long every profiler recorded; None where the last look failed: a server may have gone before, and its profiler with it."""
    iterations_before_start: float | None = None
    iterations_after_start: float | None = None
    iterations_before_stop: float | None = None
    iterations_after_stop: float | None = None
    running_at_start: float | None = None
    running_at_stop: float | None = None
    load_ended_first: bool = False
    """The load was over before the window was as long as it was to be."""
    problem: str | None = None
    by_server: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Of several engine servers each one's iterations before and after the start, before and after the stop."""

    @property
    def iterations(self) -> tuple[float, float] | None:
        """The least and the most iterations of the engine in the window; None where it does not count them."""
        return _between(
            self.iterations_before_start,
            self.iterations_after_start,
            self.iterations_before_stop,
            self.iterations_after_stop,
        )

    def iterations_of(self, server: str) -> tuple[float, float] | None:
        """The same of one of several engine servers by its name, and with an empty one of a server that stands alone.

        None of a named one without counts of its own: those of all servers together are not its.
        """
        if not server:
            return self.iterations
        return _between(*self.by_server[server]) if server in self.by_server else None

    def as_mapping(self) -> dict[str, Any]:
        """As twin.json keeps it."""
        return asdict(self)


def _between(
    before: float | None, after: float | None, stopping: float | None, stopped: float | None
) -> tuple[float, float] | None:
    if before is None or after is None or stopping is None or stopped is None:
        return None
    return max(stopping - after, 0.0), stopped - before


class WindowKeeper(threading.Thread):
    """Opens and closes the window while another thread offers the load. Start it before the load, `finish` it after.

    `look` asks the server, `begin` and `end` tell its profiler; whatever they raise is the window's `problem`.
    `expected_tokens` is what the load generates in all.
    """

    def __init__(
        self,
        look: Callable[[], Looked],
        begin: Callable[[], None],
        end: Callable[[], None],
        window_s: float,
        expected_tokens: float,
    ) -> None:
        super().__init__(daemon=True)
        self._look, self._begin, self._end = look, begin, end
        self._window_s, self._expected = window_s, expected_tokens
        self._share = 0.0
        self._over = threading.Event()
        self._window: dict[str, Any] = {}
        self._counted: list[Mapping[str, float | None]] = []
        self.recorded: tuple[float, float] | None = None
        """From when to when every profiler recorded, by CLOCK_MONOTONIC; None while that has not ended."""
        self.closing = False
        """Whether the profiler was told to end: from then on it may take the server with it."""

    def progress(self, done: int, of: int) -> None:
        """Tell how many requests have ended."""
        self._share = done / of if of else 0.0

    def finish(self, timeout_s: float) -> Window:
        """The window, once it is closed; the load is over, or never began. It waits for `timeout_s` at most."""
        self._over.set()
        if self.ident is not None:
            self.join(timeout_s)
        if self.is_alive():
            self._window.setdefault("problem", f"the profiler did not end within {timeout_s:g} s")
        names = sorted({name for counts in self._counted for name in counts})
        if len(names) > 1:
            rows = [*self._counted, *[{}] * (4 - len(self._counted))]
            self._window["by_server"] = {name: [row.get(name) for row in rows] for name in names}
        return Window(**self._window)

    def run(self) -> None:
        """The thread's own work."""
        try:
            opened_at_s = self._opened_at_s()
            if opened_at_s is not None:
                self._keep_open(opened_at_s)
        except Exception as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        """The first error is the window's problem: those after it mostly follow from it."""
        where = "".join(f"{name}: " for name in getattr(error, "__notes__", ()))
        self._window.setdefault("problem", f"{where}{type(error).__name__}: {error}")

    def _opened_at_s(self) -> float | None:
        begun = time.monotonic()
        first, running_since = self._look(), float("inf")
        while not self._over.is_set():
            now = self._look()
            generated = (now.generated or 0.0) - (first.generated or 0.0)
            share = max(self._share, generated / self._expected if self._expected else 0.0)
            running_since = min(running_since, time.monotonic()) if now.running else float("inf")
            silent = share == 0 and time.monotonic() - running_since > SILENT_S
            if share >= BEGIN_AT or silent:
                return round(time.monotonic() - begun, 3)
            self._over.wait(_LOOK_EVERY_S)
        self._window |= {"problem": "the load was over before a third of it was seen", "load_ended_first": True}
        return None

    def _keep_open(self, opened_at_s: float) -> None:
        before = self._look()
        self._begin()
        # It records from now on, whatever the server says or does not say hereafter, until it is told to end.
        self._window["opened_at_s"] = opened_at_s
        try:
            self._count(before)
        finally:
            self.closing = True
            try:
                self._end()
            except Exception:
                # A server that could not be asked before either had gone by itself: no profiler took it along.
                self.closing = "recorded_s" in self._window
                raise
        with contextlib.suppress(Exception):  # the server may have gone with the profiler
            gone = self._look()
            self._window["iterations_after_stop"] = gone.all_iterations
            self._counted.append(gone.iterations)

    def _count(self, before: Looked) -> None:
        """Look round the window while it is open; a look that fails costs its counts."""
        after, begun = self._looked() or _UNKNOWN, time.monotonic()
        self._counted += [before.iterations, after.iterations]
        self._window |= {
            "iterations_before_start": before.all_iterations,
            "iterations_after_start": after.all_iterations,
            "running_at_start": after.running,
        }
        self._window["load_ended_first"] = self._over.wait(self._window_s)
        last = self._looked()
        self._counted.append((last or _UNKNOWN).iterations)
        if last is None:
            return
        self.recorded = (begun, time.monotonic())
        self._window |= {
            "recorded_s": round(self.recorded[1] - begun, 6),
            "iterations_before_stop": last.all_iterations,
            "running_at_stop": last.running,
        }

    def _looked(self) -> Looked | None:
        """What a look tells; None where it fails, as where one of several servers has died."""
        try:
            return self._look()
        except Exception as error:
            self._note(error)
            return None
