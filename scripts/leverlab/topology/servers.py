"""A server's engine servers asked and told together: what one server does alone, all of them do."""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from leverlab.engines.base import TIER_FOLDER, Difference
from leverlab.engines.prometheus import snapshot
from leverlab.metrics import SERVER_FACTS
from leverlab.topology.counters import Counted, combined
from leverlab.topology.processes import Part
from leverlab.topology.running import RunningServer

_OF_ALL: Final = frozenset({"kv_cache_tokens"})
"""Facts of the start that add up over servers; of the others, which are those of one GPU, the largest counts."""


class Servers:
    """The engine servers of a started server, each with a client of its own. Close it, or use it in a `with`.

    Every question raises httpx.HTTPError where one of them does not answer.
    """

    def __init__(self, running: RunningServer, timeout_s: float = 30.0) -> None:
        self._engine = running.engine
        self._scratch = running.scratch
        self._clients = ExitStack()
        self._parts = [(part, self._client(running, part, timeout_s)) for part in running.engine_parts]
        self._others = [
            (part, self._client(running, part, timeout_s)) for part in running.parts if part.plan.counters is not None
        ]
        self._keepers = [
            (part, self._client(running, part, timeout_s)) for part in running.parts if part.plan.empty is not None
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each engine server, prefill servers first.

        A connector of files keeps what any of them computed. Asked after a decode server, a prefill server would find there what
        that has just left, and call it a tier below its cache; what a decode server finds is said to be handed over anyway.
        """
        ordered = sorted((part.plan for part, _ in self._parts), key=lambda plan: plan.answers)
        return [(plan.host, plan.port) for plan in ordered]

    def close(self) -> None:
        """Close the clients."""
        self._clients.close()

    def reset_cache(self, *, tiers: bool = True) -> bool:
        """Empty the prefix cache of each and, with `tiers`, what lies below; whether all say that they did."""
        done = [self._engine.reset_cache(client, tiers=tiers) for _, client in self._parts]
        if tiers:
            done += [part.plan.empty(client) for part, client in self._keepers if part.plan.empty is not None]
        return all(done) and (not tiers or self._scratch is None or self._empty_tiers(self._scratch))

    def _empty_tiers(self, scratch: Path) -> bool:
        """What the servers' own reset does not reach, the files of a tier on disk among it."""
        launches = [part.plan.launch for part, _ in self._parts]
        emptied = [self._engine.empty_tiers(launch.scratch) for launch in launches if launch and launch.scratch]
        on_disk = scratch / TIER_FOLDER
        for entry in on_disk.iterdir() if on_disk.is_dir() else ():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        return all(emptied)

    def keeps_prefix_cache(self) -> bool | None:
        """Whether any of them keeps a prefix cache; None where that is left to the counters."""
        told = [self._engine.keeps_prefix_cache(client) for _, client in self._parts]
        return True if True in told else None if None in told else False

    def counters(self) -> dict[str, float]:
        """The canonical metrics of all (`leverlab.topology.counters`), and those of what stands before them."""
        found = combined(
            [Counted(part.plan.name, part.plan.answers, snapshot(self._engine, client)) for part, client in self._parts]
        )
        for part, client in self._others:
            assert part.plan.counters is not None
            answer = client.get("/metrics")
            answer.raise_for_status()
            found |= part.plan.counters(answer.text)
        return found

    def effective_configuration(self) -> dict[str, Any]:
        """What the server says it runs with; of several, under `servers` what each says, and the facts of the start."""
        told = {
            part.plan.name: self._engine.effective_configuration(client, part.log_from(0))
            for part, client in self._parts
        }
        if len(told) == 1:
            return next(iter(told.values()))
        facts = {}
        for name in SERVER_FACTS:
            values = [float(one[name]) for one in told.values() if isinstance(one.get(name), int | float)]
            if values:
                facts[name] = sum(values) if name in _OF_ALL else max(values)
        return {"servers": told, **facts}

    def differences(self, effective: Mapping[str, Any]) -> list[Difference]:
        """Every setting whose effective value is not the intended one; of several servers with the server before the key."""
        found = []
        for part, _ in self._parts:
            assert part.plan.launch is not None
            identity = part.plan.launch.identity
            if len(self._parts) == 1:
                found += self._engine.differences(identity, effective)
            else:
                own = self._engine.differences(identity, effective["servers"][part.plan.name])
                found += [replace(one, key=f"{part.plan.name}: {one.key}") for one in own]
        return found

    def _client(self, running: RunningServer, part: Part, timeout_s: float) -> httpx.Client:
        return self._clients.enter_context(part.plan.client(running.api_key, timeout_s))
