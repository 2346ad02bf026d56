"""The server's side of a connection: requests in, bytes out."""

import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


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
        self._on_request = on_request
        self._parser: Any = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def feed(self, data: bytes) -> None:
        """Take in what was read. Raises httptools.HttpParserError for what is not HTTP."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """A request starts."""
        self.path = b""
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
        self.path = self.path.partition(b"?")[0]
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
