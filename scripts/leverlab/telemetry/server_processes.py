"""The server's processes, looked up once for all that observe it."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import psutil

_LOOK_AGAIN_S: Final = 5.0


class ServerProcesses:
    """What `find` found last. Samplers in several threads share one: finding a tree of processes reads all of /proc, and one thread at a
    time does it."""

    def __init__(self, find: Callable[[], Sequence[psutil.Process]]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._found_s = float("-inf")
        self._found: Sequence[psutil.Process] = ()

    def known(self) -> Sequence[psutil.Process]:
        """The processes, as they were at most five seconds ago. Raises what `find` raises."""
        with self._lock:
            if time.monotonic() - self._found_s > _LOOK_AGAIN_S:
                self._look()
            return self._found

    def found_anew(self) -> Sequence[psutil.Process]:
        """The processes now. Raises what `find` raises."""
        with self._lock:
            self._look()
            return self._found

    def _look(self) -> None:
        self._found_s = time.monotonic()
        self._found = self._find()
