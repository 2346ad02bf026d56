"""Starting the processes of a server, waiting until it is ready, and stopping them on every way out.

A topology says which processes a server consists of. Each runs under a keeper (`leverlab.keeper`), which ends it even
where the runner is killed.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import httpx
import psutil

from leverlab.engines.base import Engine, Launch
from leverlab.engines.inherited import inherited_environment
from leverlab.keeper import Order, StopReport
from leverlab.records import Reason
from leverlab.redaction import secrets_of

LOG_FILE: Final = "server.log"
LOOPBACK: Final = "127.0.0.1"

INTERRUPT_GRACE_S: Final = 15.0
TERMINATE_GRACE_S: Final = 5.0
"""Together with the interrupt's less than the 30 s that Slurm waits between SIGTERM and SIGKILL by default."""

_KEEPER_GRACE_S: Final = 10.0
_ASK_EVERY_S: Final = 0.2
_ASK_TIMEOUT_S: Final = 5.0
_TELL_EVERY_S: Final = 1.0
_SETTLED_S: Final = 1.0

Progress = Callable[[float, str], None]


class ServerEnded(Exception):  # noqa: N818 - an outcome, not an error of this program
    """The server ended before it was ready. `reason` is the engine's own explanation, from its log."""

    def __init__(self, reason: Reason, status: int | None) -> None:
        super().__init__(reason.message)
        self.reason = reason
        self.status = status


class StartTimeout(Exception):  # noqa: N818
    """The server was not ready in time. `reason` holds the end of its log."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process of a server: its log lies in the trial's folder."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Which processes a server consists of, in the order of their start. The last answers at the launch's port."""

    name: str
    plan: Callable[[Engine, Launch], Sequence[ProcessPlan]]


def _single(engine: Engine, launch: Launch) -> list[ProcessPlan]:
    return [ProcessPlan(engine.command(launch), engine.environment(launch), LOG_FILE)]


TOPOLOGIES: Final[Mapping[str, Topology]] = {"single": Topology("single", _single)}


class _Kept:
    """A process under its keeper."""

    def __init__(self, order: Order, holding: Sequence[int]) -> None:
        self._events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.log = Path(order.log)
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

    def poll(self) -> int | None:
        """The exit code of the process, negative for a signal; None while it runs. 127 where it could not be started."""
        event = self._first("ended", "stopped", "failed", "gone")
        if event is None:
            return None
        return 127 if event["event"] == "failed" else event.get("status", -signal.SIGKILL)

    def stop(self) -> StopReport:
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


