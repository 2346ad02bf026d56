"""The profilers of a twin: one round each engine server, told together when to record, each with files of its own.

What stands before or beside the engine servers, a proxy or a daemon, is not profiled.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx

from leverlab.config.profile import NCU_LAUNCH_S
from leverlab.config.topology import parts_of
from leverlab.engines.base import Engine, Launch
from leverlab.engines.profiling import PROFILING, STOP_TIMEOUT_S, ProfilerRefusedError, Profiling
from leverlab.load.plan import read_requests
from leverlab.profile import ncu, nsys, tables
from leverlab.profile.classes import KernelClasses
from leverlab.profile.nsys_export import ExportError, read_nsys_export
from leverlab.profile.torch_trace import TraceError, read_torch_traces
from leverlab.profile.unmarked import with_steps
from leverlab.profile.window import Looked
from leverlab.records import TwinSpecification
from leverlab.topology import Part, RunningServer

RAW: Final = "raw"
"""Folder of what the profilers wrote: their files, or a folder for each of several engine servers."""

_REPORT_TIMEOUT_S: Final = 300.0

_SPARE_TOKENS: Final = 4096
"""What warm-up and drafts hold besides, and what schedulers keep free."""
_MOST_TOKENS: Final = 131_072
"""Where a load needs more its KV cache stays as large as the engine makes it: what a GPU can hold of that is not known here."""


class NothingRecordedError(Exception):
    """The profiler left nothing that can be read; the text says why."""


class Recorders:
    """The profilers of the engine servers of `spec`, which write below `raw`."""

    def __init__(self, spec: TwinSpecification, engine: Engine, raw: Path) -> None:
        self._spec, self._engine = spec, engine
        self._profiling: Profiling = PROFILING[spec.job.engine_kind]
        self._libraries = nsys.library_environment(spec.libraries)
        names = [part.name for part in parts_of(spec.job.identity)]
        self.folders: Mapping[str, Path] = {names[0]: raw} if len(names) == 1 else {name: raw / name for name in names}
        """Engine server → where its profiler writes."""
        for folder in self.folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        self.refused: dict[str, str] = {}
        """Engine servers that were told to record and did not begin → why. The others record without them."""

    def around(self, name: str, launch: Launch) -> Launch:
        """The launch of the engine server `name` with its profiler: `Launch.around`."""
        spec, folder = self._spec, self.folders[name]
        flags, environment = launch.identity["flags"], launch.identity["environment"]
        identity = {
            **launch.identity,
            "flags": {**flags, **self._profiling.flags(spec.tool, folder), **self._cache_flags(flags)},
            "environment": {**environment, **nsys.library_environment(spec.libraries, environment)},
        }
        prefix = list(launch.command_prefix)
        if spec.tool == "nsys":
            prefix = [*nsys.command_prefix(self._program, folder), *prefix]
        if spec.tool == "ncu":
            prefix = [*ncu.command_prefix(self._program, folder, spec.kernels, spec.launches, self._counters), *prefix]
        return replace(launch, identity=identity, command_prefix=prefix)

    def _cache_flags(self, flags: Mapping[str, Any]) -> Mapping[str, Any]:
        """For Nsight Compute, which saves all that is allocated before each kernel: a KV cache no larger than the load needs."""
        tokens = _tokens_needed(self._spec) if self._spec.tool == "ncu" else None
        return {} if tokens is None else self._profiling.cache_flags(flags, tokens)

    @property
    def stop_timeout_s(self) -> float:
        """How long a server may take to end its profiler: under Nsight Compute every kernel that it looks at holds it up."""
        return STOP_TIMEOUT_S + (self._spec.launches * NCU_LAUNCH_S if self._spec.tool == "ncu" else 0.0)

    def programs(self) -> dict[str, str]:
        """The profiler's version, where it is a program of its own. Raises NsysError and NcuError where it does not run."""
        if self._spec.program is None:
            return {}
        if self._spec.tool == "ncu":
            return {"ncu": ncu.version(self._spec.program)}
        return {"nsys": nsys.version(self._spec.program, self._libraries)}

    @cached_property
    def _counters(self) -> list[str]:
        return ncu.metrics(self._program)

    @property
    def _program(self) -> str:
        assert self._spec.program is not None
        return self._spec.program

    def look(self, server: RunningServer) -> Looked:
        """How far the load is: tokens and requests of the servers that answer, iterations of each. Raises httpx.HTTPError."""
        generated: list[float] = []
        running: list[float] = []
        iterations: dict[str, float | None] = {}
        for part in server.engine_parts:
            with _client(server, part) as client:
                text = client.get("/metrics").text
            known = self._engine.canonical_metrics(text)
            if part.plan.answers:
                generated += [known["generation_tokens"]] if "generation_tokens" in known else []
                running += [known["running"]] if "running" in known else []
            iterations[part.plan.name] = self._profiling.iteration_count(text)
        return Looked(sum(generated) if generated else None, sum(running) if running else None, iterations)

    def begin(self, server: RunningServer) -> None:
        """Have every engine server record; `refused` names those that did not begin.

        Raises ProfilerRefusedError and httpx.HTTPError where none began.
        """

        def one(part: Part, client: httpx.Client) -> None:
            self._profiling.start(client, self._spec.tool, self.folders[part.plan.name])

        failed = self._each(server, server.engine_parts, one)
        if len(failed) == len(server.engine_parts):
            raise next(iter(failed.values()))
        self.refused |= {name: f"{type(error).__name__}: {error}" for name, error in failed.items()}

    def _began(self, server: RunningServer) -> list[Part]:
        return [part for part in server.engine_parts if part.plan.name not in self.refused]

    def end(self, server: RunningServer) -> None:
        """Have every one end, and write what it has. Raises as `begin` does, where one that began fails."""
        # One that answered too late may record all the same.
        failed = self._each(
            server, server.engine_parts, lambda _, client: self._profiling.stop(client, self.stop_timeout_s)
        )
        for error in (error for name, error in failed.items() if name not in self.refused):
            raise error

    def _each(
        self, server: RunningServer, parts: Sequence[Part], tell: Callable[[Part, httpx.Client], None]
    ) -> dict[str, Exception]:
        """Tell all at once: one that writes its trace before it answers must not lengthen another's window. Who failed → of what."""

        def told(part: Part) -> Exception | None:
            try:
                with _client(server, part) as client:
                    tell(part, client)
            except (ProfilerRefusedError, httpx.HTTPError) as error:
                if len(server.engine_parts) > 1:
                    error.add_note(part.plan.name)
                return error
            return None

        with ThreadPoolExecutor(len(parts)) as pool:
            answers = zip(parts, pool.map(told, parts), strict=True)
        return {part.plan.name: error for part, error in answers if error is not None}

    def wait(self, server: RunningServer, timeout_s: float | None = None) -> bool:
        """Whether the report of every engine server that began is whole, waiting for `timeout_s` in all at most, or for each as long as
        reports may take; Nsight Compute writes it when the server has ended, which is ended for that. Torch's is whole when it ends."""
        if self._spec.tool == "torch":
            return True
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        parts = self._began(server)
        if self._spec.tool == "ncu":
            for part in parts:
                ncu.end_server(part.processes(), self.folders[part.plan.name])
        whole = True
        for part in parts:
            left_s = _REPORT_TIMEOUT_S if deadline is None else max(deadline - time.monotonic(), 0.0)
            if self._spec.tool == "ncu":
                whole &= _wait_until(lambda part=part: part.poll() is not None, left_s)  # type: ignore[misc]
                continue
            whole &= nsys.wait_for_report(
                self.folders[part.plan.name],
                lambda part=part: part.log_from(0),  # type: ignore[misc]
                lambda part=part: part.poll() is not None,  # type: ignore[misc]
                left_s,
            )
        return whole

    def export(self) -> dict[str, str]:
        """Bring what the profilers wrote into a form that can be read; engine servers of which that was not possible → why.

        Raises NothingRecordedError where it was possible of none, and NcuError.
        """
        if self._spec.tool == "torch":
            return {}
        if self._spec.tool == "ncu":
            for folder in self.folders.values():
                ncu.export(self._program, folder)
            return {}
        failed: dict[str, str] = {}
        for name, folder in self.folders.items():
            try:
                if not nsys.report_file(folder).is_file():
                    raise nsys.NsysError("Nsight Systems left no report; the server's log says more")
                nsys.export(self._program, folder, self._libraries)
            except nsys.NsysError as error:
                failed[name] = str(error)
        if len(failed) == len(self.folders):
            raise NothingRecordedError(_told(failed))
        return failed


