"""One trial: a server started, the missing phases measured on it, the server stopped on every way out."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from leverlab.checks import worst
from leverlab.checks.base import requests_wait
from leverlab.config.model_reference import with_folders
from leverlab.engines.base import EngineUnreachableError, Launch, placed
from leverlab.load.plan import Endpoint, read_requests
from leverlab.load_point import LoadPoint
from leverlab.records import (
    PhaseSpecification,
    Reason,
    SearchRecord,
    Status,
    TrialRecord,
    write_json,
)
from leverlab.redaction import Redactor, redactor_of_this_process
from leverlab.telemetry import Sampling
from leverlab.topology import LOOPBACK, RunningServer, launches_to_check
from leverlab.trial.cache_state import fill
from leverlab.trial.cell_files import write_cell
from leverlab.trial.cell_records import cell_record, check_measured, measured_record
from leverlab.trial.events import EventLog, utc_now
from leverlab.trial.fingerprint import fingerprint
from leverlab.trial.gpu_memory import memory_returned, used_bytes
from leverlab.trial.job import Job
from leverlab.trial.lifetime import Lifetime
from leverlab.trial.offer import ClientFailedError, Clients
from leverlab.trial.outcomes import (
    InfeasibleError,
    MayPassError,
    ServerDiedError,
    answering,
    ending,
    see_whether_told_to_end,
)
from leverlab.trial.phase import Measurement, measure_phase
from leverlab.trial.progress import phase_line
from leverlab.trial.search import search_rate
from leverlab.trial.served import Served
from leverlab.trial.starting import new_api_key, scratch_folder
from leverlab.trial.sweep import too_much
from leverlab.trial.time_left import TimeLeft
from leverlab.trial.warmup import PromptMaker, WarmUp, warm_up, window_lengths
from leverlab.units import format_seconds

TRIAL_FILE: Final = "trial.json"
CLIENT_LOG: Final = "client.log"
EVENTS_FILE: Final = "events.jsonl"


class Trial:
    """One start of a job's server. Make it, `run` it once; what it measured is in the cells' folders, how it went in trial.json."""

    def __init__(self, job: Job, phases: Sequence[PhaseSpecification], *, check_configuration: bool) -> None:
        """Take the next free number. `phases` are measured in their order; `check_configuration` first asks the engine in full."""
        self._job = job
        self._check_configuration = check_configuration
        self._phases = phases
        self.number, self._folder = _new_folder(job)
        spec = job.specification
        self._record = TrialRecord(
            server=spec.server, replicate=spec.replicate, trial=self.number, outcome="running", started_at=utc_now()
        )
        self._prompts = PromptMaker(Path(spec.model_folder), spec.replicate, self.number)
        self._warmup: WarmUp | None = None
        self._redactor: Redactor = redactor_of_this_process()
        self._memory_before: dict[str, int] = {}
        self.under_way: PhaseSpecification | None = None
        """The phase that is being measured now: where the server dies, it is this one's."""
        self.finished: list[str] = []
        """Phases whose cells this trial has written."""

    def run(self) -> None:
        """Raises InfeasibleError, ServerDiedError, MayPassError or Interrupted; trial.json says which it was."""
        job = self._job
        with job.progress.also_to(self._folder / CLIENT_LOG), EventLog(self._folder / EVENTS_FILE) as events:
            self._events = events
            self._note()
            try:
                self._serve_and_measure()
            except BaseException as error:
                outcome, reason = ending(error)
                self._end(outcome, reason)
                raise
            self._end("finished", None)

    def _serve_and_measure(self) -> None:
        job, spec = self._job, self._job.specification
        self._say(f"starting the server for {len(self._phases)} cells: {spec.server}")
        self._note(fingerprint=fingerprint(spec, job.devices.gpus))
        self._memory_before = used_bytes(job.devices.gpus) if spec.device == "cuda" else {}

        def starting(passed_s: float, line: str) -> None:
            job.progress.show(f"trial {self.number}: starting the server, {format_seconds(passed_s)}: {line[:120]}")

        with scratch_folder() as scratch:
            launch = Launch(
                command_prefix=spec.command_prefix,
                model_folder=Path(spec.model_folder),
                identity=placed(with_folders(spec.identity, spec.other_model_folders), scratch),
                host=LOOPBACK,
                port=0,
                api_key=new_api_key(),
                cores=job.devices.engine_cores,
                folder=self._folder,
                gpus=job.devices.gpus,
                scratch=scratch,
            )
            self._redactor = redactor_of_this_process(API_KEY=launch.api_key)
            self._events.write("start", server=spec.server, trial=self.number)
            if self._check_configuration:
                self._check(launch)
            with Lifetime(job, launch, starting, self._stopped) as lifetime:
                lifetime.start()
                self._ready(lifetime)
                self._warm_up(lifetime.served)
                self._measure_all(lifetime)

    def _measure_all(self, lifetime: Lifetime) -> None:
        job, spec = self._job, self._job.specification
        left = TimeLeft(job.layout, spec.server, self._phases, job.workloads)
        for position, wanted in enumerate(self._phases):
            reason = too_much(wanted, spec, job.layout)
            if reason is not None:
                self.write_unmeasured(wanted, "skipped", reason, position)
                self.finished.append(wanted.phase)
                continue
            self.under_way = wanted
            if wanted.identity["cache"] == "restarted":
                self._restart(lifetime, wanted)
            self._measure(lifetime, wanted, position, left)
            self.under_way = None
            self.finished.append(wanted.phase)

    def _restart(self, lifetime: Lifetime, wanted: PhaseSpecification) -> None:
        """Fill the server with the prompts of `wanted`, stop it, and start it again. A tier that outlives it keeps them."""
        self._say(f"filling the caches and restarting the server before {wanted.phase}")
        served = replace(
            lifetime.served,
            endpoint=Endpoint(wanted.identity["endpoint"]),
            request=wanted.identity.get("request", {}),
        )
        if not fill(served, self._job.workloads[wanted.workload_file]):
            message = (
                f"the server did not reset its cache before {wanted.phase}, so that what it would keep is not known"
            )
            raise ServerDiedError(Reason(code="cache_not_reset", message=message))
        lifetime.restart()
        ended, steps_s = self._record.stop, lifetime.started.steps_s
        # How the server before ended stands with its restart: `stop` is of the one that runs now, which has not ended.
        self._note(restarts=[*self._record.restarts, {"phase": wanted.phase, **steps_s, "stop": ended}], stop={})
        self._ready(lifetime)
        self._warm_up(lifetime.served)

    def _check(self, launch: Launch) -> None:
        """The engine's own full check, here, where the device is."""
        self._say("asking the engine whether it accepts the configuration")
        begun_s = time.monotonic()
        try:
            launches = launches_to_check(self._job.engine, launch)
            refusal = next(filter(None, map(self._job.engine.check_configuration, launches)), None)
        except EngineUnreachableError as error:
            raise MayPassError(Reason(code="engine_unreachable", message=str(error))) from error
        self._note(start={"configuration_check": round(time.monotonic() - begun_s, 3)})
        if refusal is not None:
            raise InfeasibleError(refusal)

    def _ready(self, lifetime: Lifetime) -> None:
        started, served = lifetime.started, lifetime.served
        with answering("its configuration", served.check_alive):
            effective = self._redacted(served.servers.effective_configuration())
        differences = [asdict(found) for found in served.servers.differences(effective)]
        steps_s = {name: round(seconds, 3) for name, seconds in started.steps_s.items()}
        self._note(
            start={**steps_s, **self._record.start},  # of the first start; those of a restart stand with it
            compile_caches=self._record.compile_caches or dict(started.compile_caches),
            processes=started.server.placement(),
            effective=effective,
            differences=self._redacted(differences),
        )
        self._events.write("ready", steps_s=steps_s, differences=len(differences))
        self._say(f"ready after {format_seconds(sum(steps_s.values()))}")
        for found in differences:
            if not found["expected"]:
                self._say(f"{found['key']}: asked {found['intended']}, is {found['effective']}")

    def _warm_up(self, served: Served) -> None:
        begun_s = time.monotonic()
        first = self._phases[0]
        endpoint = Endpoint(first.identity["endpoint"])
        lengths = window_lengths(self._job.workloads[first.workload_file])
        self._warmup = warm_up(lengths, self._prompts, lambda some: replace(served, endpoint=endpoint).send(some, 1))
        took_s = time.monotonic() - begun_s
        self._note(start={**self._record.start, "warmup": round(took_s, 3)}, warmup=self._warmup.as_mapping())
        self._events.write("warm", steady=self._warmup.steady, windows=len(self._warmup.windows))
        steady = "steady" if self._warmup.steady else "not steady"
        self._say(f"warmed up in {format_seconds(took_s)}, {len(self._warmup.windows)} windows, {steady}")

    def _measure(self, lifetime: Lifetime, wanted: PhaseSpecification, position: int, left: TimeLeft) -> None:
        job, spec = self._job, self._job.specification
        load = offered = LoadPoint(**wanted.identity["load"])
        searching = wanted.identity.get("search")
        begun_s = time.monotonic()
        job.check_lease()
        self._events.write("phase_started", cell=wanted.cell, phase=wanted.phase, position=position)
        self._note(phases=[*self._record.phases, wanted.phase])

        def show(done: int, of: int) -> None:
            remaining_s = left.seconds(position, time.monotonic() - begun_s, done, of)
            name = f"search, now {offered}" if searching else str(load)
            job.progress.show(phase_line(self.number, position + 1, len(self._phases), name, done, of, remaining_s))

        clients = Clients(job.client_cores, spec.command_prefix, Path(spec.model_folder), spec.order_seed)

        def measure(at: LoadPoint, run: int | None = None) -> Measurement:
            nonlocal offered
            offered = at
            prefix = f"{wanted.phase.rpartition('-')[2]}-t{self.number}" + ("" if run is None else f"-{run}")
            return measure_phase(
                lifetime.served,
                wanted,
                read_requests(Path(wanted.workload_file), prefix),
                at,
                prompts=self._prompts,
                clients=clients,
                sampling=lambda: Sampling(
                    lifetime.started.server,
                    spec.device,
                    job.devices.gpus,
                    job.devices.engine_cores,
                    job.client_cores,
                ),
                folder=self._folder,
                progress=show,
            )

        try:
            if searching:
                limit_s = math.inf if wanted.search_limit_s is None else wanted.search_limit_s
                found, search = search_rate(measure, searching, limit_s, self._say, requests_wait(wanted.identity))
            else:
                found, search = measure(load), None
        except ClientFailedError as error:
            see_whether_told_to_end()
            self.write_unmeasured(wanted, "failed", error.reason, position, time.monotonic() - begun_s)
            return
        self._write_measured(wanted, found, position, search)

    def _write_measured(
        self, wanted: PhaseSpecification, found: Measurement, position: int, search: SearchRecord | None
    ) -> None:
        job, spec = self._job, self._job.specification
        steady = self._warmup.steady if self._warmup else None
        checks = check_measured(job, self._record, wanted, found, search, steady, self._memory_before)
        record = measured_record(job, self._record, wanted, position, found, search)
        job.check_lease()
        write_cell(job.layout.cell(spec.server, spec.replicate, wanted.phase), record, found.tables, checks)
        self._events.write_requests(wanted.cell, job.engine.served_model_name, found.tables["requests"])
        statuses = Counter(found.tables["requests"].column("status").to_pylist())
        severity = worst(checks)
        self._events.write(
            "phase_ended", cell=wanted.cell, phase=wanted.phase, status="measured", checks=severity, requests=statuses
        )
        marked = ", ".join(check.code for check in checks if check.severity == severity != "ok")
        told = f"{severity} ({marked})" if marked else severity
        self._say(f"measured {wanted.phase} in {format_seconds(found.duration_s)}; checks: {told}")

    def write_unmeasured(
        self, wanted: PhaseSpecification, status: Status, reason: Reason, position: int = 0, duration_s: float = 0.0
    ) -> None:
        """Keep the record of a cell that was not measured (`failed`, `infeasible`, `skipped`), with the reason."""
        job, spec = self._job, self._job.specification
        record = cell_record(job, self._record, wanted, position).model_copy(
            update={"status": status, "reason": reason, "duration_s": round(duration_s, 3)}
        )
        write_cell(job.layout.cell(spec.server, spec.replicate, wanted.phase), record, {}, None)
        job.progress.say(f"trial {self.number}: {wanted.phase}: {status}: {reason.message}")

    def _stopped(self, server: RunningServer) -> None:
        report = server.stop()
        told: dict[str, Any] = {
            "duration_s": round(report.duration_s, 3),
            "signal": report.signal,
            "status": report.status,
            "survivors": report.survivors,
        }
        if self._job.specification.device == "cuda":
            told["gpu_memory"] = memory_returned(self._job.devices.gpus, self._memory_before)
            if told["gpu_memory"]["returned"] is False:
                self._say("the server is gone and memory of its GPUs is still in use: see nvidia-smi")
        self._note(stop=told)
        self._events.write("stop", **told)

    def _end(self, outcome: str, reason: Reason | None) -> None:
        self._note(outcome=outcome, reason=reason, ended_at=utc_now())
        self._events.write("end", outcome=outcome, reason=None if reason is None else reason.code)
        self._say(outcome if reason is None else f"{outcome}: {reason.message}")

    def _note(self, **changed: Any) -> None:  # noqa: ANN401 - fields of the record
        """Keep what is known by now in trial.json."""
        self._record = self._record.model_copy(update=changed)
        write_json(self._folder / TRIAL_FILE, self._record)

    def _say(self, message: str) -> None:
        self._job.progress.say(f"trial {self.number}: {message}")

    def _redacted(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """`value` without secrets: engines show their whole environment where they are asked for their configuration."""
        return self._redactor.json(value)


def _new_folder(job: Job) -> tuple[int, Path]:
    spec = job.specification
    number = 1
    while True:
        folder = job.layout.trial(spec.server, spec.replicate, number)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return number, folder
