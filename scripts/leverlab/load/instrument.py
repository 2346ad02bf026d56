"""The instrument's statement about its own error, from the raw log alone. docs/instrument.md derives each figure."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from leverlab.load.log import NEVER, Integers, ReplayLog

Floats = NDArray[np.float64]

CLOCK_JUMP_NS: Final = 20_000
"""Offsets of the two clocks that differ by more than this: somebody set the wall clock. Both are known to about 0.1 µs."""


@dataclass(frozen=True, slots=True)
class InstrumentError:
    """What the client adds to what it measures, and the signs by which a noisy run is known. None: not known.

    * `ttft_error_s`: 99 of 100 requests have a `ttft_s` that the client made longer by at most this.
    * `send_lag_*`: actual - scheduled send. `read_delay_*`: read - kernel's receive stamp.
    * `reads_per_chunk`: reads / token-bearing chunks (headers and the last event may add a read); `coalesced_share`: token-bearing
      chunks that shared a read with another one, whose stamp is that of the last.
    * `clock_jump_s`: change of CLOCK_REALTIME - CLOCK_MONOTONIC over the run; `clock_jumped` when it is more than reading
      the clocks explains, and then no kernel stamp is used (`stamp_source` is read).
    * `run_queue_wait_share`: time that the client was runnable without a core / wall time.
    * `cpu_per_chunk_s`, `cpu_share`: CPU time of the replaying loop / token-bearing chunks, / wall time.
    """

    ttft_error_s: float | None
    send_lag_p50_s: float | None
    send_lag_p99_s: float | None
    send_lag_max_s: float | None
    read_delay_p50_s: float | None
    read_delay_p99_s: float | None
    reads_per_chunk: float | None
    coalesced_share: float | None
    clock_jump_s: float
    clock_jumped: bool
    run_queue_wait_share: float | None
    involuntary_switches: int
    cpu_per_chunk_s: float | None
    cpu_share: float
    stamp_source: Literal["kernel", "read"]
    reconnects: int


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When each read's bytes arrived (ns of CLOCK_MONOTONIC), by how much that may be late, and where it is from.

    The bound for a read that holds one event is the uncertainty of the clocks' offset; for a read that holds several, of
    which only the last is stamped, it is the time since the poll before, at which none of them was there.
    """

    arrival_ns: Integers
    late_ns: Integers
    since_poll_ns: Integers
    delay_ns: Integers
    source: Literal["kernel", "read"]
    jump_ns: int


def arrivals(log: ReplayLog) -> Arrivals:
    """The arrival of every read: its kernel stamp carried over to CLOCK_MONOTONIC, or, after a clock jump, its read time."""
    before, after = log.offset_before, log.offset_after
    jump_ns = after.offset_ns - before.offset_ns
    stamped = log.read_stamp_ns != NEVER
    arrival_ns = log.read_stamp_ns - before.offset_ns
    delay_ns = log.read_ns - arrival_ns
    # A wall clock that was set and set back between the two samples shows as reads that precede their arrival.
    back_ns = int(-delay_ns[stamped].min(initial=0))
    if back_ns > max(abs(jump_ns), CLOCK_JUMP_NS):
        jump_ns = back_ns
    jumped = abs(jump_ns) > CLOCK_JUMP_NS
    previous_poll_ns = _previous_poll(log)
    if jumped or not stamped.all():
        arrival_ns = log.read_ns
        return Arrivals(
            arrival_ns,
            arrival_ns - previous_poll_ns,
            arrival_ns - previous_poll_ns,
            arrival_ns - previous_poll_ns,
            "read",
            jump_ns,
        )
    arrival_ns = np.minimum(arrival_ns, log.read_ns)
    uncertain_ns = before.uncertainty_ns + after.uncertainty_ns
    late_ns = np.full(len(arrival_ns), uncertain_ns, np.int64)
    return Arrivals(
        arrival_ns, late_ns, np.maximum(arrival_ns - previous_poll_ns, 0) + uncertain_ns, delay_ns, "kernel", jump_ns
    )


def _previous_poll(log: ReplayLog) -> Integers:
    """For each read the begin of the poll before the one that announced it: an instant at which it had not arrived.

    The begin, because a loop that loses its core between looking and returning would put the return too late.
    """
    poll = np.searchsorted(log.poll_reads, np.arange(len(log.read_ns)), side="right") - 2
    begun = np.where(log.read_request >= 0, log.send_begun_ns[log.read_request], log.origin_ns)
    return np.maximum(np.where(poll >= 0, log.poll_ns[np.maximum(poll, 0)], 0), begun)


def instrument_error(log: ReplayLog, arrived: Arrivals, chunk_reads: Integers, ttft_error_s: Floats) -> InstrumentError:
    """The statement for a whole replay. `chunk_reads`: the read of each token-bearing chunk; `ttft_error_s`: a request's bound."""
    sent = log.send_begun_ns != NEVER
    lag = (log.send_begun_ns - log.scheduled_ns)[sent] / 1e9
    _, sharing = np.unique(chunk_reads, return_counts=True)
    chunks = len(chunk_reads)
    delay = arrived.delay_ns / 1e9 if arrived.source == "kernel" else np.array([])
    wait_s, wall_s = log.cost.run_queue_wait_s, log.cost.wall_s
    return InstrumentError(
        ttft_error_s=_quantile(ttft_error_s[~np.isnan(ttft_error_s)], 0.99),
        send_lag_p50_s=_quantile(lag, 0.5),
        send_lag_p99_s=_quantile(lag, 0.99),
        send_lag_max_s=_quantile(lag, 1.0),
        read_delay_p50_s=_quantile(delay, 0.5),
        read_delay_p99_s=_quantile(delay, 0.99),
        reads_per_chunk=len(log.read_ns) / chunks if chunks else None,
        coalesced_share=float(sharing[sharing > 1].sum()) / chunks if chunks else None,
        clock_jump_s=arrived.jump_ns / 1e9,
        clock_jumped=abs(arrived.jump_ns) > CLOCK_JUMP_NS,
        run_queue_wait_share=None if wait_s is None else wait_s / wall_s,
        involuntary_switches=log.cost.involuntary_switches,
        cpu_per_chunk_s=log.cost.cpu_s / chunks if chunks else None,
        cpu_share=log.cost.cpu_s / wall_s,
        stamp_source=arrived.source,
        reconnects=log.reconnects,
    )


def _quantile(values: Floats, q: float) -> float | None:
    return float(np.quantile(values, q)) if len(values) else None
