"""The server's side of connections: accepted, requests in, bytes out."""

import select
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import httptools

from leverlab.load.clocks import SO_TIMESTAMPNS, clock_offset, realtime_stamp_ns

_READ_BYTES: Final = 262144
_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections carry kernel receive stamps. Raises OSError where the port is taken."""
    listener = socket.create_server((host, port), backlog=4096)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listener.setblocking(False)
    return listener


def whole_answer(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """A complete HTTP answer. A status that has no phrase of its own goes without one."""
    phrase = _PHRASES.get(status, "")
    head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
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


class Clients:
    """Whoever connects to a port, in the epoll of a server's loop: `handle(client)` is called with each whole request, and
    `gone(client)` once for a connection that has ended or is cut off. Raises OSError where the port is taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        epoll: select.epoll,
        handle: Callable[[Client], None],
        gone: Callable[[Client], None],
    ) -> None:
        self._epoll, self._handle, self._gone = epoll, handle, gone
        self._clients: dict[int, Client] = {}
        self._listener = _listen(host, port)
        epoll.register(self._listener.fileno(), select.EPOLLIN)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._listener.getsockname()[1])

    def serve(self, fd: int, mask: int) -> None:
        """What epoll says of `fd`: somebody new, a request, room for what waits, an end. Nothing where it is nobody's here."""
        client = self._clients.get(fd)
        if client is not None:
            self._serve(client, mask)
        elif fd == self._listener.fileno():
            self._accept()

    def write(self, client: Client, data: bytes) -> bool:
        """Send `data`; what the kernel does not take now follows, and then this is False. Raises OSError where nobody is there."""
        complete = client.write(data)
        if not complete:
            self._epoll.modify(client.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        return complete

    def close(self, client: Client) -> None:
        """The client has gone, or is cut off."""
        if client.closed:
            return
        client.closed = True
        self._gone(client)
        fd = client.socket.fileno()
        self._clients.pop(fd, None)
        self._epoll.unregister(fd)
        client.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            self._clients[accepted.fileno()] = Client(accepted, self._handle)
            self._epoll.register(accepted.fileno(), select.EPOLLIN)

    def _serve(self, client: Client, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT and client.flush():
                self._epoll.modify(client.socket.fileno(), select.EPOLLIN)
            if mask & ~select.EPOLLOUT and not client.read():
                self.close(client)
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            self.close(client)
