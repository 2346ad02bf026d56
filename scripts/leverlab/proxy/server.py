"""The proxy's loop: clients on one side, engine servers on the other, and one epoll for both."""

import itertools
import json
import random
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import httptools

from leverlab.incoming import Client, Clients, whole_answer
from leverlab.load.plan import Endpoint
from leverlab.proxy.handover import HandoverError, decode_body, prefill_body
from leverlab.proxy.metrics import Totals
from leverlab.proxy.settings import Address, Settings
from leverlab.proxy.upstream import Upstream, request_bytes

_GENERATING: Final = frozenset(endpoint.path.encode() for endpoint in Endpoint)
_POLL_S: Final = 0.1
_OK: Final = 200


class _Flight:
    """A client's request on its way: `prefilling` first where there are prefill servers, then answered.

    `since_ns` is the receive stamp of what the proxy had to have before it could send to `upstream`; `added_ns` what it added to
    the legs before.
    """

    __slots__ = (
        "added_ns", "body", "client", "generates", "headers", "method", "path", "prefilling", "relayed", "request", "retried",
        "since_ns", "upstream",
    )  # fmt: skip

    def __init__(self, client: Client, *, generates: bool) -> None:
        self.client = client
        self.method, self.path = client.method, client.path
        self.headers, self.body = dict(client.headers), client.body
        self.generates = generates
        self.prefilling = self.relayed = self.retried = False
        self.added_ns = 0
        self.since_ns = client.received_ns
        self.request = b""
        self.upstream: Upstream | None = None


