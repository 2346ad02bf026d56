"""One client connection: its socket, and where it stands in the answer, told by a cheap look at the bytes."""

import errno
import socket
from enum import IntEnum
from typing import Final

from leverlab.load.clocks import SO_TIMESTAMPNS

_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Body(IntEnum):
    """How the end of the answer that is being read is told."""

    HEADERS = 0
    CHUNKED = 1
    LENGTH = 2
    UNTIL_CLOSE = 3


class Connection:
    """A non-blocking socket with kernel receive stamps. `index` is the request that is under way on it, or -1."""

    __slots__ = (
        "body",
        "established",
        "fd",
        "fresh",
        "head",
        "index",
        "outgoing",
        "receive",
        "remaining",
        "socket",
        "tail",
    )

    def __init__(self, host: str, port: int) -> None:
        """Start to connect. Raises OSError where that is refused at once."""
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.socket = socket.socket(family, kind, protocol)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setblocking(False)
        problem = self.socket.connect_ex(address)
        if problem not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise OSError(problem, errno.errorcode.get(problem, "connect"))
        self.established = problem == 0
        self.receive = self.socket.recvmsg
        self.fd = self.socket.fileno()
        self.index = -1
        self.fresh = True
        self.outgoing = memoryview(b"")
        self.await_answer()

    def await_answer(self) -> None:
        """Forget the previous answer."""
        self.body = Body.HEADERS
        self.head = b""
        self.tail = b""
        self.remaining = 0

    def connect_problem(self) -> int:
        """The errno of a connection attempt that came to an end, 0 where it succeeded."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def is_connected(self) -> bool:
        """Whether the handshake is over."""
        try:
            self.socket.getpeername()
        except OSError:
            return False
        return True

    def ends_with(self, data: bytes) -> bool:
        """Whether `data`, just read, holds the end of the answer.

        The look is at the last bytes only: a payload that ends in `CR LF 0 CR LF CR LF` would deceive it, and no JSON
        does, because JSON escapes both. The HTTP parser confirms it after the run.
        """
        if self.body is Body.CHUNKED:
            tail = data if len(data) >= len(_LAST_CHUNK) else self.tail + data
            self.tail = tail[-len(_LAST_CHUNK) :]
            return tail.endswith(_LAST_CHUNK)
        if self.body is Body.LENGTH:
            self.remaining -= len(data)
            return self.remaining <= 0
        if self.body is Body.UNTIL_CLOSE:
            return False
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return False
        return self._read_head(self.head[:end].lower(), self.head[end + 2 :])

    def _read_head(self, head: bytes, rest: bytes) -> bool:
        """Learn from the header how the body will end; `rest` is what follows it, with one line end before."""
        headers = dict(line.partition(b":")[::2] for line in head.split(b"\r\n")[1:])
        if b"chunked" in headers.get(b"transfer-encoding", b""):
            self.body = Body.CHUNKED
            return self.ends_with(rest)
        length = headers.get(b"content-length", b"").strip()
        if length.isdigit():
            self.body = Body.LENGTH
            self.remaining = int(length) + 2
            return self.ends_with(rest)
        self.body = Body.UNTIL_CLOSE
        return False
