"""The raw log of a replay: what was sent when, and every read with its stamps. Nothing in it is interpreted.

All instants are nanoseconds of CLOCK_MONOTONIC, but for the kernel's receive stamps, which are of CLOCK_REALTIME.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from leverlab.load.clocks import ClockOffset
from leverlab.load.cost import ClientCost

Integers = NDArray[np.int64]

NEVER: Final = -1
"""An instant that did not come: a request that was never sent, or never ended."""

COMPLETE: Final = "complete"
CLOSED: Final = "closed"
LOST: Final = "lost"
UNREACHABLE: Final = "unreachable"
TIMED_OUT: Final = "timed out"


@dataclass(frozen=True, slots=True)
class SentRequest:
    """What was asked for, as far as parsing needs it: the prompt stays in the workload's file."""

    index: int
    request_id: str
    prompt_tokens: int
    output_tokens: int
    priority: int | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayLog:
    """Arrays of one entry a request, a read, or a poll (when it began).

    `outcomes` says how the transport of each request ended: complete (the end of the body was seen), closed (the server
    closed before that), lost (reset), unreachable (no connection), timed out. `poll_reads` is the number of reads made
    before that poll, so that the poll before a read can be found.
    """

    requests: list[SentRequest]
    endpoint: str
    load: str
    origin_ns: int
    origin_realtime_ns: int
    scheduled_ns: Integers
    send_begun_ns: Integers
    send_ended_ns: Integers
    outcomes: list[str]
    errors: list[str]
    read_request: Integers
    read_ns: Integers
    read_stamp_ns: Integers
    read_bytes: Integers
    payload: bytes
    poll_ns: Integers
    poll_reads: Integers
    offset_before: ClockOffset
    offset_after: ClockOffset
    cost: ClientCost
    reconnects: int


_MAXIMUM_BLOB = 2**31  # msgpack counts the bytes of a blob in 32 bits


def write_log(log: ReplayLog, path: Path) -> None:
    """Write `log` to `path` by rename."""
    plain: dict[str, Any] = {}
    for field in fields(log):
        value = getattr(log, field.name)
        if isinstance(value, np.ndarray):
            value = value.tobytes()
        plain[field.name] = value
    plain["payload"] = [log.payload[at : at + _MAXIMUM_BLOB] for at in range(0, len(log.payload), _MAXIMUM_BLOB)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.msgpack.encode(plain))
    temporary.replace(path)


def read_log(path: Path) -> ReplayLog:
    """The log that `write_log` wrote to `path`."""
    plain = msgspec.msgpack.decode(path.read_bytes())
    plain["payload"] = b"".join(plain["payload"])
    plain["requests"] = [SentRequest(**request) for request in plain["requests"]]
    plain["cost"] = ClientCost(**plain["cost"])
    for name in ("offset_before", "offset_after"):
        plain[name] = ClockOffset(**plain[name])
    for field in fields(ReplayLog):
        if field.type is Integers:
            plain[field.name] = np.frombuffer(plain[field.name], np.int64)
    return ReplayLog(**plain)
