"""A started server as the phases of a trial see it: asked for its counters, reset, and sent requests."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa

from leverlab.engines.base import Engine
from leverlab.load.parse import parse
from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.load.replay import replay
from leverlab.topology import Servers
from leverlab.trial.outcomes import answering

_SETTLE_TIMEOUT_S: Final = 10.0
_SETTLE_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Served:
    """`host` and `port` are the front's; `servers` the engine servers behind it, which may be that one.

    `check_alive` raises ServerDiedError once a process of the server has ended; it is asked while requests are under way.
    """

    engine: Engine
    servers: Servers
    host: str
    port: int
    api_key: str = field(repr=False)
    endpoint: Endpoint
    request_timeout_s: float
    check_alive: Callable[[], None]
    request: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the phase adds to every request's body."""

    @property
    def target(self) -> Target:
        """Where requests go, and what each body holds besides prompt and length."""
        extras: Mapping[str, Any] = {**self.engine.request_extras(), **self.request}
        name, field_of_adapters = self.engine.served_model_name, self.engine.adapter_field
        return Target(self.host, self.port, name, self.api_key, self.endpoint, extras, field_of_adapters)

    def reset_cache(self, *, tiers: bool = True) -> bool:
        """Empty the prefix cache of every server once nothing runs and, with `tiers`, what lies below; whether all did."""
        self.settled_counters()
        with answering("the reset of its prefix cache", self.check_alive):
            return self.servers.reset_cache(tiers=tiers)

    def keeps_cache(self) -> bool | None:
        """Whether the server keeps a prefix cache; None where only its counters tell."""
        with answering("the question whether it keeps a prefix cache", self.check_alive):
            return self.servers.keeps_prefix_cache()

    def counters(self) -> dict[str, float]:
        """The canonical counters now. Raises ServerDiedError where the server does not tell."""
        with answering("/metrics", self.check_alive):
            return self.servers.counters()

    def settled_counters(self) -> dict[str, float]:
        """The counters once nothing runs or waits and two readings in a row agree; after ten seconds, as they are.

        Engines bring their counters up to date a moment after the last token has left.
        """
        deadline = time.monotonic() + _SETTLE_TIMEOUT_S
        before = self.counters()
        while True:
            time.sleep(_SETTLE_PAUSE_S)
            now = self.counters()
            idle = not now.get("running") and not now.get("waiting")
            if (idle and now == before) or time.monotonic() > deadline:
                return now
            before = now

    def send(self, requests: Sequence[PlannedRequest], streams: int) -> pa.Table:
        """Offer `requests`, `streams` at a time, and return their table; nothing of it is measured."""
        return self._sent(self.target, requests, streams)

    def send_to_each(self, requests: Sequence[PlannedRequest], streams: int) -> pa.Table:
        """The same to every engine server, past what stands before them: which of them would get it is not left to chance."""
        targets = (replace(self.target, host=host, port=port) for host, port in self.servers.addresses)
        return pa.concat_tables([self._sent(target, requests, streams) for target in targets])

    def _sent(self, target: Target, requests: Sequence[PlannedRequest], streams: int) -> pa.Table:
        log = replay(
            target,
            requests,
            LoadPoint("concurrency", float(streams)),
            timeout_s=self.request_timeout_s,
            progress=lambda *_: self.check_alive(),
        )
        self.check_alive()
        return parse(log).requests
