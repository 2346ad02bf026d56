"""A twin: a cell's server and load once more, under a profiler. Nothing of it is a measurement, and nothing is taken for one."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from leverlab.config.model_reference import with_folders
from leverlab.engines import engine_for
from leverlab.engines.base import Engine, Launch, placed
from leverlab.layout import TWIN_FILE, Layout
from leverlab.load.plan import Endpoint, PlannedRequest, read_requests
from leverlab.load_point import LoadPoint
from leverlab.models.dimensions import dimensions
from leverlab.parquet import encoding
from leverlab.profile import ncu, nsys, tables
from leverlab.profile.classes import KernelClasses
from leverlab.profile.keeping import settle, take_place
from leverlab.profile.recorders import RAW, NothingRecordedError, Recorders, read_profiles
from leverlab.profile.request_facts import request_facts
from leverlab.profile.window import Window, WindowKeeper
from leverlab.records import Reason, TwinRecord, TwinSpecification, read_json, write_json
from leverlab.topology import LOOPBACK, RunningServer, Servers, engine_launches
from leverlab.trial.cache_state import bring_about
from leverlab.trial.cell_files import told_of_full_disk
from leverlab.trial.events import utc_now
from leverlab.trial.fingerprint import fingerprint
from leverlab.trial.floors import expected_floors
from leverlab.trial.lease import DeviceLease, file_lease, lease_devices
from leverlab.trial.offer import ClientFailedError, Clients, Offered
from leverlab.trial.outcomes import InfeasibleError, Interrupted, ServerDiedError, ending, see_whether_told_to_end
from leverlab.trial.progress import Progress
from leverlab.trial.runner import devices_may_come, signals_interrupt
from leverlab.trial.served import Served
from leverlab.trial.starting import Started, new_api_key, scratch_folder, started_server
from leverlab.trial.warmup import PromptMaker, warm_up, window_lengths
from leverlab.units import format_seconds

COUNTERS: Final = "counters.parquet"
REQUESTS: Final = "requests.parquet"

_PART: Final = ".part"

_Ended = ServerDiedError | ClientFailedError | Interrupted

_LAST_S: Final = 4.0
"""What a job that was told to end waits for the profiler to stop, and then for its report: with the server's end, and reading what there is, it is to stay below the 30 s
that Slurm gives it."""


def run_twin(specification: TwinSpecification, progress: Progress) -> TwinRecord:
    """Run the twin and keep what it leaves in its folder; the record says how it went.

    A twin that failed is a record too, so that a study is complete without it. Raises MayPassError for what another attempt
    may not meet, DiskFullError, and Interrupted where a signal asks to end; what was recorded by then is kept, a part of it marked as one.
    """
    job = specification.job
    folder = Layout(Path(job.results)).profile(job.server, job.cells[0].phase, specification.tool)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}{_PART}").absolute()
    # A job that a scheduler still holds from an earlier run may be at it: what it has begun is no leftover.
    lease = folder.with_name(f"{folder.name}.lease.json")
    with signals_interrupt(), devices_may_come(), told_of_full_disk(folder), file_lease(lease, progress.say):
        for leftover in folder.parent.glob(f".{folder.name}.*{_PART}"):
            shutil.rmtree(leftover, ignore_errors=True)
        settle(folder)
        try:
            (part / RAW).mkdir(parents=True)
            with progress.also_to(part / "client.log"), scratch_folder() as scratch:
                record, told_to_end = _recorded(specification, part, scratch, progress)
            write_json(part / TWIN_FILE, record)
            take_place(part, folder, record)
            if told_to_end is not None:
                raise told_to_end
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return record


def _recorded(
    spec: TwinSpecification, part: Path, scratch: Path, progress: Progress
) -> tuple[TwinRecord, Interrupted | None]:
    """How it went, and what told the job to end once it recorded, to be raised when that is kept."""
    begun, job = time.monotonic(), spec.job
    classes = KernelClasses(spec.kernel_classes)
    record = TwinRecord(
        twin=spec.twin,
        server=job.server,
        phase=job.cells[0].phase,
        cell=job.cells[0].cell,
        replicate=job.replicate,
        tool=spec.tool,
        outcome="failed",
        started_at=utc_now(),
        **_theory(spec),
    )
    with lease_devices(job.device, job.gpu_count, progress.say) as devices:
        run = _Run(spec, part, scratch, devices, progress)
        record = record.model_copy(update={"provenance": fingerprint(job, devices.gpus), **run.commands()})
        try:
            record = record.model_copy(update={"programs": run.recorders.programs()})
            record = _served_and_read(run, record, part, classes, progress)
        except InfeasibleError as refused:
            return _ended(run.noted(record), begun, "infeasible", refused.reason, progress), None
        except (ServerDiedError, ClientFailedError) as failed:
            return _ended(run.noted(record), begun, "failed", _denied(part) or failed.reason, progress), None
        except (NothingRecordedError, nsys.NsysError, ncu.NcuError) as nothing:
            outcome = "failed" if run.told_to_end is None else "interrupted"
            reason = _denied(part) or _nothing(nothing, run)
            return _ended(run.noted(record), begun, outcome, reason, progress), run.told_to_end
    return _ended(run.noted(record), begun, "recorded", None, progress), run.told_to_end


def _served_and_read(
    run: "_Run", record: TwinRecord, part: Path, classes: KernelClasses, progress: Progress
) -> TwinRecord:
    """Serve, and read what the profilers left. A signal that asks to end costs no recording: of these reports reading takes seconds.

    Raises as `_read` does, and Interrupted where nothing was recorded.
    """
    try:
        run.serve()
        try:
            return _read(run, record, part, classes, progress)
        except (NothingRecordedError, nsys.NsysError, ncu.NcuError):
            see_whether_told_to_end()  # the program that makes the tables may have been ended by the same signal
            raise
    except Interrupted as told:
        run.end_as_told(told)
    progress.say("told to end; reading what the profiler has")
    return _read(run, record, part, classes, progress)


def _nothing(error: Exception, run: "_Run") -> Reason:
    """Why there is nothing to read, with what the window and the server met before."""
    if isinstance(run.broken_off, (ServerDiedError, ClientFailedError)):
        return run.broken_off.reason
    message = f"{error}; the window: {run.window.problem}" if run.window.problem else str(error)
    return Reason(code="nothing_recorded", message=message)


def _denied(part: Path) -> Reason | None:
    """Why Nsight Compute counted nothing where the server's log tells that the driver did not let it; also of a server that died of it."""
    for log in part.glob("*.log"):
        try:
            ncu.see_whether_denied(log.read_text(encoding="utf-8", errors="replace"))
        except ncu.CountersDeniedError as denied:
            return Reason(code="counters_denied", message=str(denied))
    return None


