"""Looking again and again, in a thread of its own."""

import os
import time
from types import SimpleNamespace

import pytest

from leverlab.telemetry.periodic import Periodic


def test_a_periodic_look_keeps_its_beat_and_ends_with_a_last_look() -> None:
    seen: list[float] = []

    def look() -> None:
        seen.append(time.monotonic())
        time.sleep(0.03)

    periodic = Periodic("test", 0.1, look)
    periodic.start()
    time.sleep(0.55)
    periodic.stop()
    beats = [(moment - seen[0]) / 0.1 for moment in seen[:-1]]
    assert len(beats) >= 4
    assert max(abs(beat - round(beat)) for beat in beats) < 0.5


def test_a_look_keeps_to_its_cores_and_leaves_the_caller_where_it_is() -> None:
    allowed, seen = os.sched_getaffinity(0), []
    core = min(allowed)
    periodic = Periodic("test", 0.1, lambda: seen.append(os.sched_getaffinity(0)), [core])
    periodic.start()
    periodic.stop()
    assert seen
    assert all(cores == {core} for cores in seen)
    assert os.sched_getaffinity(0) == allowed


def test_what_looking_takes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a look moves: three on their beat, one that is late, and the last."""
    clock = SimpleNamespace(now=100.0, looked=0)

    def look() -> None:
        clock.looked += 1
        clock.now += 0.15 if clock.looked == 3 else 0.02

    class Ended:
        def wait(self, timeout_s: float) -> bool:
            clock.now += timeout_s
            return clock.looked == 4

    monkeypatch.setattr("leverlab.telemetry.periodic.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("leverlab.telemetry.periodic.time.thread_time", lambda: 0.01 * clock.looked)
    periodic = Periodic("test", 0.1, look)
    monkeypatch.setattr(periodic, "_ended", Ended())
    assert periodic.cost() is None
    periodic._run()
    cost = periodic.cost()
    # They began at 0, 0.1, 0.2 and, one beat left out, 0.4; the last at 0.5.
    assert cost is not None and cost.looks == 5
    assert cost.rate == pytest.approx(3 / 0.4)
    assert (cost.look_s_p50, cost.look_s_max) == pytest.approx((0.02, 0.15))
    assert cost.cpu_share == pytest.approx(0.05 / 0.52)


def test_a_look_that_fails_is_kept_and_disturbs_nothing() -> None:
    def look() -> None:
        raise RuntimeError("broken")

    periodic = Periodic("test", 0.01, look)
    periodic.start()
    periodic.stop()
    assert periodic.error == "RuntimeError: broken"
