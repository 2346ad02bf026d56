"""What a twin's record says of its requests, and of what broke it off."""

import pyarrow as pa
import pytest

from leverlab.profile.request_facts import request_facts
from leverlab.profile.twin import why_partial
from leverlab.profile.window import Window
from leverlab.records import Reason
from leverlab.trial.offer import ClientFailedError, Offered
from leverlab.trial.outcomes import Interrupted, ServerDiedError


def offered(origin_ns: int | None) -> Offered:
    """Two streams: gaps of 0.1 s up to 1 s, of 0.3 s after it, on a clock that began at 50 s."""
    arrivals = [0.8, 0.9, 1.0, 1.3, 1.6]
    requests = {"status": ["ok", "ok"], "ttft_s": [0.8, 0.8], "tpot_s": [0.2, None]}
    chunks = {"index": [0] * 5 + [1] * 5, "arrival_s": arrivals * 2}
    return Offered(pa.table(requests), pa.table(chunks), {}, origin_ns)


def test_gaps_while_it_recorded_are_told_apart() -> None:
    facts = request_facts(offered(50 * 10**9), (50.95, 51.65))
    assert facts["ok"] == 2 and facts["tpot_s_p50"] == 0.2
    assert facts["chunk_gap_s_p50"] == pytest.approx(0.2)
    assert facts["recorded_chunk_gap_s_p50"] == pytest.approx(0.3), "a gap that began before it is none of them"


@pytest.mark.parametrize(
    ("origin_ns", "recorded"), [(None, (50.0, 52.0)), (50 * 10**9, None), (50 * 10**9, (60.0, 61.0))]
)
def test_without_a_clock_a_window_or_a_gap_nothing_is_told_of_them(
    origin_ns: int | None, recorded: tuple[float, float] | None
) -> None:
    assert "recorded_chunk_gap_s_p50" not in request_facts(offered(origin_ns), recorded)


def test_without_a_chunk_there_is_no_gap() -> None:
    nothing = Offered(
        offered(0).requests,
        pa.table({"index": pa.array([], pa.int64()), "arrival_s": pa.array([], pa.float64())}),
        {},
        0,
    )
    assert set(request_facts(nothing, (0.0, 1.0))) == {"ok", "ttft_s_p50", "tpot_s_p50"}


OPEN = Window(opened_at_s=1.0, problem="ReadTimeout: timed out")
CLOSED = Window(opened_at_s=1.0, recorded_s=0.5)


@pytest.mark.parametrize(
    ("broken_off", "window", "code", "message"),
    [
        (ClientFailedError("the client ended with 1"), CLOSED, "client_failed", "the client ended with 1"),
        (ServerDiedError(Reason(code="out_of_memory", message="no memory")), OPEN, "out_of_memory", "no memory"),
        (Interrupted(15), CLOSED, "interrupted", "The job was told to end by signal 15."),
        (None, OPEN, "window_broken_off", "ReadTimeout: timed out"),
    ],
)
def test_a_part_says_what_broke_it_off(
    broken_off: ClientFailedError | ServerDiedError | Interrupted | None, window: Window, code: str, message: str
) -> None:
    assert why_partial(broken_off, window) == Reason(code=code, message=message)


def test_what_was_recorded_to_its_end_is_no_part_and_neither_is_nothing() -> None:
    assert why_partial(None, CLOSED) is None and why_partial(Interrupted(15), Window()) is None
