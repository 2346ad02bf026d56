"""The loop that replays: it sends at absolute times, reads, stamps, appends, and does nothing else.

During the run there is no parsing, no garbage collection and no thread. What a read costs decides how true the instrument
is, so the loop binds its methods to locals and appends to plain lists.
"""

import contextlib
import gc
import os
import resource
import select
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from leverlab.load.clocks import ClockOffset, clock_offset, realtime_stamp_ns
from leverlab.load.connection import Body, Connection
from leverlab.load.cost import ClientCost, CostMeter
from leverlab.load.log import (
    CLOSED,
    COMPLETE,
    LOST,
    NEVER,
    TIMED_OUT,
    UNREACHABLE,
    ReplayLog,
    SentRequest,
)
from leverlab.load.plan import LoadPoint, PlannedRequest, Target, request_bytes
from leverlab.load.schedule import Schedule
from leverlab.load.timer import Timer

Progress = Callable[[int, int], None]

MAXIMUM_PRECONNECTED: Final = 1024
_READ_BYTES: Final = 4096
_ANCILLARY_BYTES: Final = 64
_TICK_NS: Final = 250_000_000
_SCAN_S: Final = 0.01
"""The longest sleep. A poll that announces nothing proves that nothing had arrived: the bound on a first token's stamp needs one
that is not long ago."""
_LEAD_NS: Final = 50_000_000
"""From the end of the preparations to the phase's t = 0: the server accepts the connections meanwhile."""
_SPIN_NS: Final = 80_000
"""The timer wakes the loop this long before a send is due, and it polls without sleeping for the rest: a sleeping core takes
40 to 60 µs to wake."""
_SENDS_A_TURN: Final = 64
_BUSY_WINDOW_NS: Final = 10_000_000
_BUSY_READ_EVERY_NS: Final = 100_000
_PAUSE_S: Final = 250e-6
"""At more than 10,000 reads/s the loop rests this long between two turns: waking for every chunk costs as much again as reading it,
and late reading changes no kernel stamp. Never when a send is due within twice that time."""
_STALE_NS: Final = 50_000_000
"""A kept connection that is lost within this time of a send, without an answer, was closed by the server while idle."""
_INPUT: Final = select.EPOLLIN | select.EPOLLRDHUP
_OUTPUT: Final = select.EPOLLOUT


