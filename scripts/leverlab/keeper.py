"""Keeps one server: `python -m leverlab.keeper` starts it, writes its log, and ends it whatever happens to the runner.

A runner can die in ways that run no `finally`: SIGKILL, a node's out-of-memory killer, a scheduler that is out of
patience. The keeper stands in a session of its own and holds a pipe to the runner. When that pipe closes, the runner is
gone or wants the server to end, and the keeper ends it: SIGINT, then SIGTERM, then SIGKILL to all that descends from it.

Standard input: one line of JSON (see `Order`), then nothing. Its end is the wish to stop.
Standard output: lines of JSON: {"event": "started", "pid": …}, {"event": "ended", "status": …} where the server ended by
itself, and {"event": "stopped", …} (see `StopReport`) as the last.

Uses the standard library alone and Linux's own means: as a subreaper it inherits every descendant whose parent ended, so
that none is lost sight of. Descendants that hid all the same are found by the marker in their environment.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from leverlab.redaction import Redactor

MARKER: Final = "LEVERLAB_TRIAL"
"""Variable in the environment of all that belongs to one server."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LOOK_EVERY_S: Final = 0.05
_QUIET_S: Final = 3600.0
_LONGEST_LINE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Order:
    """What to keep. `secrets` maps names to values that must not reach the log; `log` is appended to."""

    command: list[str]
    environment: dict[str, str]
    marker: str
    log: str
    secrets: dict[str, str] = field(repr=False)
    interrupt_grace_s: float
    terminate_grace_s: float


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a server was ended. `signal` is the last that was needed, None where it had ended by itself."""

    duration_s: float
    signal: str | None
    status: int | None
    survivors: list[str]


class Keeper:
    """One server and its log."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._redactor = Redactor(order.secrets)
        self._log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._output, output = os.pipe()
        self._rest = b""
        environment = {**order.environment, MARKER: order.marker}
        self._server = subprocess.Popen(
            order.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self.pid = self._server.pid
        os.close(output)
        os.set_blocking(self._output, False)
        self.status: int | None = None
        """The server's wait status as an exit code, negative for a signal; None while it lives."""

    def watch(self, until_s: float, also: Iterable[int] = ()) -> list[int]:
        """Write the log and collect the dead until `until_s` (monotonic) or until one of the descriptors `also` is ready."""
        while True:
            timeout = max(0.0, until_s - time.monotonic())
            ready, _, _ = select.select([*self._outputs(), *also], [], [], timeout)
            if self._output in ready:
                self._write_log()
            self._reap()
            called = [descriptor for descriptor in ready if descriptor in also]
            if called or time.monotonic() >= until_s:
                return called

    def stop(self) -> StopReport:
        """End the server and all that descends from it; the stronger signal only where the weaker did not do."""
        begun = time.monotonic()
        used: signal.Signals | None = None
        for strength, grace_s in (
            (signal.SIGINT, self._order.interrupt_grace_s),
            (signal.SIGTERM, self._order.terminate_grace_s),
            (signal.SIGKILL, self._order.terminate_grace_s),
        ):
            self._reap()
            if not self._alive():
                break
            used = strength
            self._send(strength)
            end = time.monotonic() + grace_s
            while self._alive() and time.monotonic() < end:
                lived = self.status is None
                self.watch(time.monotonic() + _LOOK_EVERY_S)
                if lived and self.status is not None:
                    end = min(end, time.monotonic() + self._order.terminate_grace_s)  # for what it leaves behind
                if strength is signal.SIGKILL:
                    self._send(strength)  # also what was born meanwhile
        self.watch(time.monotonic())
        self._close_log()
        survivors = [_described(pid) for pid in self._alive()]
        return StopReport(time.monotonic() - begun, used.name if used else None, self.status, survivors)

    def _send(self, strength: signal.Signals) -> None:
        # Asking nicely is for the server alone: it knows how to end its workers. The rest comes with the second signal.
        polite = strength is signal.SIGINT and self.status is None
        for pid in {self.pid} if polite else _descendants(os.getpid()) | _marked(self._order.marker):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, strength)

    def _alive(self) -> list[int]:
        # Reading every environment is slow on a full node: only once there seems to be nothing left.
        return sorted(_descendants(os.getpid()) or _marked(self._order.marker))

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.status = os.waitstatus_to_exitcode(status)

    def _outputs(self) -> list[int]:
        return [self._output] if self._output >= 0 else []

    def _write_log(self) -> None:
        try:
            data = os.read(self._output, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            self._close_log()
            return
        # By whole lines, so that a secret is never cut in two.
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if not newline and len(self._rest) < _LONGEST_LINE:
            return
        if not newline:
            whole, self._rest = self._rest, b""
        os.write(self._log, self._redactor.line(whole + newline))

    def _close_log(self) -> None:
        if self._output >= 0:
            os.close(self._output)
            self._output = -1
            os.write(self._log, self._redactor.line(self._rest))
            os.close(self._log)


def _end_with_parent() -> None:
    """In the server, before it starts: a keeper that is killed takes it along."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _descendants(root: int) -> set[int]:
    """All living descendants of `root`; the dead that wait for their parent are not counted."""
    children: dict[int, list[int]] = {}
    living = set()
    for pid in _pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(pid)
        if fields[0] not in (b"Z", b"X"):
            living.add(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found & living


def _marked(marker: str) -> set[int]:
    """Living processes of this user that carry `marker` in their environment."""
    wanted = f"{MARKER}={marker}".encode()
    found = set()
    for pid in _pids():
        try:
            # Empty for the dead, and closed for other users' processes.
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
        except OSError:
            continue
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - 3 times faster on full nodes


def _described(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        command = ""
    return f"{pid} {command[:80]}"


def _tell(**event: Any) -> None:  # noqa: ANN401 - JSON
    """One line to the runner, who may be gone."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(event).encode() + b"\n")


def main() -> None:
    """Keep until the runner's pipe closes or SIGTERM comes; tell the runner where the server ends by itself."""
    asked, write = os.pipe()
    os.set_blocking(asked, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    # Noted by the pipe alone. A terminal's Ctrl-C and hang-up are the runner's affair: it closes its pipe in its own time.
    # They are handled and not ignored, because a server would inherit that they are ignored.
    for noted in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(noted, lambda *_: None)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    order = Order(**json.loads(sys.stdin.buffer.readline()))
    try:
        keeper = Keeper(order)
    except OSError as error:
        _tell(event="failed", error=f"{order.command[0]}: {error.strerror or error}")
        return
    _tell(event="started", pid=keeper.pid)
    runner = sys.stdin.fileno()
    told = False
    while True:
        called = keeper.watch(time.monotonic() + _QUIET_S, (runner, asked))
        if runner in called or (asked in called and signal.SIGTERM in os.read(asked, 4096)):
            break
        if keeper.status is not None and not told:
            told = True
            _tell(event="ended", status=keeper.status)
    _tell(event="stopped", **asdict(keeper.stop()))


if __name__ == "__main__":
    main()
