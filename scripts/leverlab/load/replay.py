"""Replaying a workload: in this process, or in a fresh one that nothing else disturbs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import msgspec

from leverlab.load.log import ReplayLog, read_log
from leverlab.load.loop import Progress, ReplayLoop
from leverlab.load.plan import KEY_VARIABLE, LoadPoint, PlannedRequest, Target


class ReplayJob(msgspec.Struct, frozen=True):
    """What the fresh process is to do, without the API key."""

    target: Target
    requests: list[PlannedRequest]
    load: LoadPoint
    timeout_s: float
    cores: list[int] | None
    log: str


class ReplayProcessError(RuntimeError):
    """The replay's process came to grief; the message holds the end of what it wrote to stderr."""


def replay(
    target: Target,
    requests: Sequence[PlannedRequest],
    load: LoadPoint,
    *,
    timeout_s: float,
    cores: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> ReplayLog:
    """Offer `requests` to `target` at `load` in the calling thread, and follow each to its end.

    Open loop at a rate (no send waits for an answer), closed loop at a concurrency (a request is scheduled for the moment
    its slot came free), all at once in a burst. `timeout_s` is counted from a request's scheduled time. `cores` pins
    the calling thread while it replays. `progress(done, all)` is called four times a second, between two reads.

    A refused or lost connection, an HTTP error, a cut stream are outcomes in the log, not exceptions. Raises ValueError
    for an empty list of requests.
    """
    if not requests:
        raise ValueError("no requests to replay: draw the workload with at least one")
    loop = ReplayLoop(target, requests, load, timeout_s, progress)
    allowed = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        return loop.run()
    finally:
        os.sched_setaffinity(0, allowed)


def replay_in_subprocess(
    target: Target,
    requests: Sequence[PlannedRequest],
    load: LoadPoint,
    *,
    timeout_s: float,
    cores: Sequence[int] | None = None,
    progress: Progress | None = None,
    directory: Path | None = None,
) -> ReplayLog:
    """`replay` in a process of its own, so that no thread of the caller takes its core or its interpreter lock.

    The job goes there by a file, the API key by the environment, the raw log comes back by a file, and progress as lines
    of its standard output. `directory` is where the two files lie meanwhile (the raw log is about as large as what the
    server sent); they are removed. Raises ReplayProcessError where the process fails.
    """
    with tempfile.TemporaryDirectory(prefix="replay-", dir=directory) as name:
        job_path, log_path, error_path = (Path(name) / part for part in ("job.json", "log.msgpack", "stderr"))
        job = ReplayJob(
            target=replace(target, api_key=None),
            requests=list(requests),
            load=load,
            timeout_s=timeout_s,
            cores=None if cores is None else list(cores),
            log=str(log_path),
        )
        job_path.write_bytes(msgspec.json.encode(job))
        environment = {key: value for key, value in os.environ.items() if key != KEY_VARIABLE}
        if target.api_key is not None:
            environment[KEY_VARIABLE] = target.api_key
        command = [sys.executable, "-m", "leverlab.load", str(job_path)]
        with (
            error_path.open("wb") as errors,
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                _report(process.stdout, progress)
                status = process.wait()
            except BaseException:
                process.kill()
                raise
        if status != 0:
            said = error_path.read_text(errors="replace")[-2000:]
            raise ReplayProcessError(f"the replay process ended with status {status}: {said}")
        return read_log(log_path)


def _report(lines: IO[str], progress: Progress | None) -> None:
    for line in lines:
        if progress is not None:
            done, of = line.split()
            progress(int(done), int(of))
