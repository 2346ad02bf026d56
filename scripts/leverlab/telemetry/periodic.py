"""Looking at something again and again in a thread of its own, at absolute times."""

import threading
import time
from collections.abc import Callable
from typing import Final

_JOIN_TIMEOUT_S: Final = 10.0


class Periodic:
    """Calls `look` every `period_s` from `start` to `stop`; a look that came late does not move the later ones.

    A look that raises ends the thread and is kept in `error`: what is observed must never disturb what is measured.
    """

    def __init__(self, name: str, period_s: float, look: Callable[[], None]) -> None:
        self._period_s = period_s
        self._look = look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.error: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while True:
                self._look()
                now = time.monotonic()
                due += self._period_s * max(1, -(-(now - due) // self._period_s))
                if self._ended.wait(due - now):
                    self._look()
                    return
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
