"""The server of a trial from its start to its stop, and over restarts between: always the one that runs now."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from leverlab.engines.base import Launch
from leverlab.load.plan import Endpoint
from leverlab.topology import Part, Progress, RunningServer, Servers
from leverlab.trial.job import Job
from leverlab.trial.outcomes import InfeasibleError, ServerDiedError, see_whether_told_to_end
from leverlab.trial.served import Served
from leverlab.trial.starting import Started, started_server

_WARMUP_TIMEOUT_S: Final = 600.0
"""How long a request of the warm-up is followed: the first may wait for compilation."""


class Lifetime:
    """`start` it once, `restart` it between phases; leaving the block stops it, whatever happened. `stopped` is told each time."""

    def __init__(self, job: Job, launch: Launch, progress: Progress, stopped: Callable[[RunningServer], None]) -> None:
        self._job, self._launch, self._progress, self._stopped = job, launch, progress, stopped
        self._ways_out = ExitStack()
        self.restarts = 0
        self.started: Started
        self.served: Served

    def start(self, kept: Sequence[Part] = ()) -> None:
        """`kept`: what outlived the server before. Raises InfeasibleError and MayPassError as `started_server` does."""
        job = self._job
        self.started = self._ways_out.enter_context(
            started_server(
                job.engine,
                self._launch,
                job.devices,
                job.specification.start_timeout_s,
                self._progress,
                self._stopped,
                kept,
            )
        )
        launch = self.started.launch
        self.served = Served(
            engine=job.engine,
            servers=self._ways_out.enter_context(Servers(self.started.server)),
            host=launch.host,
            port=launch.port,
            api_key=launch.api_key,
            endpoint=Endpoint.COMPLETIONS,
            request_timeout_s=_WARMUP_TIMEOUT_S,
            check_alive=self._check_alive,
        )

    def restart(self) -> None:
        """Stop the server and start it again, but for what outlives it; the stopped one's logs are kept under other names.

        Raises ServerDiedError.
        """
        kept = self.started.server.hand_over()
        try:
            self._ways_out.close()
            self.restarts += 1
            for part in self.started.server.parts:
                if part not in kept:
                    part.log.rename(part.log.with_name(f"{part.log.stem}.before-restart-{self.restarts}.log"))
            self.start(kept)
        except BaseException as error:
            for part in kept:
                part.stop()
            if isinstance(error, InfeasibleError):
                # It was accepted before: nothing that another start would meet again.
                raise ServerDiedError(error.reason) from error
            raise

    def _check_alive(self) -> None:
        ended = self.started.server.ended()
        if ended is not None:
            see_whether_told_to_end()
            raise ServerDiedError(ended.reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ways_out.close()
