"""The server's side of a connection: requests in, bytes out."""

import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import httptools

from leverlab.load.clocks import SO_TIMESTAMPNS, clock_offset, realtime_stamp_ns

_READ_BYTES: Final = 262144

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections carry kernel receive stamps. Raises OSError where the port is taken."""
    listener = socket.create_server((host, port), backlog=4096)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listener.setblocking(False)
    return listener


def whole_answer(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """A complete HTTP answer."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client:
    """One accepted connection. `on_request(client)` is called when a whole request has come in."""

    __slots__ = (
        "_body",
        "_on_request",
        "_parser",
        "body",
        "closed",
        "headers",
        "method",
        "outgoing",
        "path",
        "query",
        "received_ns",
        "send",
        "socket",
    )

    def __init__(self, accepted: socket.socket, on_request: Callable[["Client"], None]) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = accepted
        self.send = accepted.send
        self.outgoing = b""
        self.closed = False
        self.received_ns = 0
        self._on_request = on_request
        self._parser: Any = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def read(self) -> bool:
        """Take in what came; False at the end of the connection. Raises httptools.HttpParserError for what is not HTTP.

        `received_ns` becomes the kernel's receive stamp, on CLOCK_MONOTONIC: the server's own delay is not the request's.
        """
        data, ancillary, _, _ = self.socket.recvmsg(_READ_BYTES, 64)
        stamp_ns, now_ns = realtime_stamp_ns(ancillary), time.monotonic_ns()
        self.received_ns = now_ns if stamp_ns < 0 else min(stamp_ns - clock_offset(samples=5).offset_ns, now_ns)
        self._parser.feed_data(data)
        return bool(data)

    def on_message_begin(self) -> None:
        """A request starts."""
        self.path = self.query = b""
        self.method = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.method = self._parser.get_method()
        self.body = b"".join(self._body)
        self.path, _, self.query = self.path.partition(b"?")
        self._on_request(self)

    def write(self, data: bytes) -> bool:
        """Send `data`, after what still waits; what does not fit is kept for `flush`. False where something waits."""
        if self.outgoing:
            self.outgoing += data
            return False
        try:
            sent = self.send(data)
        except BlockingIOError:
            sent = 0
        self.outgoing = data[sent:]
        return not self.outgoing

    def flush(self) -> bool:
        """Send what waits; True once nothing does."""
        waiting, self.outgoing = self.outgoing, b""
        return self.write(waiting) if waiting else True