class RunningServer:
    """A started server. Leave it by `stop`, or use it in a `with`: both end every process of it."""

    def __init__(self, launch: Launch, processes: Sequence[_Kept], marker: str) -> None:
        self._launch = launch
        self._processes = processes
        self._report: StopReport | None = None
        self.marker = marker
        self.started_s = time.monotonic()

    @property
    def base_url(self) -> str:
        return f"http://{self._launch.host}:{self._launch.port}"

    @property
    def log(self) -> Path:
        """The log of the process that answers requests."""
        return self._processes[-1].log

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

    def log_text(self) -> str:
        """All of the log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def client(self, timeout_s: float = 30.0) -> httpx.Client:
        """A client that knows the server's address and key and ignores the environment's proxies."""
        headers = {"Authorization": f"Bearer {self._launch.api_key}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=timeout_s, trust_env=False)

    def poll(self) -> int | None:
        """None while all its processes run; otherwise the exit code of the first that ended."""
        codes = (process.poll() for process in self._processes)
        return next((code for code in codes if code is not None), None)

    def processes(self) -> list[psutil.Process]:
        """Every living process of the server now: the started ones and all their descendants."""
        found: list[psutil.Process] = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid is not None:
                    root = psutil.Process(process.pid)
                    found += [root, *root.children(recursive=True)]
        return found

    def stop(self) -> StopReport:
        """End every process, the last started first. Called again, it returns the first report."""
        if self._report is None:
            reports = [process.stop() for process in reversed(self._processes)]
            signals = [report.signal for report in reports if report.signal]
            strongest = max(signals, key=["SIGINT", "SIGTERM", "SIGKILL"].index) if signals else None
            self._report = StopReport(
                sum(report.duration_s for report in reports),
                strongest,
                reports[0].status,
                [survivor for report in reports for survivor in report.survivors],
            )
        return self._report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()


def start(engine: Engine, launch: Launch, holding: Sequence[int] = ()) -> RunningServer:
    """Start the server's processes, each in a session of its own, with stdout and stderr in the trial's folder.

    `holding`: locks that must last until the server has ended, even where this process dies before it. Returns at once;
    see `wait_ready`. Raises ValueError for a topology that is not known.
    """
    name = launch.identity["topology"]
    if name not in TOPOLOGIES:
        raise ValueError(f"there is no topology {name!r}; there are {', '.join(TOPOLOGIES)}")
    marker = secrets.token_hex(8)
    started: list[_Kept] = []
    try:
        for plan in TOPOLOGIES[name].plan(engine, launch):
            order = Order(
                command=list(plan.command),
                environment={**inherited_environment(engine.own_variables), **plan.environment},
                marker=marker,
                log=str(launch.folder / plan.log),
                secrets={**secrets_of(os.environ), "API_KEY": launch.api_key},
                interrupt_grace_s=INTERRUPT_GRACE_S,
                terminate_grace_s=TERMINATE_GRACE_S,
            )
            started.append(_Kept(order, holding))
    except BaseException:
        for process in reversed(started):
            process.stop()
        raise
    return RunningServer(launch, started, marker)


def wait_ready(server: RunningServer, engine: Engine, timeout_s: float, progress: Progress | None = None) -> float:
    """Seconds from the start until the server was ready. `progress(seconds, last line of the log)` once a second.

    Raises ServerEnded, and StartTimeout after `timeout_s`.
    """
    told = 0.0
    with server.client(_ASK_TIMEOUT_S) as client:
        while True:
            passed_s = time.monotonic() - server.started_s
            code = server.poll()
            if code is not None:
                raise ServerEnded(engine.explain_exit(server.log_text()), code)
            with contextlib.suppress(httpx.HTTPError, ValueError):
                if engine.ready(client):
                    return time.monotonic() - server.started_s
            if passed_s > timeout_s:
                tail = [line for line in server.log_text().splitlines() if line.strip()][-20:]
                message = (
                    f"the server was not ready after {timeout_s:g} s; start_timeout in config/engines.yaml sets it"
                )
                raise StartTimeout(Reason(code="start_timeout", message=message, log=tail))
            if progress and passed_s - told >= _TELL_EVERY_S:
                told = passed_s
                progress(passed_s, last_line(server.log))
            time.sleep(_ASK_EVERY_S)


def last_line(log: Path, most: int = 4096) -> str:
    """The last line of a log that is not empty; empty text where there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""


def free_port(host: str = LOOPBACK) -> int:
    """A port that was free a moment ago. Another process may take it first: then the server's log says `port_taken`."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def confine(server: RunningServer, cores: Sequence[int], settle_s: float = _SETTLED_S) -> int:
    """Keep every thread of the server on `cores`; how many threads were moved.

    A start may use all cores, a measurement leaves one to the client. A thread that the engine has bound to some of
    `cores` stays on those. Looks again until no new thread appears, `settle_s` at most.
    """
    wanted = set(cores)
    moved = 0
    end = time.monotonic() + settle_s
    while True:
        before = moved
        for process in server.processes():
            moved += _confine_threads(process.pid, wanted)
        if moved == before or time.monotonic() >= end:
            return moved


def _confine_threads(pid: int, wanted: set[int]) -> int:
    moved = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                allowed = os.sched_getaffinity(int(name))
                if not allowed <= wanted:
                    os.sched_setaffinity(int(name), allowed & wanted or wanted)
                    moved += 1
    return moved
