"""The kernel's receive stamps, and the way from their clock to the monotonic one."""

import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

SO_TIMESTAMPNS: Final = 35
"""From asm-generic/socket.h; it is not among Python's constants."""

_TIMESPEC: Final = struct.Struct("@qq")


def realtime_stamp_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's receive stamp (CLOCK_REALTIME, of the last segment of the read), -1 where there is none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return -1


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """CLOCK_REALTIME - CLOCK_MONOTONIC in ns, known to ± `uncertainty_ns`."""

    offset_ns: int
    uncertainty_ns: int


def clock_offset(samples: int = 200) -> ClockOffset:
    """The offset between the two clocks, from the closest of `samples` readings of one between two of the other.

    Both clocks are slewed alike by NTP, so that the offset changes only when the wall clock is set.
    """
    monotonic, realtime = time.monotonic_ns, time.time_ns
    best = ClockOffset(0, 1 << 62)
    for _ in range(samples):
        before = monotonic()
        wall = realtime()
        after = monotonic()
        half = (after - before + 1) // 2
        if half < best.uncertainty_ns:
            best = ClockOffset(wall - (before + after) // 2, half)
    return best
