"""A job of the rule `accuracy` from end to end: the server started as for a trial, asked, stopped; the run kept by rename."""

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from leverlab.accuracy.asking import NoAnswerError, ask
from leverlab.accuracy.harness import (
    CannotAskError,
    FoundTask,
    HarnessError,
    arguments,
    check_splits,
    find_task,
    run,
    scores_of,
    take_results,
    write_task,
)
from leverlab.accuracy.plan import RECORD_FILE, job_record, read_run
from leverlab.accuracy.samples import ANSWERS_FILE
from leverlab.config.accuracy import Accuracy
from leverlab.config.model_reference import with_folders
from leverlab.engines import engine_for
from leverlab.engines.base import EngineUnreachableError, Launch, placed
from leverlab.layout import Layout
from leverlab.records import AccuracyJobRecord, AccuracyRecord, AccuracySpecification, Reason, write_json
from leverlab.redaction import redactor_of_this_process
from leverlab.topology import LOOPBACK, RunningServer, Servers, launches_to_check
from leverlab.trial.cell_files import told_of_full_disk
from leverlab.trial.events import utc_now
from leverlab.trial.fingerprint import fingerprint
from leverlab.trial.lease import DeviceLease, file_lease, lease_devices
from leverlab.trial.outcomes import InfeasibleError, MayPassError, ServerDiedError, answering, see_whether_told_to_end
from leverlab.trial.progress import Progress
from leverlab.trial.runner import devices_may_come, signals_interrupt
from leverlab.trial.starting import Started, new_api_key, scratch_folder, started_server

DEATHS: Final = 2
"""Starts in which the server dies until that is its result."""

_ATTEMPTS: Final = "attempts"


@dataclass(slots=True)
class _Attempt:
    """One start of the server, in a folder of its own, which becomes the run's where it comes to an end that is kept."""

    folder: Path
    record: AccuracyRecord
    begun_s: float

    def note(self, **changed: Any) -> None:  # noqa: ANN401 - fields of the record
        self.record = self.record.model_copy(update=changed)


def run_job(specification: AccuracySpecification, progress: Progress) -> AccuracyJobRecord:
    """See that the run has a record, and return the job's.

    Raises MayPassError for what another attempt may not meet, CannotAskError for what must be mended first, DiskFullError, and
    Interrupted where a signal asks to end.
    """
    job = specification.job
    layout = Layout(Path(job.results))
    final = layout.accuracy_run(job.server, job.replicate, specification.task_id)
    lease = layout.accuracy(job.server, job.replicate) / "lease.json"
    with signals_interrupt(), devices_may_come(), file_lease(lease, progress.say), told_of_full_disk(final):
        there = read_run(final)
        if there is None and (final / RECORD_FILE).exists():
            # What lies beside it may be worth more than another run.
            raise CannotAskError(f"{final / RECORD_FILE} cannot be read; delete its folder to ask again")
        if there is None or (there.status == "failed" and job.retry_failed):
            there = _asked(specification, layout, final, progress)
    return job_record(there)


def _asked(specification: AccuracySpecification, layout: Layout, final: Path, progress: Progress) -> AccuracyRecord:
    job = specification.job
    task = _task(specification)
    with lease_devices(job.device, job.gpu_count, progress.say) as devices:
        for death in range(1, DEATHS + 1):
            attempt = _new_attempt(specification, layout)
            try:
                with scratch_folder() as scratch:
                    _serve_and_ask(specification, task, attempt, devices, scratch, progress)
                attempt.note(status="measured")
            except InfeasibleError as refused:
                attempt.note(status="infeasible", reason=refused.reason)
            except ServerDiedError as died:
                progress.say(f"the server died: {died}")
                if death < DEATHS and died.reason.code != "out_of_memory":
                    continue
                status = "infeasible" if died.reason.code == "out_of_memory" else "failed"
                attempt.note(status=status, reason=died.reason)
            except HarnessError as error:
                attempt.note(status="failed", reason=Reason(code="lm_eval_failed", message=str(error), log=error.tail))
            except NoAnswerError as error:
                attempt.note(status="failed", reason=Reason(code="no_answer", message=str(error)))
            _keep(attempt, final)
            reason = attempt.record.reason
            progress.say(f"{attempt.record.status}{': ' + reason.message if reason else ''}")
            return attempt.record
    raise AssertionError("every attempt returns or is followed by another")


def _new_attempt(specification: AccuracySpecification, layout: Layout) -> _Attempt:
    job = specification.job
    attempts = layout.accuracy(job.server, job.replicate) / _ATTEMPTS
    attempts.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in attempts.iterdir() if path.name.isdigit()), default=0)
    folder = attempts / str(number)
    folder.mkdir()
    record = AccuracyRecord(
        server=job.server,
        replicate=job.replicate,
        task_id=specification.task_id,
        status="failed",
        specification={"server": job.identity, "task": specification.task},
        engine=job.engine,
        started_at=utc_now(),
        duration_s=0.0,
    )
    return _Attempt(folder, record, time.monotonic())


def _task(specification: AccuracySpecification) -> FoundTask:
    """The task as it is installed here, before anything is started. Raises CannotAskError."""
    task = find_task(specification.lm_eval_prefix, specification.task["task"])
    wanted = specification.task["lm_eval"]
    if task.version != wanted:
        raise CannotAskError(
            f"lm_eval {task.version} is installed, and {wanted} is what identifies the result: install that, or leave out "
            "lm_eval_python, so that the environment is made from envs/lm-eval.txt"
        )
    if specification.data_files:
        check_splits(task, specification.data_files)
    return task


