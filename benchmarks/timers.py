"""How late is an absolute time noticed by the ways of waiting that Python has, on this machine, now?

python benchmarks/timers.py
"""

import select
import time
from collections.abc import Callable

import numpy as np

from leverlab.load.timer import Timer

WAITS = 1000
APART_NS = 2_300_000


def ways() -> dict[str, Callable[[int], None]]:
    """Name → a function that waits until an instant of CLOCK_MONOTONIC, in ns."""
    epoll, empty = select.epoll(), select.epoll()
    timer = Timer(epoll)

    def timerfd(at_ns: int) -> None:
        timer.arm(at_ns)
        epoll.poll()

    def timerfd_then_spin(at_ns: int) -> None:
        timer.arm(at_ns - 80_000)
        epoll.poll()
        while time.monotonic_ns() < at_ns:
            empty.poll(0)

    def epoll_timeout(at_ns: int) -> None:
        while (left_ns := at_ns - time.monotonic_ns()) > 0:
            empty.poll(left_ns / 1e9)

    def sleep(at_ns: int) -> None:
        time.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)

    return {wait.__name__: wait for wait in (timerfd_then_spin, timerfd, sleep, epoll_timeout)}


def main() -> None:
    print(f"{'way of waiting':<20}{'p50 µs':>9}{'p90 µs':>9}{'p99 µs':>9}")
    for name, wait in ways().items():
        late, at_ns = [], time.monotonic_ns() + 10_000_000
        for _ in range(WAITS):
            at_ns += APART_NS
            wait(at_ns)
            late.append((time.monotonic_ns() - at_ns) / 1e3)
        print(f"{name:<20}" + "".join(f"{np.quantile(late, share):9.1f}" for share in (0.5, 0.9, 0.99)))


if __name__ == "__main__":
    main()
