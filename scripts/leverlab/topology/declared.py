"""What a topology declares of a server's processes: all that starting, asking and stopping them knows of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from leverlab.engines.base import Launch
from leverlab.records import Reason

LOG_FILE: Final = "server.log"
"""The log of a server that stands alone; of several each has `<name>.log`."""


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process of a server: an engine server, which has a `launch`, or one that stands before or beside them."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log: str
    """Its file in the trial's folder."""
    host: str
    port: int
    cores: Sequence[int]
    """Where it may run once the server is ready; empty: anywhere."""
    ready: Callable[[httpx.Client], bool]
    """Whether it answers that it is ready. The client has its base URL and the server's key."""
    explain: Callable[[str], Reason]
    """Why it ended, from its log."""
    launch: Launch | None = None
    answers: bool = False
    """Of an engine server: whether what it generates reaches the client."""
    counters: Callable[[str], Mapping[str, float]] | None = None
    """Of any other process that has a `/metrics` of its own: that text in canonical names."""
    empty: Callable[[httpx.Client], bool] | None = None
    """Of a process that keeps KV blocks: empty it; whether it says that it did."""
    outlives: bool = False
    """Whether it goes on where the server is stopped to be started again."""

    @property
    def base_url(self) -> str:
        """Where the process is asked."""
        return f"http://{self.host}:{self.port}"

    def client(self, api_key: str, timeout_s: float) -> httpx.Client:
        """A client that knows the process's address and the server's key and ignores the environment's proxies."""
        headers = {"Authorization": f"Bearer {api_key}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=timeout_s, trust_env=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """A server's processes by stages: those of one start together, once those before them are ready.

    The last process of the last stage is the front, which takes the client's requests.
    """

    stages: Sequence[Sequence[ProcessPlan]]

    @property
    def processes(self) -> list[ProcessPlan]:
        """All of them in the order of their start."""
        return [process for stage in self.stages for process in stage]

    @property
    def front(self) -> ProcessPlan:
        """The process that takes the client's requests."""
        return self.stages[-1][-1]
