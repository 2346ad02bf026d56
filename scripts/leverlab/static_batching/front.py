"""HTTP/1.1 for the static-batching server, on asyncio alone: whole requests in, whole or streamed answers out."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

_MOST_HEAD_BYTES: Final = 1 << 16
_MOST_BODY_BYTES: Final = 1 << 26
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. `path` is without its `query`, names of `headers` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    query: str = ""


class Connection(asyncio.Protocol):
    """One accepted connection, which is kept for further requests: the next is looked at when one is answered.

    `handle(connection, request)` answers now or later, with `answer`, or with `begin_stream`, `event` and `end_stream`.
    `gone(connection)` is told when the connection has closed.
    """

    def __init__(
        self, handle: Callable[["Connection", HttpRequest], None], gone: Callable[["Connection"], None]
    ) -> None:
        self._handle = handle
        self._gone = gone
        self._buffer = b""
        self._answering = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next_request()

    def answer(self, status: int, body: bytes, kind: str = "application/json", *, close: bool = False) -> None:
        """Send a whole answer; `close`: and nothing after it."""
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        )
        self._write(f"{head}connection: close\r\n\r\n".encode() + body if close else f"{head}\r\n".encode() + body)
        if close and self._transport is not None:
            self._transport.close()
            return
        self._answered()

    def begin_stream(self) -> None:
        """Send the head of an answer that comes in events."""
        self._write(_STREAM_HEAD)

    def event(self, *payloads: bytes) -> None:
        """Send `payloads`, one event each, with one write."""
        self._write(b"".join(b"%x\r\ndata: %b\n\n\r\n" % (len(payload) + 8, payload) for payload in payloads))

    def end_stream(self) -> None:
        """End an answer that came in events."""
        self._write(b"0\r\n\r\n")
        self._answered()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _answered(self) -> None:
        self._answering = False
        if self._buffer:
            # Not from here: each answer would lie deeper in the stack.
            asyncio.get_running_loop().call_soon(self._next_request)

    def _next_request(self) -> None:
        if self._answering or self._transport is None:
            return
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self._buffer) > _MOST_HEAD_BYTES:
                self._refuse(431)
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length", "0")
        if len(words) != 3 or not length.isdecimal():
            self._refuse(400)
        elif "transfer-encoding" in headers:
            self._refuse(501)
        elif int(length) > _MOST_BODY_BYTES:
            self._refuse(413)
        elif len(rest) >= int(length):
            self._buffer = rest[int(length) :]
            self._answering = True
            path, _, query = words[1].partition("?")
            self._handle(self, HttpRequest(words[0], path, headers, rest[: int(length)], query))

    def _refuse(self, status: int) -> None:
        self._buffer = b""
        self._answering = True
        self.answer(status, b"", close=True)