def _read(run: "_Run", record: TwinRecord, part: Path, classes: KernelClasses, progress: Progress) -> TwinRecord:
    """Make tables of what the profilers left: of one that counts instead of recording a row for each kernel that it looked at.

    Raises NothingRecordedError, NsysError and NcuError.
    """
    unread = run.recorders.export()
    if record.tool == "ncu":
        counters = ncu.read_counters((part / RAW / ncu.COUNTERS_FILE).read_text(encoding="utf-8"))
        counters["class"] = [classes.of(kernel) for kernel in counters["kernel"]]
        counters.to_parquet(part / COUNTERS, compression="zstd")
        progress.say(f"counted {len(counters)} kernels")
        return record
    trace, silent = read_profiles(part, record.tool, list(run.recorders.folders), classes, record.layers)
    silent = {name: run.recorders.refused.get(name, unread.get(name, why)) for name, why in silent.items()}
    tables.write(trace, part)
    progress.say(f"recorded {len(trace.kernels)} kernels in {len(trace.steps)} steps")
    for name, why in silent.items():
        progress.say(f"nothing of {name}: {why}")
    return record.model_copy(update={"silent": silent})


def _ended(record: TwinRecord, begun: float, outcome: str, reason: Reason | None, progress: Progress) -> TwinRecord:
    took_s = time.monotonic() - begun
    progress.say(f"twin {outcome} in {format_seconds(took_s)}{f': {reason.message}' if reason else ''}")
    return record.model_copy(update={"outcome": outcome, "reason": reason, "duration_s": round(took_s, 3)})


