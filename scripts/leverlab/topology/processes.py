"""One process of a server under its keeper (`leverlab.keeper`), which ends it even where the runner is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import psutil

from leverlab.engines.inherited import inherited_environment
from leverlab.keeper import Order, StopReport
from leverlab.redaction import secrets_of
from leverlab.topology.declared import ProcessPlan

INTERRUPT_GRACE_S: Final = 15.0
TERMINATE_GRACE_S: Final = 5.0
"""Together with the interrupt's less than the 30 s that Slurm waits between SIGTERM and SIGKILL by default."""

_KEEPER_GRACE_S: Final = 10.0


class Part:
    """A started process and what its plan says of it."""

    def __init__(
        self,
        plan: ProcessPlan,
        folder: Path,
        api_key: str,
        marker: str,
        own_variables: Sequence[str],
        holding: Sequence[int],
    ) -> None:
        """`own_variables`: patterns of what is not taken over from this process's environment; `holding`: see `start`."""
        self.plan = plan
        self.log = folder / plan.log
        self._events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        order = Order(
            command=list(plan.command),
            environment={**inherited_environment(own_variables), **plan.environment},
            marker=marker,
            log=str(self.log),
            secrets={**secrets_of(os.environ), "API_KEY": api_key},
            interrupt_grace_s=INTERRUPT_GRACE_S,
            terminate_grace_s=TERMINATE_GRACE_S,
        )
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "leverlab.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=holding,
        )
        assert self._keeper.stdin and self._keeper.stdout
        self._reader = threading.Thread(target=self._listen, args=(self._keeper.stdout,), daemon=True)
        self._reader.start()
        # The order goes through the pipe: it holds the API key, which no command line or file may.
        self._keeper.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._keeper.stdin.flush()
        first = self._wait_for("started", "failed", "gone")
        self.pid: int | None = first.get("pid")
        if first["event"] == "failed":
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{first['error']}\n")

    def log_size(self) -> int:
        """Bytes of the log so far."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_from(self, begin: int) -> str:
        """What the log got since it had `begin` bytes."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(begin)
            return file.read().decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """The process and all its descendants that live now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.pid is not None:
                root = psutil.Process(self.pid)
                return [root, *root.children(recursive=True)]
        return []

    def poll(self) -> int | None:
        """The exit code of the process, negative for a signal; None while it runs. 127 where it could not be started."""
        event = self._first("ended", "stopped", "failed", "gone")
        if event is None:
            return None
        return 127 if event["event"] == "failed" else event.get("status", -signal.SIGKILL)

    def stop(self) -> StopReport:
        """End the process: SIGINT, then SIGTERM, then SIGKILL to all that descends from it."""
        assert self._keeper.stdin
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        patience_s = INTERRUPT_GRACE_S + 2 * TERMINATE_GRACE_S + _KEEPER_GRACE_S
        event = self._wait_for("stopped", "failed", "gone", timeout_s=patience_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(_KEEPER_GRACE_S)
        if event["event"] == "stopped":
            return StopReport(**{name: value for name, value in event.items() if name != "event"})
        return StopReport(0.0, None, self.poll(), [])

    def _listen(self, output: IO[bytes]) -> None:
        for line in output:
            self._add(json.loads(line))
        self._add({"event": "gone"})

    def _add(self, event: dict[str, Any]) -> None:
        with self._news:
            self._events.append(event)
            self._news.notify_all()

    def _wait_for(self, *names: str, timeout_s: float | None = None) -> dict[str, Any]:
        with self._news:
            self._news.wait_for(lambda: self._first(*names) is not None, timeout_s)
            return self._first(*names) or {"event": "gone"}

    def _first(self, *names: str) -> dict[str, Any] | None:
        return next((event for event in self._events if event["event"] in names), None)
