"""Starting a server's processes stage by stage, waiting until all are ready, and stopping them on every way out."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import psutil

from leverlab.engines.base import Engine, Launch
from leverlab.keeper import StopReport
from leverlab.records import Reason
from leverlab.topology.declared import Plan, ProcessPlan
from leverlab.topology.processes import Part
from leverlab.topology.topologies import planned

_ASK_EVERY_S: Final = 0.2
_ASK_TIMEOUT_S: Final = 5.0
_TELL_EVERY_S: Final = 1.0
_TAIL_LINES: Final = 20
_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGKILL")

Progress = Callable[[float, str], None]


class ServerEnded(Exception):  # noqa: N818 - an outcome, not an error of this program
    """A process of the server ended before all were ready. `reason` is the explanation from its log."""

    def __init__(self, reason: Reason, status: int | None) -> None:
        super().__init__(reason.message)
        self.reason = reason
        self.status = status


class StartTimeout(Exception):  # noqa: N818
    """The server was not ready in time. `reason` holds the end of the log of what was waited for."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ended:
    """A process of the server that ended: its exit code, negative for a signal, and why, from its log."""

    name: str
    status: int
    reason: Reason


class RunningServer:
    """A started server. Leave it by `stop`, or use it in a `with`: both end every process of it."""

    def __init__(
        self, engine: Engine, launch: Launch, plan: Plan, holding: Sequence[int], kept: Sequence[Part] = ()
    ) -> None:
        """Starts the first stage; `start_next` starts the others. `kept`: processes of `plan` that run already, which are this
        server's from now on."""
        self.engine = engine
        self.plan = plan
        self.marker = secrets.token_hex(8)
        """Where the markers of its processes begin, by which their keepers know what belongs to each."""
        self.parts: list[Part] = []
        """The processes that were started so far, in that order."""
        self._launch = launch
        self._holding = holding
        self._stages = 0
        self._kept = {part.plan.name: part for part in kept}
        self._handed_over: list[Part] = []
        self._report: StopReport | None = None
        self.started_s = time.monotonic()
        self.start_next()

    @property
    def api_key(self) -> str:
        """The key that every process of the server asks for."""
        return self._launch.api_key

    @property
    def base_url(self) -> str:
        """Where the front is asked."""
        return self.plan.front.base_url

    @property
    def scratch(self) -> Path | None:
        """See `leverlab.engines.base.Launch.scratch`."""
        return self._launch.scratch

    @property
    def log(self) -> Path:
        """The log of the process that was started last: once all are, that of the front."""
        return self.parts[-1].log

    @property
    def engine_parts(self) -> list[Part]:
        """The engine servers among the processes."""
        return [part for part in self.parts if part.plan.launch is not None]

    def placement(self) -> dict[str, dict[str, list[str] | list[int]]]:
        """Process → the GPUs and cores that it was given; empty for one that stands alone and has all."""
        plans = self.plan.processes
        if len(plans) == 1:
            return {}
        return {
            plan.name: {"gpus": list(plan.launch.gpus) if plan.launch else [], "cores": list(plan.cores)}
            for plan in plans
        }

    def log_text(self) -> str:
        """All of that log so far."""
        return self.parts[-1].log_from(0)

    def log_sizes(self) -> dict[str, int]:
        """Process → bytes of its log so far."""
        return {part.plan.name: part.log_size() for part in self.parts}

    def log_lines_from(self, begins: Mapping[str, int]) -> list[str]:
        """Lines that the logs got since they had the sizes `begins`, process by process."""
        return [line for part in self.parts for line in part.log_from(begins.get(part.plan.name, 0)).splitlines()]

    def client(self, timeout_s: float = 30.0) -> httpx.Client:
        """A client of the front, with the server's key."""
        return self.plan.front.client(self.api_key, timeout_s)

    def poll(self) -> int | None:
        """None while all its processes run; otherwise the exit code of the first that ended."""
        ended = self._first_ended()
        return None if ended is None else ended[1]

    def ended(self) -> Ended | None:
        """The process that ended, None while all run. Of several the first in the order of start."""
        found = self._first_ended()
        if found is None:
            return None
        part, status = found
        reason = part.plan.explain(part.log_from(0))
        if len(self.plan.processes) > 1:
            reason = reason.model_copy(update={"message": f"{part.plan.name}: {reason.message}"})
        return Ended(part.plan.name, status, reason)

    def processes(self) -> list[psutil.Process]:
        """Every living process of the server now: the started ones and all their descendants."""
        return [process for part in self.parts for process in part.processes()]

    def start_next(self) -> bool:
        """Start the processes of the next stage; False where there is none."""
        if self._stages == len(self.plan.stages):
            return False
        stage = self.plan.stages[self._stages]
        self._stages += 1
        try:
            for process in stage:
                self.parts.append(self._started(process))
        except BaseException:
            self.stop()
            raise
        return True

    def waiting_for(self) -> list[Part]:
        """The processes of the stage that was started last."""
        return self.parts[len(self.parts) - len(self.plan.stages[self._stages - 1]) :]

    def hand_over(self) -> list[Part]:
        """The living processes that outlive a restart. They are the caller's now: `stop` leaves them alone."""
        self._handed_over = [part for part in self.parts if part.plan.outlives and part.poll() is None]
        return list(self._handed_over)

    def stop(self) -> StopReport:
        """End every process, those of the last stage first. Called again, it returns the first report."""
        if self._report is None:
            begun_s = time.monotonic()
            reports: list[StopReport] = []
            parts = list(self.parts)
            for stage in reversed(self.plan.stages[: self._stages]):
                ending, parts = parts[-len(stage) :], parts[: -len(stage)]
                ending = [part for part in ending if part not in self._handed_over]
                with ThreadPoolExecutor(max(len(ending), 1)) as pool:
                    reports = [*pool.map(Part.stop, ending), *reports]
            signals = [report.signal for report in reports if report.signal]
            self._report = StopReport(
                reports[0].duration_s if len(reports) == 1 else time.monotonic() - begun_s,
                max(signals, key=_SIGNALS.index) if signals else None,
                next((report.status for report in reports if report.status), reports[0].status) if reports else None,
                [survivor for report in reports for survivor in report.survivors],
            )
        return self._report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def _started(self, process: ProcessPlan) -> Part:
        if process.name in self._kept:
            return self._kept[process.name]
        # One of its own each: a keeper ends all that carries the marker.
        marker = f"{self.marker}-{process.name}"
        return Part(process, self._launch.folder, self.api_key, marker, self.engine.own_variables, self._holding)

    def _first_ended(self) -> tuple[Part, int] | None:
        for part in self.parts:
            status = part.poll()
            if status is not None:
                return part, status
        return None