def why_partial(broken_off: _Ended | None, window: Window) -> Reason | None:
    """Why less was recorded than was to be, by what broke it off and by its window; None where that was not so, or nothing was."""
    if window.opened_at_s is None:
        return None
    if isinstance(broken_off, Interrupted):
        return ending(broken_off)[1]
    if broken_off is not None:
        return broken_off.reason
    return Reason(code="window_broken_off", message=str(window.problem)) if window.recorded_s is None else None


def _theory(spec: TwinSpecification) -> dict[str, Any]:
    """Layers of the model, and what theory says that a decode step takes at the least."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        found["layers"] = dimensions(read_json(Path(spec.job.model_folder) / "config.json")).layers
    floors = expected_floors(spec.job)
    return found | ({} if floors is None else {"step_floor_s": floors.step_s})


class _Run:
    """The server under the profiler, from its start to its stop."""

    def __init__(
        self, spec: TwinSpecification, part: Path, scratch: Path, devices: DeviceLease, progress: Progress
    ) -> None:
        self._spec, self._part, self._scratch, self._devices, self._progress = spec, part, scratch, devices, progress
        self._job, self._wanted = spec.job, spec.job.cells[0]
        self._engine: Engine = engine_for(spec.job.engine_kind)
        self.recorders = Recorders(spec, self._engine, part / RAW)
        self._launch = self._started()
        self._offered: Offered | None = None
        self._requests: dict[str, float] = {}
        self._keeper: WindowKeeper | None = None
        self.window = Window()
        self.broken_off: _Ended | None = None
        """What ended the load or the recording before all was there."""
        self.told_to_end: Interrupted | None = None
        """The signal that asked to end, also where all was there by then."""

    def end_as_told(self, told: Interrupted) -> None:
        """The server has ended: see what the window is. Raises `told` where nothing was recorded."""
        self.told_to_end = told
        self._close_window(0.0)
        if self.window.opened_at_s is None:
            raise told

    def noted(self, record: TwinRecord) -> TwinRecord:
        """`record` with what is known of the window, the requests, what broke it off, and the files that are there."""
        why = why_partial(self.broken_off, self.window)
        files = sorted(str(path.relative_to(self._part)) for path in self._part.rglob("*") if path.is_file())
        return record.model_copy(
            update={"window": self.window.as_mapping(), "requests": self._requests, "partial": why, "files": files}
        )

    def _started(self) -> Launch:
        job = self._job
        return Launch(
            command_prefix=list(job.command_prefix),
            model_folder=Path(job.model_folder),
            identity=placed(with_folders(job.identity, job.other_model_folders), self._scratch),
            host=LOOPBACK,
            port=0,
            api_key=new_api_key(),
            cores=self._devices.engine_cores,
            folder=self._part,
            gpus=self._devices.gpus,
            scratch=self._scratch,
            around=self.recorders.around,
        )

    def commands(self) -> dict[str, Any]:
        """The command lines of the engine servers, as the record keeps them; their ports are chosen when they start."""
        found = {
            name: self._engine.command(launch) for name, launch in engine_launches(self._engine, self._launch).items()
        }
        return {"commands": found} if len(found) > 1 else {"command": next(iter(found.values()))}

    def serve(self) -> None:
        """Serve, offer the load, and have a window of it recorded. Where something ends it before, while it records, `broken_off` says what."""
        self._progress.say(f"starting the server under {self._spec.tool}: {self._job.server}")

        def starting(passed_s: float, line: str) -> None:
            self._progress.show(f"twin: starting the server, {format_seconds(passed_s)}: {line[:120]}")

        def stopped(server: RunningServer) -> None:
            report = server.stop()
            self._progress.say(f"stopped in {format_seconds(report.duration_s)} by {report.signal or 'itself'}")

        timeout_s = 2 * self._job.start_timeout_s
        with (
            started_server(self._engine, self._launch, self._devices, timeout_s, starting, stopped) as started,
            Servers(started.server) as servers,
        ):
            try:
                self._offer(started, servers)
            except (ServerDiedError, ClientFailedError, Interrupted) as ended:
                self._break_off(ended, started.server)

    def _break_off(self, ended: _Ended, server: RunningServer) -> None:
        """Have what was recorded written, while the server stands; raises `ended` where nothing was.

        Where the load was over, and the profilers have all, nothing is broken off.
        """
        self.broken_off = ended
        self.told_to_end = ended if isinstance(ended, Interrupted) else None
        patience_s = None if self.told_to_end is None else _LAST_S
        self._close_window(patience_s or self.recorders.stop_timeout_s + 60)
        if self.window.opened_at_s is None:
            raise ended
        self._progress.say("broken off; waiting for what the profiler has")
        written = self.recorders.wait(server, patience_s)
        ended_well = self._keeper is not None and not self._keeper.is_alive() and self.window.recorded_s is not None
        if written and ended_well and self._offered is not None:
            self.broken_off = None

    def _close_window(self, patience_s: float) -> None:
        """See how the window went, waiting for the profilers to end, and what the requests saw where they all ended."""
        if self._keeper is None:
            return
        self.window = self._keeper.finish(patience_s)
        if self._offered is not None:
            requests = self._offered.requests
            pq.write_table(requests, self._part / REQUESTS, **encoding(requests.schema))
            self._requests = request_facts(self._offered, self._keeper.recorded)

    def _offer(self, started: Started, servers: Servers) -> None:
        wanted, job = self._wanted, self._job
        workload = read_requests(Path(wanted.workload_file), f"twin-{self._spec.twin}")
        keeper = self._keeper = self._window_keeper(started.server, workload)
        served = self._served(started, servers, lambda: keeper.closing)
        prompts = PromptMaker(Path(job.model_folder), job.replicate, f"twin {self._spec.twin}")
        warm_up(window_lengths(workload), prompts, lambda some: served.send(some, 1))
        bring_about(wanted.identity["cache"], served, workload, prompts)
        clients = Clients(self._devices.client_cores, job.command_prefix, Path(job.model_folder), job.order_seed)

        def watched(done: int, of: int) -> None:
            served.check_alive()
            keeper.progress(done, of)
            self._progress.show(f"twin ({LoadPoint(**wanted.identity['load'])}): {done}/{of} requests")

        keeper.start()
        try:
            self._offered = clients.offer(
                wanted.identity["client"],
                served.target,
                workload,
                LoadPoint(**wanted.identity["load"]),
                wanted.request_timeout_s,
                self._part,
                watched,
            )
        except ClientFailedError:
            # The server may end with the profiler; what was recorded by then counts.
            if not keeper.closing:
                raise
        self._close_window(self.recorders.stop_timeout_s + 60)
        if self.window.problem:
            self._progress.say(f"the window: {self.window.problem}")
        if self.window.opened_at_s is None:
            raise NothingRecordedError("the profiler never began")
        self._progress.say("waiting for the profiler's report")
        self.recorders.wait(started.server)

    def _served(self, started: Started, servers: Servers, profiler_ended: Callable[[], bool]) -> Served:
        server = started.server

        def check_alive() -> None:
            # Nsight Systems ends with its window and leaves the server running, without the parent that was waited for.
            if server.poll() is not None and not profiler_ended():
                see_whether_told_to_end()
                raise ServerDiedError(self._engine.explain_exit(server.log_text()))

        return Served(
            engine=self._engine,
            servers=servers,
            host=started.launch.host,
            port=started.launch.port,
            api_key=started.launch.api_key,
            endpoint=Endpoint(self._wanted.identity["endpoint"]),
            request_timeout_s=max(self._wanted.request_timeout_s, 600.0),
            check_alive=check_alive,
            request=self._wanted.identity.get("request", {}),
        )

    def _window_keeper(self, server: RunningServer, workload: Sequence[PlannedRequest]) -> WindowKeeper:
        tokens = float(sum(request.output_tokens for request in workload))
        recorders = self.recorders
        return WindowKeeper(
            lambda: recorders.look(server),
            lambda: recorders.begin(server),
            lambda: recorders.end(server),
            self._spec.window_s,
            tokens,
        )