class ProxyServer:
    """Serves until `stop` is called. Raises OSError where the port is taken."""

    def __init__(self, settings: Settings) -> None:
        self._first_server = settings.servers[0]
        self._next_server = _chooser(settings.servers, settings)
        self._next_prefill = _chooser(settings.prefills, settings) if settings.prefills else None
        self._totals = Totals()
        self._upstreams: dict[int, Upstream] = {}
        self._idle: dict[Address, list[Upstream]] = {}
        self._flights: dict[Client, _Flight] = {}
        self._flight_of: dict[Upstream, _Flight] = {}
        self._stopping = False
        self._epoll = select.epoll()
        self._clients = Clients(settings.host, settings.port, self._epoll, self._handle, self._gone)

    @property
    def port(self) -> int:
        """The port that the proxy listens on."""
        return self._clients.port

    def stop(self) -> None:
        """Leave the loop at the next opportunity (for signal handlers)."""
        self._stopping = True

    def serve(self) -> None:
        """The loop. Returns after `stop`."""
        while not self._stopping:
            for fd, mask in self._epoll.poll(_POLL_S):
                if fd in self._upstreams:
                    self._serve_upstream(self._upstreams[fd], mask)
                else:
                    self._clients.serve(fd, mask)
        print(self._totals.render().decode(), file=sys.stderr)

    def _handle(self, client: Client) -> None:
        if client in self._flights:
            # It asks again before it has its answer: whoever does that cannot be told which answer is whose.
            self._clients.close(client)
        elif client.path.startswith(b"/v1/"):
            self._begin(client)
        elif (client.method, client.path) == (b"GET", b"/health"):
            self._write(client, whole_answer(_OK, b""))
        elif (client.method, client.path) == (b"GET", b"/metrics"):
            self._write(client, whole_answer(_OK, self._totals.render(), "text/plain; version=0.0.4"))
        else:
            self._answer(client, 404, "no such route")

    def _begin(self, client: Client) -> None:
        flight = _Flight(client, generates=client.method == b"POST" and client.path in _GENERATING)
        self._flights[client] = flight
        self._totals.requests += flight.generates
        body, address = flight.body, None
        if flight.generates and self._next_prefill is not None:
            try:
                body = prefill_body(flight.body)
            except HandoverError as error:
                self._refuse(flight, 400, str(error))
                return
            flight.prefilling, address = True, self._next_prefill()
        elif flight.generates:
            address = self._next_server()
        # Whoever only asks what there is takes nobody's turn.
        self._send(flight, address or self._first_server, body)

    def _send(self, flight: _Flight, address: Address, body: bytes) -> None:
        flight.retried = False
        flight.request = request_bytes(flight.method, flight.path, flight.headers, body, address)
        idle = self._idle.get(address)
        self._offer(flight, idle.pop() if idle else self._opened(address))

    def _offer(self, flight: _Flight, upstream: Upstream) -> None:
        flight.upstream = upstream
        self._flight_of[upstream] = flight
        try:
            complete = upstream.begin(flight.request)
        except OSError as error:
            self._failed(flight, upstream, error)
            return
        if not complete:
            self._epoll.modify(upstream.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _opened(self, address: Address) -> Upstream:
        upstream = Upstream(address)
        self._upstreams[upstream.socket.fileno()] = upstream
        self._epoll.register(upstream.socket.fileno(), select.EPOLLIN)
        return upstream

    def _serve_upstream(self, upstream: Upstream, mask: int) -> None:
        flight = self._flight_of.get(upstream)
        if flight is None:
            # One that is kept has ended: the server does not wait for ever.
            self._idle[upstream.address].remove(upstream)
            self._drop(upstream)
            return
        try:
            if mask & select.EPOLLOUT and upstream.flush():
                self._epoll.modify(upstream.socket.fileno(), select.EPOLLIN)
            if not mask & ~select.EPOLLOUT:
                return
            data = upstream.read()
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError) as error:
            self._failed(flight, upstream, error)
            return
        if not data:
            self._failed(flight, upstream, ConnectionError("the connection ended within the answer"))
        elif not flight.prefilling:
            self._relay(flight, upstream, data)
        elif upstream.complete:
            self._prefilled(flight, upstream)

    def _relay(self, flight: _Flight, upstream: Upstream, data: bytes) -> None:
        if not self._write(flight.client, data):
            return
        took_ns = time.monotonic_ns() - upstream.received_ns
        totals = self._totals
        if flight.relayed:
            totals.relay_ns += took_ns
            totals.relay_count += 1
        elif flight.generates:
            totals.added_ns += flight.added_ns + upstream.sent_ns - flight.since_ns + took_ns
            totals.added_count += 1
        flight.relayed = True
        if upstream.complete:
            del self._flights[flight.client]
            self._release(upstream)

    def _prefilled(self, flight: _Flight, upstream: Upstream) -> None:
        answered_ns, answer = upstream.received_ns, b"".join(upstream.body)
        status = upstream.status
        self._totals.prefill_ns += answered_ns - upstream.sent_ns
        self._totals.prefill_count += 1
        self._release(upstream)
        flight.prefilling = False
        flight.added_ns += upstream.sent_ns - flight.since_ns
        flight.since_ns = answered_ns
        if status != _OK:
            del self._flights[flight.client]
            self._write(flight.client, whole_answer(status, answer))
            return
        try:
            body = decode_body(flight.body, answer)
        except HandoverError as error:
            self._refuse(flight, 502, str(error))
            return
        self._send(flight, self._next_server(), body)

    def _failed(self, flight: _Flight, upstream: Upstream, error: Exception) -> None:
        """An engine server did not answer. On a connection that was kept the request is offered once more, on a new one."""
        stale = not upstream.fresh and not upstream.status and not flight.retried
        self._drop(upstream)
        if stale:
            flight.retried = True
            self._offer(flight, self._opened(upstream.address))
            return
        self._totals.failures += 1
        said = f"{upstream.address[0]}:{upstream.address[1]} did not answer: {type(error).__name__}: {error}"
        print(said, file=sys.stderr, flush=True)
        if flight.relayed:
            self._clients.close(flight.client)
        else:
            self._refuse(flight, 502, said)

    def _refuse(self, flight: _Flight, status: int, message: str) -> None:
        self._flights.pop(flight.client, None)
        self._answer(flight.client, status, message)

    def _answer(self, client: Client, status: int, message: str) -> None:
        self._write(client, whole_answer(status, json.dumps({"error": {"message": message, "code": status}}).encode()))

    def _write(self, client: Client, data: bytes) -> bool:
        """Send `data`; what the kernel does not take now follows. False where the client has gone."""
        try:
            self._clients.write(client, data)
        except OSError:
            self._clients.close(client)
            return False
        return True

    def _release(self, upstream: Upstream) -> None:
        """The answer is whole: keep the connection for the next request, if the server does."""
        self._flight_of.pop(upstream, None)
        if not upstream.keeps:
            self._drop(upstream)
            return
        upstream.fresh = False
        self._idle.setdefault(upstream.address, []).append(upstream)

    def _drop(self, upstream: Upstream) -> None:
        self._flight_of.pop(upstream, None)
        fd = upstream.socket.fileno()
        if self._upstreams.pop(fd, None) is not None:
            self._epoll.unregister(fd)
        upstream.close()

    def _gone(self, client: Client) -> None:
        """The client has gone, or is cut off: so is what a server still computes for it."""
        flight = self._flights.pop(client, None)
        if flight is not None and flight.upstream is not None:
            self._drop(flight.upstream)


def _chooser(addresses: Sequence[Address], settings: Settings) -> Callable[[], Address]:
    """Who is next: one after another, or drawn."""
    if settings.policy == "random":
        draw = random.Random(settings.seed)
        return lambda: draw.choice(addresses)
    turns = itertools.cycle(addresses)
    return lambda: next(turns)