def start(engine: Engine, launch: Launch, holding: Sequence[int] = (), kept: Sequence[Part] = ()) -> RunningServer:
    """Start the first processes of the server, each in a session of its own, with its output in the trial's folder.

    `holding`: locks that must last until the server has ended, even where this process dies before it. Returns at once;
    `wait_ready` starts what comes after them. `kept`: what a server that was stopped has handed over. Raises ValueError for a topology that is not known.
    """
    plan = planned(engine, launch, {part.plan.name: part.plan for part in kept})
    return RunningServer(engine, launch, plan, holding, kept)


def wait_ready(server: RunningServer, timeout_s: float, progress: Progress | None = None) -> float:
    """Seconds from the start until all processes were ready, stage by stage. `progress(seconds, last line of a log)`
    once a second.

    Raises ServerEnded, and StartTimeout after `timeout_s`.
    """
    told = 0.0
    more = True
    while more:
        for part in server.waiting_for():
            with part.plan.client(server.api_key, _ASK_TIMEOUT_S) as client:
                while not _ready(server, part, client):
                    passed_s = time.monotonic() - server.started_s
                    if passed_s > timeout_s:
                        raise StartTimeout(_late(server, part, timeout_s))
                    if progress and passed_s - told >= _TELL_EVERY_S:
                        told = passed_s
                        progress(passed_s, _last_line(part.log))
                    time.sleep(_ASK_EVERY_S)
        more = server.start_next()
    return time.monotonic() - server.started_s


def _ready(server: RunningServer, part: Part, client: httpx.Client) -> bool:
    ended = server.ended()
    if ended is not None:
        raise ServerEnded(ended.reason, ended.status)
    with contextlib.suppress(httpx.HTTPError, ValueError):
        return part.plan.ready(client)
    return False


def _late(server: RunningServer, part: Part, timeout_s: float) -> Reason:
    tail = [line for line in part.log_from(0).splitlines() if line.strip()][-_TAIL_LINES:]
    who = "the server" if len(server.plan.processes) == 1 else part.plan.name
    message = f"{who} was not ready after {timeout_s:g} s; start_timeout in config/engines.yaml sets it"
    return Reason(code="start_timeout", message=message, log=tail)


def _last_line(log: Path, most: int = 4096) -> str:
    """The last line of a log that is not empty; empty text where there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""
