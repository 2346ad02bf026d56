"""Waking at an absolute time of CLOCK_MONOTONIC inside an epoll loop.

A timerfd, through ctypes because Python has `os.timerfd_create` only from 3.13 on. The alternatives are worse: the time-out
of `epoll.poll` is in whole milliseconds, and every sleeping call is subject to the 50 µs timer slack of an ordinary
thread, which a timerfd is not. benchmarks/timers.py measures all of them.
"""

import ctypes
import errno
import os
import select

_TFD_TIMER_ABSTIME = 1
_CLOCK_MONOTONIC = 1
_BILLION = 1_000_000_000


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """A timerfd registered edge-triggered with an epoll, so that an expiry needs no read."""

    def __init__(self, epoll: select.epoll) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.fd: int = library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create: " + errno.errorcode.get(ctypes.get_errno(), ""))
        self._set = library.timerfd_settime
        self._value = _Itimerspec()
        self._reference = ctypes.byref(self._value)
        epoll.register(self.fd, select.EPOLLIN | select.EPOLLET)

    def arm(self, at_ns: int) -> None:
        """Expire once at `at_ns`; at once if that is past. An earlier setting is replaced."""
        self._value.value_s, self._value.value_ns = divmod(max(at_ns, 1), _BILLION)
        self._set(self.fd, _TFD_TIMER_ABSTIME, self._reference, None)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
