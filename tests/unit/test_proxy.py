"""The proxy: what it passes on is what came, as it comes; errors, keys and ends go through it unchanged."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from leverlab.proxy.handover import HandoverError, decode_body, prefill_body
from leverlab.proxy.metrics import proxy_counters
from leverlab.proxy.server import ProxyServer
from leverlab.proxy.settings import Settings, parse_settings
from leverlab.proxy.upstream import Upstream

pytestmark = pytest.mark.serial

HOST = "127.0.0.1"
Reply = Callable[[socket.socket, bytes], None]
PATH = "/v1/completions"


class Backend:
    """A server that keeps what it was sent, and answers by `reply(connection, request)`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._listener = socket.create_server((HOST, 0))
        self.address = (HOST, int(self._listener.getsockname()[1]))
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = threading.Event()
        """A connection was closed by the other side."""
        threading.Thread(target=self._serve, daemon=True).start()

    def body(self, number: int) -> dict[str, object]:
        return dict(json.loads(self.requests[number].partition(b"\r\n\r\n")[2]))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        while (request := received(connection)) is not None:
            self.requests.append(request)
            try:
                self._reply(connection, request)
            except OSError:
                break
        self.gone.set()
        connection.close()


def received(connection: socket.socket) -> bytes | None:
    """One whole request, or answer with a length; None at the end."""
    data = b""
    while True:
        head, found, rest = data.partition(b"\r\n\r\n")
        if found:
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ),
                0,
            )
            if len(rest) >= length:
                return data
        try:
            piece = connection.recv(65536)
        except OSError:
            return None
        if not piece:
            return None
        data += piece


def answer(content: object, status: str = "200 OK", extra: str = "") -> bytes:
    body = json.dumps(content).encode()
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{extra}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )


def answering(content: object, status: str = "200 OK") -> Reply:
    return lambda connection, _: connection.sendall(answer(content, status))


