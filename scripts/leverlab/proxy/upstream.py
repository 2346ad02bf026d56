"""The proxy's connection to an engine server: one request at a time, the answer's bytes as they come."""

import socket
import time
from collections.abc import Mapping
from typing import Any, Final

import httptools

from leverlab.load.clocks import SO_TIMESTAMPNS, clock_offset, realtime_stamp_ns
from leverlab.proxy.settings import Address

_READ_BYTES: Final = 262144
_NOT_PASSED_ON: Final = frozenset({b"host", b"content-length", b"connection", b"transfer-encoding", b"expect"})


def request_bytes(method: bytes, path: bytes, headers: Mapping[bytes, bytes], body: bytes, address: Address) -> bytes:
    """A request as it came, with its key and id, for another host."""
    lines = [b"%b %b HTTP/1.1" % (method, path), b"host: %b:%d" % (address[0].encode(), address[1])]
    lines += [b"%b: %b" % header for header in headers.items() if header[0] not in _NOT_PASSED_ON]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", b""]) + body


class Upstream:
    """A connection that is kept. `begin` a request, then `read` whenever there is something; both may raise OSError."""

    __slots__ = (
        "_outgoing", "_parser", "address", "body", "complete", "fresh", "keeps", "received_ns", "sent_ns", "socket", "status",
    )  # fmt: skip

    def __init__(self, address: Address) -> None:
        self.address = address
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        # In progress: the request waits in `_outgoing` until epoll says that there is a connection, or an error.
        self.socket.connect_ex(address)
        self.fresh = True
        """Nothing was answered on it yet: a failure is the server's, and not that of a connection that was kept too long."""
        self.received_ns = 0
        self.sent_ns = 0
        """When the first bytes of the request were handed to the kernel, on CLOCK_MONOTONIC: the instant before. 0 until then."""
        self._outgoing = b""

    def begin(self, request: bytes) -> bool:
        """Send `request`; False where something waits for `flush`."""
        self._parser: Any = httptools.HttpResponseParser(self)
        self.body: list[bytes] = []
        self.status = self.sent_ns = 0
        self.complete = self.keeps = False
        self._outgoing = request
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; True once nothing does. Raises OSError where there is no connection."""
        if self._outgoing:
            now_ns = time.monotonic_ns()
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                sent = 0
            if sent and not self.sent_ns:
                self.sent_ns = now_ns
            self._outgoing = self._outgoing[sent:]
        return not self._outgoing

    def read(self) -> bytes:
        """What came; empty at the end of the connection. `received_ns` becomes the kernel's stamp, on CLOCK_MONOTONIC.

        Raises httptools.HttpParserError for what is not HTTP.
        """
        data, ancillary, _, _ = self.socket.recvmsg(_READ_BYTES, 64)
        stamp_ns, now_ns = realtime_stamp_ns(ancillary), time.monotonic_ns()
        self.received_ns = now_ns if stamp_ns < 0 else min(stamp_ns - clock_offset(samples=5).offset_ns, now_ns)
        if data:
            self._parser.feed_data(data)
        return data

    def close(self) -> None:
        """End the connection: a server that still generates for it sees that nobody wants it any more."""
        self.socket.close()

    def on_headers_complete(self) -> None:
        """The head of the answer is whole."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A piece of the answer's body."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self.complete = True
        self.keeps = self._parser.should_keep_alive()
