"""Looking at something again and again in a thread of its own, at absolute times."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from leverlab.records import SamplingCost

_JOIN_TIMEOUT_S: Final = 10.0


class Periodic:
    """Calls `look` every `period_s` from `start` to `stop`; a look that came late does not move the later ones.

    A look that raises ends the thread and is kept in `error`: what is observed must never disturb what is measured. With `cores` the
    thread runs there alone.
    """

    def __init__(self, name: str, period_s: float, look: Callable[[], None], cores: Sequence[int] = ()) -> None:
        self._cores = cores
        self._period_s = period_s
        self._look = look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.error: str | None = None
        self._begun_s: list[float] = []
        self._took_s: list[float] = []
        self._cpu_s = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(_JOIN_TIMEOUT_S)

    def cost(self) -> SamplingCost | None:
        """What the looks took, once they have ended; None where there was none."""
        if not self._took_s:
            return None
        beats = self._begun_s[:-1]
        ran_s = self._begun_s[-1] + self._took_s[-1] - self._begun_s[0]
        return SamplingCost(
            looks=len(self._took_s),
            rate=(len(beats) - 1) / (beats[-1] - beats[0]) if len(beats) > 1 else None,
            look_s_p50=statistics.median(self._took_s),
            look_s_max=max(self._took_s),
            cpu_share=self._cpu_s / ran_s if ran_s > 0 else None,
        )

    def _run(self) -> None:
        due = time.monotonic()
        try:
            if self._cores:
                os.sched_setaffinity(0, self._cores)  # of the calling thread
            while True:
                now = self._timed()
                due += self._period_s * max(1, -(-(now - due) // self._period_s))
                if self._ended.wait(due - now):
                    self._timed()
                    return
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    def _timed(self) -> float:
        """Look, and note what it took; the time at its end."""
        begun = time.monotonic()
        self._look()
        ended = time.monotonic()
        self._begun_s.append(begun)
        self._took_s.append(ended - begun)
        self._cpu_s = time.thread_time()  # of this thread, since it began
        return ended