class ReplayLoop:
    """One replay of `requests` at `load`. `run` may be called once."""

    def __init__(
        self,
        target: Target,
        requests: Sequence[PlannedRequest],
        load: LoadPoint,
        timeout_s: float,
        progress: Progress | None,
    ) -> None:
        count = len(requests)
        self._target = target
        self._requests = sorted(requests, key=lambda request: request.arrival_unit_s)
        self._load = load
        self._schedule = Schedule(self._requests, load)
        self._timeout_ns = int(timeout_s * 1e9)
        self._progress = progress
        self._payloads = [request_bytes(target, request) for request in self._requests]
        self._epoll = select.epoll()
        self._timer = Timer(self._epoll)
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._flying: dict[int, Connection] = {}
        self._done = 0
        self._scheduled = [NEVER] * count
        self._send_begun = [NEVER] * count
        self._send_ended = [NEVER] * count
        self._answered = [False] * count
        self._retried = [False] * count
        self._outcomes = [TIMED_OUT] * count
        self._errors = [""] * count
        self._read_request: list[int] = []
        self._read_ns: list[int] = []
        self._ancillary: list[list[tuple[int, int, bytes]]] = []
        self._data: list[bytes] = []
        self._poll_ns: list[int] = []
        self._poll_reads: list[int] = []
        self._reconnects = 0
        self._offset = ClockOffset(0, 0)

    def run(self) -> ReplayLog:
        """Replay, and return the log. What fails on the way is an outcome of its request, never an exception."""
        self._connect_beforehand()
        before = self._offset = clock_offset()
        gc.collect()
        gc.freeze()
        gc.disable()
        cost = CostMeter()
        origin_ns = time.monotonic_ns() + _LEAD_NS
        self._schedule.begin(origin_ns)
        try:
            self._loop()
        finally:
            spent = cost.stop()
            gc.enable()
            gc.unfreeze()
            self._close()
        return self._log(origin_ns, before, clock_offset(), spent)

    def _connect_beforehand(self) -> None:
        """One connection a request that can be in flight, up to a limit. A failure is left to the send to meet again."""
        wanted = min(self._schedule.at_once, MAXIMUM_PRECONNECTED)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = len(self._requests) + 64
        if soft < needed:
            limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        deadline = time.monotonic() + 5.0
        for _ in range(wanted):
            try:
                connection = self._open()
            except OSError:
                return
            while not connection.established and time.monotonic() < deadline:
                waiting = select.poll()
                waiting.register(connection.fd, select.POLLOUT)
                waiting.poll(50)
                if connection.connect_problem():
                    break
                connection.established = connection.is_connected()
            if not connection.established:
                self._drop(connection)
                return
            self._epoll.modify(connection.fd, _INPUT)
            connection.fresh = False
            self._idle.append(connection)
        self._idle.reverse()

    def _open(self) -> Connection:
        connection = Connection(self._target.host, self._target.port)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, _INPUT | _OUTPUT)
        return connection

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is not None:
            self._epoll.unregister(connection.fd)
            connection.socket.close()

    def _loop(self) -> None:
        clock, poll = time.monotonic_ns, self._epoll.poll
        due, flying, connections = self._schedule.due, self._flying, self._connections
        note_poll, note_poll_reads = self._poll_ns.append, self._poll_reads.append
        note_request, note_time = self._read_request.append, self._read_ns.append
        note_ancillary, note_data = self._ancillary.append, self._data.append
        data_list = self._data
        maximum_events = len(self._requests) + 64
        chunked, readable, writable = Body.CHUNKED, select.EPOLLIN, _OUTPUT
        armed_for = tick = window_began = window_reads = empty_scan = 0
        pausing = False
        while due or flying:
            wait_s = _SCAN_S
            if due:
                self._send_due()
                if due:
                    at = due[0][0]
                    left = at - clock()
                    if left < _SPIN_NS:
                        wait_s = 0.0
                    elif armed_for != at:
                        self._timer.arm(at - _SPIN_NS)
                        armed_for = at
            if pausing and wait_s and not (due and left < 2 * _PAUSE_S * 1e9):
                time.sleep(_PAUSE_S)
            begun = clock()
            events = poll(wait_s, maximum_events)
            now = clock()
            if now - window_began > _BUSY_WINDOW_NS:
                pausing = (len(data_list) - window_reads) * _BUSY_READ_EVERY_NS > now - window_began
                window_began, window_reads = now, len(data_list)
            if not events:
                empty_scan = begun
            else:
                if empty_scan:
                    note_poll(empty_scan)
                    note_poll_reads(len(data_list))
                    empty_scan = 0
                note_poll(begun)
                note_poll_reads(len(data_list))
            for fd, mask in events:
                connection = connections.get(fd)
                if connection is None:
                    continue
                if mask != readable and ((mask & writable and not self._writable(connection)) or mask == writable):
                    continue
                try:
                    data, ancillary, _, _ = connection.receive(_READ_BYTES, _ANCILLARY_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._lost(connection, LOST, str(error))
                    continue
                if not data:
                    self._lost(connection, CLOSED, "the server closed the connection")
                    continue
                note_request(connection.index)
                note_time(clock())
                note_ancillary(ancillary)
                note_data(data)
                if connection.body is chunked and len(data) > 6:
                    # The usual read: a whole event that is not the last one.
                    if data.endswith(b"\r\n0\r\n\r\n"):
                        self._complete(connection)
                    else:
                        connection.tail = data
                elif connection.ends_with(data):
                    self._complete(connection)
            if now > tick:
                tick = now + _TICK_NS
                self._tick(now)
        self._tick(clock())

    def _send_due(self) -> None:
        due, pop, clock = self._schedule.due, self._schedule.pop, time.monotonic_ns
        for _ in range(_SENDS_A_TURN):
            if not due or due[0][0] > clock():
                return
            scheduled_ns, index = pop()
            self._scheduled[index] = scheduled_ns
            self._send(index)

    def _send(self, index: int, *, anew: bool = False) -> None:
        connection = self._idle.pop() if self._idle and not anew else None
        if connection is None:
            try:
                connection = self._open()
            except OSError as error:
                self._send_begun[index] = self._send_ended[index] = time.monotonic_ns()
                self._finish(index, UNREACHABLE, str(error), time.monotonic_ns())
                return
        connection.index = index
        connection.await_answer()
        self._flying[index] = connection
        payload = self._payloads[index]
        if not connection.established:
            connection.outgoing = memoryview(payload)
            return
        self._send_begun[index] = time.monotonic_ns()
        try:
            sent = connection.socket.send(payload)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._send_ended[index] = time.monotonic_ns()
            self._lost(connection, LOST, str(error))
            return
        self._send_ended[index] = time.monotonic_ns()
        if sent < len(payload):
            connection.outgoing = memoryview(payload)[sent:]
            self._epoll.modify(connection.fd, _INPUT | _OUTPUT)

    def _writable(self, connection: Connection) -> bool:
        """Go on with a connection attempt or with a request that did not fit; False where the connection is gone."""
        index = connection.index
        if not connection.established:
            problem = connection.connect_problem()
            if problem:
                self._send_begun[index] = self._send_ended[index] = time.monotonic_ns()
                self._lost(connection, UNREACHABLE, os.strerror(problem))
                return False
            connection.established = True
            self._send_begun[index] = time.monotonic_ns()
        try:
            sent = connection.socket.send(connection.outgoing)
        except BlockingIOError:
            return True
        except OSError as error:
            self._send_ended[index] = time.monotonic_ns()
            self._lost(connection, LOST, str(error))
            return False
        connection.outgoing = connection.outgoing[sent:]
        self._send_ended[index] = time.monotonic_ns()
        if not connection.outgoing:
            self._epoll.modify(connection.fd, _INPUT)
        return True

    def _complete(self, connection: Connection) -> None:
        index = connection.index
        connection.index = -1
        connection.fresh = False
        self._idle.append(connection)
        self._finish(index, COMPLETE, "", self._stamp_of_last_read())

    def _stamp_of_last_read(self) -> int:
        """The instant of the last read on CLOCK_MONOTONIC: the kernel's stamp where there is one."""
        stamp_ns = realtime_stamp_ns(self._ancillary[-1])
        return self._read_ns[-1] if stamp_ns == NEVER else min(stamp_ns - self._offset.offset_ns, self._read_ns[-1])

    def _lost(self, connection: Connection, outcome: str, error: str) -> None:
        """The connection is gone: nothing to a request whose answer ends with the connection, an end to any other."""
        index = connection.index
        self._drop(connection)
        if index < 0:
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)
            return
        now = time.monotonic_ns()
        answered = connection.body is not Body.HEADERS or bool(connection.head)
        stale = not answered and not connection.fresh and now - self._send_begun[index] < _STALE_NS
        if stale and not self._retried[index]:
            self._retried[index] = True
            self._reconnects += 1
            self._flying.pop(index, None)
            self._send(index, anew=True)
        elif connection.body is Body.UNTIL_CLOSE and outcome == CLOSED:
            self._finish(index, COMPLETE, "", now)
        else:
            self._finish(index, outcome, error, now)

    def _finish(self, index: int, outcome: str, error: str, ended_ns: int) -> None:
        self._flying.pop(index, None)
        self._outcomes[index] = outcome
        self._errors[index] = error
        self._done += 1
        self._schedule.ended(index, ended_ns)

    def _tick(self, now_ns: int) -> None:
        for index, connection in list(self._flying.items()):
            if now_ns - self._scheduled[index] < self._timeout_ns:
                break  # in the order of sending: the others are younger
            self._drop(connection)
            self._finish(index, TIMED_OUT, f"no end within {self._timeout_ns / 1e9:g} s", now_ns)
        if self._progress is not None:
            self._progress(self._done, len(self._requests))

    def _close(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._timer.close()
        self._epoll.close()

    def _log(self, origin_ns: int, before: ClockOffset, after: ClockOffset, cost: ClientCost) -> ReplayLog:
        return ReplayLog(
            requests=[
                SentRequest(
                    request.index,
                    request.request_id,
                    request.prompt_tokens,
                    request.output_tokens,
                    request.priority,
                    request.adapter,
                )
                for request in self._requests
            ],
            endpoint=str(self._target.endpoint),
            load=str(self._load),
            origin_ns=origin_ns,
            origin_realtime_ns=origin_ns + before.offset_ns,
            scheduled_ns=np.array(self._scheduled, np.int64),
            send_begun_ns=np.array(self._send_begun, np.int64),
            send_ended_ns=np.array(self._send_ended, np.int64),
            outcomes=self._outcomes,
            errors=self._errors,
            read_request=np.array(self._read_request, np.int64),
            read_ns=np.array(self._read_ns, np.int64),
            read_stamp_ns=np.array([realtime_stamp_ns(ancillary) for ancillary in self._ancillary], np.int64),
            read_bytes=np.array([len(data) for data in self._data], np.int64),
            payload=b"".join(self._data),
            poll_ns=np.array(self._poll_ns, np.int64),
            poll_reads=np.array(self._poll_reads, np.int64),
            offset_before=before,
            offset_after=after,
            cost=cost,
            reconnects=self._reconnects,
        )
