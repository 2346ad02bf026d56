"""LMCache's daemon beside a server: how it is started and asked, and that it goes on where the server is started again."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from leverlab.config.topology import CacheDaemon
from leverlab.engines.base import Launch
from leverlab.engines.truth import TruthEngine
from leverlab.engines.vllm import VllmEngine
from leverlab.records import Reason
from leverlab.topology import LOOPBACK, Plan, ProcessPlan, RunningServer, Servers, free_port, wait_ready
from leverlab.topology.daemon import blocks_port, cache_daemon
from leverlab.topology.topologies import planned

pytestmark = pytest.mark.serial

# Answers 200 to everything, and counts what it was asked to clear.
KEEPER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    cleared = 0
    def answer(self, clears):
        Handler.cleared += clears
        body = json.dumps({"status": "ok", "cleared": Handler.cleared}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self): self.answer(0)
    def do_POST(self): self.answer(1)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def launch(folder: Path, device: str = "cuda", **settings: Any) -> Launch:
    identity = {
        "engine": {"kind": "vllm", "device": device},
        "flags": {"seed": 0},
        "environment": {"PYTHONHASHSEED": "0"},
        "topology": "cache-daemon",
        "topology_settings": settings,
        "gpu": {"type": "h100", "count": 1},
    }
    return Launch(["python"], folder, identity, LOOPBACK, 8000, "key", [2, 3], folder, ["GPU-1"], folder / "scratch")


def test_the_server_keeps_its_blocks_in_the_daemon_which_is_ready_before_it(tmp_path: Path) -> None:
    plan = planned(VllmEngine(), launch(tmp_path, memory=40, chunk=128))
    [[daemon], [server]] = plan.stages
    assert plan.front is server and server.port == 8000
    words = list(daemon.command)
    assert words[:4] == ["python", "-m", "lmcache.cli.main", "server"]
    told = {words[at]: words[at + 1] for at in range(4, len(words), 2)}
    assert (told["--l1-size-gb"], told["--chunk-size"], told["--http-port"]) == ("40", "128", str(daemon.port))
    assert len({blocks_port(daemon), daemon.port, int(told["--prometheus-port"]), server.port}) == 4
    assert daemon.environment["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert server.launch is not None
    connector = server.launch.identity["flags"]["kv-transfer-config"]
    assert connector["kv_connector"] == "LMCacheMPConnector"
    assert connector["kv_connector_extra_config"]["lmcache.mp.port"] == blocks_port(daemon)
    assert server.launch.identity["flags"]["seed"] == 0


def test_only_without_a_gpu_does_the_engine_itself_bring_the_blocks(tmp_path: Path) -> None:
    for device, brings in (("cuda", False), ("cpu", True)):
        command = cache_daemon(launch(tmp_path, device), CacheDaemon()).command
        assert ("engine_driven" in command) is brings


def test_a_server_that_is_started_again_finds_the_same_daemon(tmp_path: Path) -> None:
    first = planned(VllmEngine(), launch(tmp_path))
    daemon = first.processes[0]
    again = planned(VllmEngine(), launch(tmp_path), {daemon.name: daemon})
    assert again.processes[0] is daemon
    server = again.front.launch
    assert server is not None
    extra = server.identity["flags"]["kv-transfer-config"]["kv_connector_extra_config"]
    assert extra["lmcache.mp.port"] == blocks_port(daemon)


@pytest.mark.parametrize(
    ("status", "body", "emptied"), [(200, {"status": "ok"}, True), (200, {}, False), (503, {"status": "ok"}, False)]
)
def test_the_daemon_is_asked_to_forget(tmp_path: Path, status: int, body: dict[str, str], *, emptied: bool) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.path}")
        return httpx.Response(status, json=body)

    plan = cache_daemon(launch(tmp_path), CacheDaemon())
    client = httpx.Client(base_url="http://daemon", transport=httpx.MockTransport(answer))
    assert plan.empty is not None and plan.empty(client) is emptied
    assert plan.ready(client) is (status == 200)
    assert seen == ["POST /cache/clear", "GET /healthcheck"]


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:5555')", "port_taken"),
        ("error: --l1-size-gb", "server_died"),
        ("", "server_died"),
    ],
)
def test_why_a_daemon_ended_is_read_from_its_log(tmp_path: Path, log: str, code: str) -> None:
    assert cache_daemon(launch(tmp_path), CacheDaemon()).explain(log).code == code


def _plan(engine: TruthEngine, own: Launch, daemon: ProcessPlan) -> Plan:
    server = ProcessPlan(
        "server", engine.command(own), engine.environment(own), "server.log", LOOPBACK, own.port, [],
        engine.ready, engine.explain_exit, own, answers=True,
    )  # fmt: skip
    return Plan([[daemon], [server]])


def _daemon(asked: Callable[[httpx.Client], bool]) -> ProcessPlan:
    port = free_port()
    return ProcessPlan(
        "keeper", [sys.executable, "-c", KEEPER, str(port)], {}, "keeper.log", LOOPBACK, port, [],
        lambda client: client.get("/").status_code == httpx.codes.OK,
        lambda log: Reason(code="server_died", message=log), empty=asked, outlives=True,
    )  # fmt: skip


def test_what_outlives_a_server_goes_on_and_ends_with_the_next_one(tmp_path: Path) -> None:
    engine = TruthEngine()
    identity = {"flags": {}, "environment": {}, "engine": {"kind": "truth", "device": "cpu"}}
    own = Launch([sys.executable], tmp_path, identity, LOOPBACK, free_port(), "key", [], tmp_path)
    daemon = _daemon(lambda client: client.post("/").status_code == httpx.codes.OK)

    def cleared() -> int:
        return int(httpx.get(daemon.base_url, trust_env=False).json()["cleared"])

    with RunningServer(engine, own, _plan(engine, own, daemon), []) as first:
        wait_ready(first, 20)
        with Servers(first) as servers:
            assert servers.reset_cache(tiers=False) and cleared() == 0
            assert servers.reset_cache() and cleared() == 1
        kept = first.hand_over()
        [keeper] = kept
        before = keeper.pid
        first.stop()
    assert keeper.poll() is None and first.parts[1].poll() is not None
    assert cleared() == 1, "it still knows what it knew"
    again = replace(own, port=free_port())
    with RunningServer(engine, again, _plan(engine, again, daemon), [], kept) as second:
        wait_ready(second, 20)
        assert second.parts[0] is keeper and second.parts[0].pid == before
        assert second.ended() is None
    assert keeper.poll() is not None and second.ended() is not None