def _serve_and_ask(
    specification: AccuracySpecification,
    task: FoundTask,
    attempt: _Attempt,
    devices: DeviceLease,
    scratch: Path,
    progress: Progress,
) -> None:
    job = specification.job
    engine = engine_for(job.engine_kind)
    attempt.note(provenance=fingerprint(job, devices.gpus))
    launch = Launch(
        command_prefix=job.command_prefix,
        model_folder=Path(job.model_folder),
        identity=placed(with_folders(job.identity, job.other_model_folders), scratch),
        host=LOOPBACK,
        port=0,
        api_key=new_api_key(),
        cores=devices.engine_cores,
        folder=attempt.folder,
        gpus=devices.gpus,
        scratch=scratch,
    )
    try:
        refusal = next(filter(None, map(engine.check_configuration, launches_to_check(engine, launch))), None)
    except EngineUnreachableError as error:
        raise MayPassError(Reason(code="engine_unreachable", message=str(error))) from error
    if refusal is not None:
        raise InfeasibleError(refusal)
    progress.say(f"starting the server: {job.server}")

    def starting(passed_s: float, line: str) -> None:
        progress.show(f"starting the server, {passed_s:.0f} s: {line[:120]}")

    def stopped(server: RunningServer) -> None:
        attempt.note(stop=asdict(server.stop()))

    with (
        started_server(engine, launch, devices, job.start_timeout_s, starting, stopped) as started,
        started.server.client() as client,
    ):

        def check_alive() -> None:
            ended = started.server.ended()
            if ended is not None:
                see_whether_told_to_end()
                raise ServerDiedError(ended.reason)

        redactor = redactor_of_this_process(API_KEY=started.launch.api_key)
        with answering("its configuration or the first prompts", check_alive):
            _look_at(started, specification, attempt)
            _ask_prompts(specification, attempt, client, progress)
        progress.say(f"asking {specification.task_id}")
        output = attempt.folder / "output"
        files = {split: Path(path) for split, path in specification.data_files.items()}
        name = write_task(attempt.folder, task, files) if files else specification.task["task"]
        given = arguments(
            name,
            specification.task,
            f"{started.server.base_url}/v1/completions",
            engine.served_model_name,
            specification.timeout_s,
            output,
        )
        begun_s = time.monotonic()
        run(
            [*specification.lm_eval_prefix, *given],
            started.launch.api_key,
            attempt.folder,
            offline=bool(files),
            cores=devices.client_cores,
            redactor=redactor,
            check_alive=check_alive,
            progress=progress.show,
        )
        took_s = time.monotonic() - begun_s
    results = take_results(output, attempt.folder)
    ((_, configuration),) = results["configs"].items()
    attempt.note(
        scores=scores_of(results),
        lm_eval={
            "version": task.version,
            "arguments": given,
            "duration_s": round(took_s, 3),
            "task_hashes": results.get("task_hashes", {}),
            "generation": configuration.get("generation_kwargs", {}),
        },
    )
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(attempt.folder / "datasets", ignore_errors=True)


def _look_at(started: Started, specification: AccuracySpecification, attempt: _Attempt) -> None:
    """Compare what the server says it runs with against what was asked for; a difference is kept, and spoils comparisons."""
    job = specification.job
    with Servers(started.server) as servers:
        effective = servers.effective_configuration()
        differences = [asdict(found) for found in servers.differences(effective)]
    declared: Mapping[str, str] = job.identity["engine"].get("versions", {})
    installed = attempt.record.provenance.get("versions")
    for package, version in declared.items():
        found = installed.get(package) if isinstance(installed, dict) else None
        if found is not None and found != version:
            differences.append(
                {"key": f"version of {package}", "intended": version, "effective": found, "expected": False}
            )
    redactor = redactor_of_this_process(API_KEY=started.launch.api_key)
    attempt.note(
        start={name: round(seconds, 3) for name, seconds in started.steps_s.items()},
        effective=redactor.json(effective),
        differences=redactor.json(differences),
    )


def _ask_prompts(
    specification: AccuracySpecification, attempt: _Attempt, client: httpx.Client, progress: Progress
) -> None:
    asked = specification.task
    prompts = asked.get("prompts", Accuracy.model_fields["prompts"].default)
    tokens = asked.get("prompt_tokens", Accuracy.model_fields["prompt_tokens"].default)
    if prompts:
        model = engine_for(specification.job.engine_kind).served_model_name
        answers = ask(client, model, prompts, tokens, specification.timeout_s, progress.show)
        write_json(attempt.folder / ANSWERS_FILE, {"temperature": 0, "max_tokens": tokens, "answers": answers})


def _keep(attempt: _Attempt, final: Path) -> None:
    """Let the attempt's folder take the run's place. A measured run is never replaced: nobody comes here with one there."""
    files = {path.name: _sha256(path) for path in sorted(attempt.folder.iterdir()) if path.is_file()}
    attempt.note(files=files, duration_s=round(time.monotonic() - attempt.begun_s, 3))
    write_json(attempt.folder / RECORD_FILE, attempt.record)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        attempt.folder.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        attempt.folder.rename(final)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
