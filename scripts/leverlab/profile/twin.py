"""A twin: a cell's server and load once more, under a profiler. Nothing of it is a measurement, and nothing is taken for one."""

import math
import os
import shutil
import statistics
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
from leverlab.profile.recorders import RAW, NothingRecordedError, Recorders, read_profiles
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

_LAST_S: Final = 4.0
"""What a job that was told to end waits for the profiler to stop, and then for its report: with the server's end, and reading what there is, it is to stay below the 30 s
that Slurm gives it."""


def run_twin(specification: TwinSpecification, progress: Progress) -> TwinRecord:
    """Run the twin and keep what it leaves in its folder; the record says how it went.

    A twin that failed is a record too, so that a study is complete without it. Raises MayPassError for what another attempt
    may not meet, DiskFullError, and Interrupted where a signal asks to end. What was recorded by then is kept, marked as a part.
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
        try:
            (part / RAW).mkdir(parents=True)
            with progress.also_to(part / "client.log"), scratch_folder() as scratch:
                record, told_to_end = _recorded(specification, part, scratch, progress)
            write_json(part / TWIN_FILE, record)
            _take_place(part, folder, record)
            if told_to_end is not None:
                raise told_to_end
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return record


def read_twin(folder: Path) -> TwinRecord | None:
    """The record of the twin kept in `folder`; None where there is none that can be read."""
    try:
        return TwinRecord.model_validate(read_json(folder / TWIN_FILE))
    except (OSError, ValueError):
        return None


def _recorded(
    spec: TwinSpecification, part: Path, scratch: Path, progress: Progress
) -> tuple[TwinRecord, Interrupted | None]:
    """How it went, and what told the job to end while it recorded, to be raised once that is kept."""
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
            run.serve()
            record = _read(run, record, part, classes, progress)
        except InfeasibleError as refused:
            return _ended(run.noted(record), begun, "infeasible", refused.reason, progress), None
        except (ServerDiedError, ClientFailedError) as failed:
            return _ended(run.noted(record), begun, "failed", _denied(part) or failed.reason, progress), None
        except (NothingRecordedError, nsys.NsysError, ncu.NcuError) as nothing:
            outcome = "failed" if run.told_to_end is None else "interrupted"
            reason = _denied(part) or _nothing(nothing, run)
            return _ended(run.noted(record), begun, outcome, reason, progress), run.told_to_end
    return _ended(run.noted(record), begun, "recorded", None, progress), run.told_to_end


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


def _take_place(part: Path, folder: Path, record: TwinRecord) -> None:
    """Let `part` be `folder`, unless what stands there holds more: a whole recording gives way to a whole one alone, a part to either."""
    there = read_twin(folder)
    if there is not None and _worth(there) > _worth(record):
        return
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def _worth(record: TwinRecord) -> int:
    return 0 if record.outcome != "recorded" else 1 if record.partial else 2


def _theory(spec: TwinSpecification) -> dict[str, Any]:
    """Layers of the model, and what theory says that a decode step takes at the least."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        found["layers"] = dimensions(read_json(Path(spec.job.model_folder) / "config.json")).layers
    floors = expected_floors(spec.job)
    return found | ({} if floors is None else {"step_floor_s": floors.step_s})


def request_facts(offered: Offered, recorded: tuple[float, float] | None) -> dict[str, float]:
    """Requests that ended well, and medians of what they saw: TTFT, TPOT and the gaps between chunks; of the gaps also of those that lie
    in the time `recorded` (CLOCK_MONOTONIC, s), in which a profiler disturbs most.

    A profiler that writes its trace stops every stream for a while: that is in their TPOT, and not in the medians of the gaps.
    """
    requests = offered.requests.select(["status", "ttft_s", "tpot_s"]).to_pylist()
    ok = [row for row in requests if row["status"] == "ok"]
    facts = {"ok": float(len(ok))}
    for name in ("ttft_s", "tpot_s"):
        values = [row[name] for row in ok if row[name] is not None and math.isfinite(row[name])]
        if values:
            facts[f"{name}_p50"] = statistics.median(values)
    arrivals = offered.chunks.select(["index", "arrival_s"]).to_pandas().sort_values(["index", "arrival_s"])
    gaps_s = arrivals.groupby("index")["arrival_s"].diff()
    if gaps_s.notna().any():
        facts["chunk_gap_s_p50"] = float(gaps_s.median())
    if recorded is not None and offered.origin_ns is not None:
        begin_s, end_s = (moment - offered.origin_ns / 1e9 for moment in recorded)
        inside = (arrivals["arrival_s"] - gaps_s >= begin_s) & (arrivals["arrival_s"] <= end_s)
        if inside.any():
            facts["recorded_chunk_gap_s_p50"] = float(gaps_s[inside].median())
    return facts


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
        self._requests: dict[str, float] = {}
        self._keeper: WindowKeeper | None = None
        self.window = Window()
        self.broken_off: ServerDiedError | ClientFailedError | Interrupted | None = None
        """What ended the load while the profilers recorded."""

    @property
    def told_to_end(self) -> Interrupted | None:
        """The signal where it was one that broke it off."""
        return self.broken_off if isinstance(self.broken_off, Interrupted) else None

    def noted(self, record: TwinRecord) -> TwinRecord:
        """`record` with what is known of the window, the requests, what broke it off, and the files that are there."""
        why = None if self.broken_off is None else ending(self.broken_off)[1]
        if why is None and self.window.opened_at_s is not None and self.window.recorded_s is None:
            why = Reason(code="window_broken_off", message=str(self.window.problem))
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

    def _break_off(self, ended: ServerDiedError | ClientFailedError | Interrupted, server: RunningServer) -> None:
        """Have what was recorded written, while the server stands; raises `ended` where nothing was."""
        patience_s = _LAST_S if isinstance(ended, Interrupted) else None
        if self._keeper is not None:
            self.window = self._keeper.finish(patience_s or self.recorders.stop_timeout_s + 60)
        if self.window.opened_at_s is None:
            raise ended
        self.broken_off = ended
        self._progress.say("broken off; waiting for what the profiler has")
        self.recorders.wait(server, patience_s)

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

        offered: Offered | None = None
        keeper.start()
        try:
            offered = clients.offer(
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
        self.window = keeper.finish(self.recorders.stop_timeout_s + 60)
        if offered is not None:
            pq.write_table(offered.requests, self._part / REQUESTS, **encoding(offered.requests.schema))
            self._requests = request_facts(offered, keeper.recorded)
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