def _tokens_needed(spec: TwinSpecification) -> int | None:
    """What all requests of the load hold together, so that none finds less in the cache than in a whole one; None where it is much."""
    requests = read_requests(Path(spec.job.cells[0].workload_file), f"twin-{spec.twin}")
    tokens = sum(each.prompt_tokens + each.output_tokens for each in requests) + _SPARE_TOKENS
    return tokens if tokens <= _MOST_TOKENS else None


def _wait_until(true: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def _told(why: Mapping[str, str]) -> str:
    """What is said of each engine server; without its name where it stands alone."""
    return next(iter(why.values())) if len(why) == 1 else "; ".join(f"{name}: {said}" for name, said in why.items())


def _client(server: RunningServer, part: Part) -> httpx.Client:
    return part.plan.client(server.api_key, 30.0)


def read_profiles(
    folder: Path, tool: str, servers: Sequence[str], classes: KernelClasses, layers: int | None
) -> tuple[tables.Trace, dict[str, str]]:
    """The trace of `servers` whose profilers wrote below `folder`, with its steps; and those that left none → why.

    Raises NothingRecordedError where none left anything.
    """
    if len(servers) == 1:
        return with_steps(_read(folder / RAW, tool, classes), layers), {}
    traces: dict[str, tables.Trace] = {}
    silent: dict[str, str] = {}
    for name in servers:
        try:
            traces[name] = with_steps(_read(folder / RAW / name, tool, classes), layers)
        except NothingRecordedError as nothing:
            silent[name] = str(nothing)
    if not traces:
        raise NothingRecordedError(_told(silent))
    return tables.together(traces), silent


def _read(raw: Path, tool: str, classes: KernelClasses) -> tables.Trace:
    try:
        if tool == "nsys":
            found = sorted(raw.rglob("CUPTI_ACTIVITY_KIND_KERNEL.parquet"))
            return read_nsys_export(found[0].parent if found else raw, classes)
        return read_torch_traces(sorted(raw.glob("*trace.json*")), classes)
    except (ExportError, TraceError) as error:
        raise NothingRecordedError(str(error)) from error
