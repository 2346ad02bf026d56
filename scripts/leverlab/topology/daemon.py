"""LMCache's daemon beside a server (`lmcache server`): it keeps KV blocks in the host's memory, and outlives the server."""

from collections.abc import Sequence
from typing import Final

import httpx

from leverlab.config.topology import CacheDaemon
from leverlab.engines.base import Launch
from leverlab.records import Reason
from leverlab.topology.declared import ProcessPlan
from leverlab.topology.ports import free_ports

DAEMON: Final = "cache-daemon"
_BLOCKS_PORT: Final = "--port"
_CLEAR_TIMEOUT_S: Final = 60.0
_TAIL_LINES: Final = 20
_PORT_TAKEN: Final = "address already in use"


def cache_daemon(launch: Launch, settings: CacheDaemon) -> ProcessPlan:
    """The daemon in the environment of the engine of `launch`, on the same GPUs, asked over HTTP at a port of its own.

    Blocks go through another port (`blocks_port`). It knows no key: whoever is on this machine can ask it.
    """
    blocks, http, metrics = free_ports(3, launch.host)
    on_cpu = launch.identity["engine"]["device"] == "cpu"
    command = [
        *launch.command_prefix,
        *("-m", "lmcache.cli.main", "server"),
        *("--host", launch.host, _BLOCKS_PORT, str(blocks)),
        *("--http-host", launch.host, "--http-port", str(http), "--prometheus-port", str(metrics)),
        *("--l1-size-gb", f"{settings.memory:g}", "--chunk-size", str(settings.chunk), "--eviction-policy", "LRU"),
        # Without a GPU whose memory it could open, the engine itself brings and takes the blocks; else vLLM hangs at its start.
        *(("--supported-transfer-mode", "engine_driven") if on_cpu else ()),
    ]
    environment = {"LMCACHE_TRACK_USAGE": "false", "PYTHONHASHSEED": "0"}
    if launch.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(launch.gpus)
    return ProcessPlan(
        name=DAEMON,
        command=command,
        environment=environment,
        log=f"{DAEMON}.log",
        host=launch.host,
        port=http,
        cores=launch.cores,
        ready=_ready,
        explain=_explain,
        empty=_emptied,
        outlives=True,
    )


def blocks_port(daemon: ProcessPlan) -> int:
    """The port at which the daemon takes and gives blocks."""
    words: Sequence[str] = daemon.command
    return int(words[words.index(_BLOCKS_PORT) + 1])


def _ready(client: httpx.Client) -> bool:
    return client.get("/healthcheck").status_code == httpx.codes.OK


def _emptied(client: httpx.Client) -> bool:
    answer = client.post("/cache/clear", timeout=_CLEAR_TIMEOUT_S)
    return answer.status_code == httpx.codes.OK and answer.json().get("status") == "ok"


def _explain(log: str) -> Reason:
    tail = [line for line in log.splitlines() if line.strip()][-_TAIL_LINES:]
    taken = next((line for line in tail if _PORT_TAKEN in line.lower()), None)
    if taken is not None:
        return Reason(code="port_taken", message=f"another process listens on its port: {taken}", log=tail)
    return Reason(code="server_died", message=f"the daemon ended: {tail[-1] if tail else 'it wrote nothing'}", log=tail)
