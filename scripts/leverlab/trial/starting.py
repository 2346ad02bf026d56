"""Starting the server of a trial: on a free port, with a key that nobody knows, each step of the start timed."""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from leverlab.engines.base import Engine, Launch
from leverlab.topology import (
    Part,
    Progress,
    RunningServer,
    ServerEnded,
    StartTimeout,
    confine,
    free_port,
    start,
    wait_ready,
)
from leverlab.trial.compile_caches import cache_states, compiled_entries
from leverlab.trial.lease import DeviceLease
from leverlab.trial.outcomes import InfeasibleError, MayPassError, see_whether_told_to_end

PORT_ATTEMPTS: Final = 3
_RESULTS: Final = ("configuration_refused", "out_of_memory")
"""Reasons for an end before the server was ready that another attempt would meet again."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server that is ready. `steps_s`: seconds of each step; `compile_caches`: their state before, and what was added."""

    server: RunningServer
    launch: Launch
    steps_s: Mapping[str, float]
    compile_caches: Mapping[str, Any]


def new_api_key() -> str:
    """A random key for one server."""
    return secrets.token_urlsafe(24)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder on this machine's own disk that only its owner enters, for the block. Its path is short, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="leverlab-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def started_server(
    engine: Engine,
    launch: Launch,
    devices: DeviceLease,
    timeout_s: float,
    progress: Progress,
    stopped: Callable[[RunningServer], None],
    kept: Sequence[Part] = (),
) -> Iterator[Started]:
    """A ready server for the block, which every way out stops; then `stopped` is told. `launch.port` is chosen here.

    `kept`: processes that outlived the server that was stopped before, and are this one's from now on.

    The server's keeper holds the lease of the devices too: it stands until the server is gone, even if the runner is killed.
    Raises InfeasibleError where the engine refuses or has no memory, MayPassError for every other start that fails.
    """
    before = compiled_entries(engine.environment(launch))
    for attempt in range(1, PORT_ATTEMPTS + 1):
        launch = replace(launch, port=free_port(launch.host))
        begun_s = time.monotonic()
        with start(engine, launch, holding=devices.descriptors, kept=kept) as server:
            spawn_s = time.monotonic() - begun_s
            try:
                healthy_s = wait_ready(server, timeout_s, progress)
            except ServerEnded as ended:
                see_whether_told_to_end()
                if ended.reason.code == "port_taken" and attempt < PORT_ATTEMPTS:
                    # The next attempt's logs must not hold this one's reason.
                    kept = server.hand_over()
                    server.stop()
                    for part in server.parts:
                        if part in kept:
                            continue
                        part.log.rename(part.log.with_name(f"{part.log.stem}.port-taken-{attempt}.log"))
                    continue
                if ended.reason.code in _RESULTS:
                    raise InfeasibleError(ended.reason) from ended
                raise MayPassError(ended.reason) from ended
            except StartTimeout as late:
                raise MayPassError(late.reason) from late
            confine(server)
            try:
                yield Started(
                    server,
                    launch,
                    {"spawn": spawn_s, "healthy": healthy_s},
                    cache_states(before, compiled_entries(engine.environment(launch))),
                )
            finally:
                server.stop()
                stopped(server)
            return
