"""LMCache in vLLM's processes: emptied through its own socket, its loads read from the log."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from leverlab.engines.base import Launch, placed
from leverlab.engines.lmcache import clear_in_process, restores_in
from leverlab.engines.vllm import VllmEngine
from tests.unit.repository import SOURCE

ENGINE = VllmEngine()
CONNECTOR = {"kv-transfer-config": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}}
# As LMCache 0.5.3 words it.
LOG = """\
(EngineCore pid=1) [2026-11-21 12:00:00,000] LMCache INFO: [req_id=cmpl-1] Stored 4096 out of total 4096 tokens. size: 0.5000 GB, cost 33.1000 ms, throughput: 15.1057 GB/s; offload_time: 30.0 ms, put_time: 1.0 ms (cache_engine.py:577:lmcache.v1.cache_engine)
(EngineCore pid=1) [2026-11-21 12:00:01,000] LMCache INFO: [req_id=cmpl-2] Retrieved 4096 out of 4096 required tokens (from 4096 total tokens). size: 0.5000 gb, cost 10.5000 ms, throughput: 47.6190 GB/s; (cache_engine.py:958:lmcache.v1.cache_engine)
(EngineCore pid=1) [2026-11-21 12:00:02,000] LMCache INFO: [req_id=cmpl-3] Retrieved 2048 out of 2048 required tokens (from 4096 total tokens). size: 0.2500 gb, cost 5.5000 ms, throughput: 45.4545 GB/s; (cache_engine.py:958:lmcache.v1.cache_engine)
"""


def test_loads_are_read_from_the_log() -> None:
    assert restores_in(LOG) == {
        "restores": 2.0,
        "restored_tokens": 6144.0,
        "restored_bytes": pytest.approx(0.75 * 2**30),
        "restore_s": pytest.approx(0.016),
    }
    assert ENGINE.log_counters("INFO: started") == {}


def test_what_is_found_and_not_loaded_leaves_no_load_in_the_log() -> None:
    """A real log (vLLM 0.26.0, LMCache 0.5.3, an H100): prompts stored, found and to be loaded, and no line of a load."""
    log = (SOURCE / "tests" / "data" / "lmcache" / "wholly-found.server.log").read_text(encoding="utf-8")
    assert log.count("Stored 4096 out of total 4096 tokens") == 2
    assert log.count("LMCache hit tokens: 4096, need to load: 4095") == 3, "the GPU had nothing of them"
    assert log.count("LMCache hit tokens: 4096, need to load: 15") == 2, "the GPU had all but the last block"
    assert restores_in(log) == {}


def launch(flags: dict[str, object], scratch: Path) -> Launch:
    identity = {"engine": {"device": "cuda"}, "flags": flags, "environment": {}}
    return Launch(["python"], Path("model"), identity, "127.0.0.1", 1, "key", [], Path(), scratch=scratch)


def test_it_listens_in_the_scratch_folder_where_it_is_used_at_all(tmp_path: Path) -> None:
    told = ENGINE.environment(launch(CONNECTOR, tmp_path))
    assert told["LMCACHE_INTERNAL_API_SERVER_SOCKET_PATH_PREFIX"].startswith(str(tmp_path))
    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    extra = {"connectors": [nixl, CONNECTOR["kv-transfer-config"]]}
    beside = {"kv-transfer-config": {"kv_connector": "MultiConnector", "kv_connector_extra_config": extra}}
    assert any(name.startswith("LMCACHE_") for name in ENGINE.environment(launch(beside, tmp_path)))
    several = {
        "kv_connector": "MultiConnector",
        "kv_connector_extra_config": {
            "connectors": [{"kv_connector": "NixlConnector"}, CONNECTOR["kv-transfer-config"]]
        },
    }
    beside = ENGINE.environment(launch({"kv-transfer-config": several}, tmp_path))
    assert "LMCACHE_INTERNAL_API_SERVER_ENABLED" in beside
    other = {"kv-transfer-config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}}
    for flags in ({}, other):
        assert not any(name.startswith("LMCACHE_") for name in ENGINE.environment(launch(flags, tmp_path)))


@contextmanager
def listening(socket: Path, answer: tuple[int, bytes], seen: list[str]) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            seen.append(f"{socket.name} {self.path}")
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def address_string(self) -> str:
            return "a socket"

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.UnixStreamServer(str(socket), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def test_every_worker_is_emptied_and_the_scheduler_is_not_asked(tmp_path: Path) -> None:
    seen: list[str] = []
    cleared = (200, b'{"status": "success", "num_removed": 10}')
    unavailable = (503, b'{"error": "LMCache API is unavailable"}')
    with (
        listening(tmp_path / "lmcache_6999", unavailable, seen),
        listening(tmp_path / "lmcache_7000", cleared, seen),
        listening(tmp_path / "lmcache_7001", cleared, seen),
    ):
        assert clear_in_process(tmp_path)
        assert sorted(seen) == ["lmcache_7000 /cache/clear", "lmcache_7001 /cache/clear"]
    assert not clear_in_process(tmp_path), "nobody listens any more"


def test_one_that_cannot_be_emptied_is_said_to(tmp_path: Path) -> None:
    with listening(tmp_path / "lmcache_7000", (500, b'{"error": "Failed to clear cache"}'), []):
        assert not ENGINE.empty_tiers(tmp_path)


def test_where_there_is_none_there_is_nothing_to_empty(tmp_path: Path) -> None:
    assert ENGINE.empty_tiers(tmp_path)


def test_the_scratch_folder_stands_where_flags_and_variables_name_it() -> None:
    identity = {
        "topology": "single",
        "flags": {"seed": 0, "kv-transfer-config": {"tiers": [{"root_dir": "{scratch}/tier"}], "bytes": 1}},
        "environment": {"LMCACHE_REMOTE_URL": "fs://localhost:0{scratch}/tier/"},
    }
    assert placed(identity, Path("/tmp/here")) == {
        "topology": "single",
        "flags": {"seed": 0, "kv-transfer-config": {"tiers": [{"root_dir": "/tmp/here/tier"}], "bytes": 1}},
        "environment": {"LMCACHE_REMOTE_URL": "fs://localhost:0/tmp/here/tier/"},
    }
