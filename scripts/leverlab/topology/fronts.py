"""What stands before several engine servers: leverlab's own proxy, or SGLang's router."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from leverlab.config.topology import PrefillDecode, Replicas, Role, Topology
from leverlab.engines.base import Engine, Launch, Transfer
from leverlab.proxy.metrics import proxy_counters
from leverlab.records import Reason
from leverlab.topology.declared import ProcessPlan
from leverlab.topology.ports import free_port

_TAIL_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Behind:
    """An engine server behind the front."""

    server: ProcessPlan
    role: Role
    transfer: Transfer | None

    @property
    def url(self) -> str:
        """Where the front asks it."""
        return self.server.base_url


def front(engine: Engine, launch: Launch, topology: Topology, behind: Sequence[Behind]) -> ProcessPlan:
    """The process at the launch's port. It gets no key: it passes on what a request carries, and who asks must know it."""
    if isinstance(topology, Replicas) and topology.router == "sglang":
        policy = ("--policy", topology.policy.replace("-", "_"))
        urls = ("--worker-urls", *(one.url for one in behind))
        return _sglang_router(launch, [*policy, *urls], len(behind))
    if isinstance(topology, PrefillDecode) and engine.kind == "sglang":
        words = ["--pd-disaggregation"]
        for one in behind:
            if one.transfer is not None and one.role == "prefill":
                words += ["--prefill", one.url, str(one.transfer.port)]
            else:
                words += ["--decode", one.url]
        return _sglang_router(launch, words, len(behind))
    return _own_proxy(engine, launch, topology, behind)


def _own_proxy(engine: Engine, launch: Launch, topology: Topology, behind: Sequence[Behind]) -> ProcessPlan:
    words = ["--host", launch.host, "--port", str(launch.port)]
    for one in behind:
        words += ["--prefill" if one.role == "prefill" else "--server", f"{one.server.host}:{one.server.port}"]
    if isinstance(topology, Replicas):
        words += ["--policy", topology.policy]
    return ProcessPlan(
        name="proxy",
        command=[sys.executable, "-m", "leverlab.proxy", *words],
        environment={},
        log="proxy.log",
        host=launch.host,
        port=launch.port,
        cores=launch.cores,
        ready=engine.ready,
        explain=_explain,
        counters=proxy_counters,
    )


def _sglang_router(launch: Launch, words: Sequence[str], servers: int) -> ProcessPlan:
    """SGLang's router, from the engine's own environment. A request that fails is not sent again: it counts as failed."""

    def ready(client: httpx.Client) -> bool:
        answer = client.get("/workers")
        # It takes servers in one after another, and answers as soon as it has the first.
        return answer.status_code == httpx.codes.OK and servers == sum(
            worker.get("is_healthy") is True for worker in answer.json().get("workers", [])
        )

    return ProcessPlan(
        name="router",
        command=[
            *(launch.command_prefix or [sys.executable]),
            *("-m", "sglang_router.launch_router", "--host", launch.host, "--port", str(launch.port)),
            *("--prometheus-host", launch.host, "--prometheus-port", str(free_port(launch.host))),
            # A line in the log for each request would be work inside the measurement.
            *("--log-level", "warn", "--disable-retries", "--disable-circuit-breaker", *words),
        ],
        environment={},
        log="router.log",
        host=launch.host,
        port=launch.port,
        cores=launch.cores,
        ready=ready,
        explain=_explain,
    )


def _explain(log: str) -> Reason:
    """Why a front ended, from its log."""
    tail = [line for line in log.splitlines() if line.strip()][-_TAIL_LINES:]
    for line in reversed(tail):
        if "cannot listen" in line or "address already in use" in line.lower():
            return Reason(code="port_taken", message=line, log=tail)
    said = tail[-1] if tail else "it wrote nothing"
    return Reason(code="server_died", message=f"it ended: {said}", log=tail)