@contextmanager
def proxy(*servers: Backend, prefills: tuple[Backend, ...] = (), **settings: object) -> Iterator[httpx.Client]:
    server = ProxyServer(
        Settings(HOST, 0, [one.address for one in servers], [one.address for one in prefills], **settings)  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://{HOST}:{server.port}", trust_env=False, timeout=10) as client:
            yield client
    finally:
        server.stop()
        thread.join()


def test_an_answer_goes_through_byte_by_byte_as_it_comes() -> None:
    """The next piece is sent only once the client has the one before: a proxy that waits for more would wait for ever."""
    pieces = [b'data: {"text":"\xc3', b'\xa9"}\n\n', b"data: [DONE]\n\n"]
    got = threading.Semaphore(0)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Own: kept\r\nTransfer-Encoding: chunked\r\n\r\n"

    def reply(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head)
        for piece in pieces:
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            assert got.acquire(timeout=10)
        connection.sendall(b"0\r\n\r\n")

    backend = Backend(reply)
    seen = b""
    with proxy(backend) as client, socket.create_connection((HOST, client.base_url.port or 0), timeout=10) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        expected = head
        for piece in pieces:
            expected += b"%x\r\n%b\r\n" % (len(piece), piece)
            while len(seen) < len(expected):
                seen += raw.recv(65536)
            assert seen == expected
            got.release()
        while len(seen) < len(expected) + 5:
            seen += raw.recv(65536)
    assert seen == expected + b"0\r\n\r\n"


def test_key_id_and_body_reach_the_server_as_they_came() -> None:
    backend = Backend(answering({}))
    content = '{"prompt": "é", "max_tokens": 3}'.encode()
    with proxy(backend) as client:
        client.post(PATH, content=content, headers={"Authorization": "Bearer of-nobody", "X-Request-Id": "r-7"})
    head, _, body = backend.requests[0].partition(b"\r\n\r\n")
    assert body == content
    assert b"authorization: Bearer of-nobody" in head
    assert b"x-request-id: r-7" in head
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:%d" % backend.address[1])


@pytest.mark.parametrize("status", ["401 Unauthorized", "429 Too Many Requests", "500 Internal Server Error"])
@pytest.mark.parametrize("from_prefill", [False, True])
def test_an_error_is_passed_on_whoever_makes_it(status: str, from_prefill: bool) -> None:
    refusal = {"error": {"message": "no"}}
    refusing, willing = Backend(answering(refusal, status)), Backend(answering({"fine": True}))
    decode, prefills = (willing, (refusing,)) if from_prefill else (refusing, ())
    with proxy(decode, prefills=prefills) as client:
        got = client.post(PATH, json={"prompt": "a"})
    assert (got.status_code, got.json()) == (int(status.split()[0]), refusal)
    assert willing.requests == []


def test_a_server_that_is_not_there_is_a_bad_gateway_and_the_next_request_goes_on() -> None:
    dead, alive = Backend(answering({})), Backend(answering({"alive": True}))
    dead.close()
    with proxy(dead, alive) as client:
        first, second = client.post(PATH, json={}), client.post(PATH, json={})
        counters = proxy_counters(client.get("/metrics").text)
    assert first.status_code == 502
    assert f"127.0.0.1:{dead.address[1]} did not answer" in first.json()["error"]["message"]
    assert second.json() == {"alive": True}
    assert (counters["proxy_requests"], counters["proxy_failures"]) == (2, 1)


def test_an_answer_cut_short_is_cut_short_for_the_client() -> None:
    def reply(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        connection.shutdown(socket.SHUT_RDWR)

    with proxy(Backend(reply)) as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(PATH, json={})


def test_a_client_that_goes_frees_the_server() -> None:
    begun = threading.Event()

    def reply(connection: socket.socket, _: bytes) -> None:
        begun.set()
        assert connection.recv(1) == b""

    backend = Backend(reply)
    with proxy(backend) as client:
        with socket.create_connection((HOST, client.base_url.port or 0)) as raw:
            raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            assert begun.wait(10)
        assert backend.gone.wait(10)


def test_connections_are_kept_and_one_that_was_kept_too_long_costs_no_request() -> None:
    close = threading.Event()

    def reply(connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer({}))
        if close.is_set():
            connection.shutdown(socket.SHUT_RDWR)

    backend = Backend(reply)
    with proxy(backend) as client:
        assert [client.post(PATH, json={}).status_code for _ in range(3)] == [200] * 3
        assert backend.connections == 1
        close.set()
        assert [client.post(PATH, json={}).status_code for _ in range(3)] == [200] * 3
        assert proxy_counters(client.get("/metrics").text)["proxy_failures"] == 0


def test_one_after_another_or_drawn_from_a_seed() -> None:
    def turns(**settings: object) -> str:
        backends = [Backend(answering(name)) for name in "ab"]
        with proxy(*backends, **settings) as client:
            # Whoever asks what there is takes nobody's turn.
            return "".join((client.get("/v1/models"), client.post(PATH, json={}))[1].json() for _ in range(12))

    assert turns() == "ab" * 6
    drawn = turns(policy="random", seed=3)
    assert drawn == turns(policy="random", seed=3)
    assert drawn not in ("ab" * 6, turns(policy="random", seed=4))
    assert set(drawn) == {"a", "b"}


def test_a_prompt_goes_to_a_prefill_server_for_one_token_and_on_with_what_it_hands_over() -> None:
    handed = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "remote_engine_id": "e"}
    prefill, decode = Backend(answering({"kv_transfer_params": handed})), Backend(answering({"text": "all"}))
    asked = {"prompt": "é", "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}, "min_tokens": 9}
    with proxy(decode, prefills=(prefill,)) as client:
        got = client.post(PATH, json=asked, headers={"Authorization": "Bearer k", "X-Request-Id": "r"})
        counters = proxy_counters(client.get("/metrics").text)
    assert got.json() == {"text": "all"}
    assert prefill.body(0) == {
        "prompt": "é",
        "max_tokens": 1,
        "stream": False,
        "kv_transfer_params": {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "remote_engine_id": None,
            "remote_block_ids": None,
            "remote_host": None,
            "remote_port": None,
        },
    }
    assert decode.body(0) == {**asked, "kv_transfer_params": handed}
    for backend in (prefill, decode):
        head = backend.requests[0].partition(b"\r\n\r\n")[0]
        assert b"authorization: Bearer k" in head
        assert b"x-request-id: r" in head
    assert (counters["proxy_prefill_s_count"], counters["proxy_added_s_count"]) == (1, 1)
    assert counters["proxy_prefill_s_sum"] > 0
    assert counters["proxy_added_s_sum"] > 0


def test_only_what_generates_is_prefilled() -> None:
    prefill, decode = Backend(answering({})), Backend(answering({"data": []}))
    with proxy(decode, prefills=(prefill,)) as client:
        assert client.get("/v1/models").json() == {"data": []}
        assert client.get("/health").status_code == 200
        assert client.get("/server_info").status_code == 404
        assert client.post(PATH, content=b"no json").status_code == 400
        assert proxy_counters(client.get("/metrics").text)["proxy_prefill_s_count"] == 0
    assert prefill.requests == []


def test_what_a_connector_does_not_hand_over_changes_no_byte() -> None:
    body = b'{"prompt":  "a"}'
    assert decode_body(body, b'{"kv_transfer_params": null}') == decode_body(body, b"{}") == body
    with pytest.raises(HandoverError, match="the prefill server's answer is no JSON object"):
        decode_body(body, b"[]")
    with pytest.raises(HandoverError, match="the request is no JSON object"):
        prefill_body(b"7")


def test_a_command_line_that_is_wrong_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    told = parse_settings(["--server", "h:1", "--server", "h:2", "--prefill", "h:3", "--policy", "random"])
    assert (told.servers, told.prefills, told.policy) == ([("h", 1), ("h", 2)], [("h", 3)], "random")
    for wrong in (["--server", "8000"], [], ["--server", "h:1", "--policy", "cache-aware"]):
        with pytest.raises(SystemExit):
            parse_settings(wrong)
    assert "write HOST:PORT" in capsys.readouterr().err


def test_a_status_that_is_in_no_list_goes_through() -> None:
    """499 is what some servers say of a client that went away; a proxy that looks for its phrase would end."""
    prefill, decode = Backend(answering({"why": "gone"}, "499 Client Closed Request")), Backend(answering({}))
    with proxy(decode, prefills=(prefill,)) as client:
        for _ in range(2):
            told = client.post(PATH, json={"prompt": "a"})
            assert (told.status_code, told.json()) == (499, {"why": "gone"})
        assert client.get("/health").status_code == 200
    assert not decode.requests


class SlowSocket:
    """A socket that takes `takes` bytes at each turn, or nothing yet."""

    def __init__(self, takes: list[int | None], log: list[str]) -> None:
        self._takes, self._log = iter(takes), log

    def send(self, data: bytes) -> int:
        taken = next(self._takes)
        self._log.append("nothing" if taken is None else "written")
        if taken is None:
            raise BlockingIOError
        return taken


def test_a_request_is_sent_when_its_first_bytes_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a connection that is still being made nothing is: what the proxy adds must not end, nor a server's part begin, there."""
    backend = Backend(answering({}))
    upstream = Upstream(backend.address)
    upstream.close()
    log: list[str] = []
    upstream.socket = SlowSocket([None, 3, 2], log)  # type: ignore[assignment]

    def clock() -> int:
        log.append(f"looked {len(log)}")
        return len(log)

    monkeypatch.setattr("leverlab.proxy.upstream.time.monotonic_ns", clock)
    assert not upstream.begin(b"hello")
    assert upstream.sent_ns == 0
    assert not upstream.flush() and upstream.flush()
    assert log == ["looked 0", "nothing", "looked 2", "written", "looked 4", "written"]
    assert upstream.sent_ns == 3, "the look before the write of the first bytes"
    backend.close()
