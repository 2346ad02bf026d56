"""What is planted, and by which code it must be known: the declarations of the doubt suite.

A fault that has a size is planted just below the threshold of its check and just above. docs/doubt.md shows this table; the
suite holds what whole trials say against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAUTION, INVALID = "caution", "invalid"
BURST = {"kind": "burst"}

#: What a busy machine may add to any cell in which something else is tested.
NOISE = frozenset(
    {
        "client_error",
        "send_late",
        "shared_core",
        "not_warmed_up",
        "server_ttft_disagrees",
        "foreign_load",
    }
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured cell: how much of the fault is in it, under which load, and what must mark it (code → severity)."""

    size: str
    load: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Flags of the truth engine that this cell needs besides the fault's: it is then measured on a server of its own."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, how it is planted, and the cells in which it is. `also`: codes that may follow from it."""

    name: str
    how: str
    cells: tuple[Cell, ...]
    flags: Mapping[str, Any] = field(default_factory=dict)
    also: frozenset[str] = frozenset()
    request_timeout_s: float = 20.0

    @property
    def codes(self) -> frozenset[str]:
        """The codes that are its own."""
        return frozenset(code for cell in self.cells for code in cell.marks)


def burst(requests: int) -> dict[str, Any]:
    return {**BURST, "requests": requests}


def ordered(
    name: str, cells: tuple[Cell, ...], also: tuple[str, ...] = (), timeout_s: float = 20.0, **flags: Any
) -> Fault:
    """A fault ordered by `flags` of the truth engine, written with underscores."""
    written = {flag.replace("_", "-"): value for flag, value in flags.items()}
    how = " ".join(_shown(flag, value) for flag, value in (written | cells[-1].flags).items())
    return Fault(name, f"`{how}`", cells, written, frozenset(also), timeout_s)


def _shown(flag: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def failing(name: str, code: str, timeout_s: float = 20.0, **flags: Any) -> Fault:
    """A request that fails: with the flags every hundredth, so that of the cells' 100, 99 and 99 requests one, none, one is struck."""
    cells = (
        Cell("1 of 100, no more than 1 %", burst(100), {code: CAUTION}),
        Cell("none", burst(99)),
        Cell("1 of 99, more than 1 %", burst(99), {code: INVALID}),
    )
    return ordered(name, cells, timeout_s=timeout_s, **flags)


def wrong(name: str, code: str, *also: str, **flags: Any) -> Fault:
    """An answer that is wrong: with the flags every hundredth, and one is too many."""
    cells = (Cell("1 of 100", burst(100), {code: INVALID}), Cell("none", burst(99)))
    return ordered(name, cells, also, **flags)


def switched(name: str, severity: str, *codes: str, also: tuple[str, ...] = (), **flags: Any) -> Fault:
    """A fault that is there or not."""
    return ordered(name, (Cell("", burst(20), dict.fromkeys(codes, severity)),), also, **flags)


def recorded(
    name: str, code: str, severity: str, how: str, below: str = "", above: str = "", also: tuple[str, ...] = ()
) -> Fault:
    """A fault of the machine: nothing of it, or less than the threshold; and enough of it."""
    return Fault(
        name, how, (Cell(below or "none"), Cell(above or "there", marks={code: severity})), also=frozenset(also)
    )


EVERY = 100
STEADY = {"kind": "rate", "value": 40, "requests": 160}

#: Planted by flags of the truth engine. What one client's lateness adds is ignored there, so these run side by side.
ORDERED = (
    failing("HTTP 500", "http_errors", http_error_every=EVERY),
    failing("HTTP 429", "requests_rejected", http_error_every=EVERY, http_error_status=429),
    failing("HTTP 503", "requests_rejected", http_error_every=EVERY, http_error_status=503),
    failing("requests that are never answered", "requests_timed_out", 3.0, silent_every=EVERY),
    failing("answers without a token", "no_tokens", no_tokens_every=EVERY),
    failing("streams cut in the middle", "streams_cut", cut_every=EVERY),
    failing("malformed events", "malformed_answers", malformed_every=EVERY),
    wrong("fewer tokens than asked", "tokens_not_as_asked", short_every=EVERY),
    wrong("answers that stop by end-of-sequence", "stopped_early", "tokens_not_as_asked", stop_every=EVERY),
    switched("no usage", CAUTION, "tokens_assumed", usage=False),
    ordered(
        "usage that counts wrongly",
        (
            Cell("0 tokens too many", burst(20), {}, {"wrong-usage-by": 0}),
            Cell("1 token too many", burst(20), {"chunks_disagree": INVALID}, {"wrong-usage-by": 1}),
        ),
        ("tokens_not_as_asked", "generated_tokens_disagree"),
    ),
    switched("a cache that does not reset", INVALID, "cache_state_wrong", refuse_reset=True),
    switched(
        "a cache that says it did, and is warm from the cell before",
        INVALID,
        "cache_state_wrong",
        also=("foreign_cache_hits",),
        keep_cache_on_reset=True,
    ),
    switched("a lever that silently does not take", INVALID, "setting_not_taken", max_num_seqs=64, ignore_flag="max-num-seqs"),
    ordered(
        "counters that begin again",
        (
            Cell("within the cell", burst(100), {"counters_reset": INVALID}),
            Cell("in the cell before", burst(99)),
        ),
        ("generated_tokens_disagree", "prompt_tokens_disagree", "foreign_requests"),
        reset_counters_at_request=100,
    ),
    ordered(
        "a rate that the server cannot sustain",
        (
            Cell("40 requests/s, of 47", {"kind": "rate", "value": 40, "requests": 160}),
            Cell("60 requests/s, of 47", {"kind": "rate", "value": 60, "requests": 180}, {"saturated": CAUTION}),
        ),
        max_num_seqs=8,
    ),
    ordered(
        "a rate that ends before the first answer does",
        (
            Cell("1.5 s, of 0.75 s", {"kind": "rate", "value": 40, "requests": 60}),
            Cell("0.5 s, of 0.75 s", {"kind": "rate", "value": 40, "requests": 20}, {"window_short": CAUTION}),
        ),
        ttft=0.05, gap=0.1,
    ),
    ordered(
        "a compilation inside the window",
        (
            Cell("within the cell", burst(100), {"compiled_in_window": INVALID}),
            Cell("in the cell before", burst(99)),
        ),
        ("stalled",),
        pause_at_request=100, pause_s=0.1,
    ),
    ordered(
        "a pause that nothing tells of",
        (
            Cell("0.15 s, of 0.3", STEADY, {}, {"pause-s": 0.15}),
            Cell("0.6 s, of 0.3", STEADY, {"stalled": CAUTION}, {"pause-s": 0.6}),
        ),
        pause_at_request=80, pause_is_logged=False,
    ),
    ordered(
        "a server that gets slower and slower",
        (
            Cell("2 % a second", STEADY, {}, {"drift-per-s": 0.02}),
            Cell("12 % a second", STEADY, {"drift": CAUTION}, {"drift-per-s": 0.12}),
        ),
        ("saturated",),
    ),
)  # fmt: skip

#: Nothing is wrong with these, and nothing may be marked.
HARMLESS = (
    switched("nothing", "", max_num_seqs=64),
    switched("chunks split inside a character", "", split_chunks=True),
    switched("chunks split inside a JSON string", "", split_json=True),
    switched("an empty first chunk", "", empty_first_chunk=True),
    switched("several tokens a chunk", "", tokens_per_chunk=3, acceptance=0.7),
    switched("tokens without text", "", empty_text_every=3),
    switched("times that scatter", "", ttft="lognormal(0.1, 0.2)", gap="gamma(0.01, 4)"),
)

#: The whole trial fails: a cell has no numbers, and a reason in its place; one that may pass is left for the next attempt.
DEAD = (
    ordered(
        "refuses its configuration", (Cell("", marks={"configuration_refused": "infeasible"}),), refuse="no kernel"
    ),
    ordered("dead before the run", (Cell("", marks={"server_died": "failed"}),), exit_after_requests=2),
    ordered("dies in the run", (Cell("", marks={"server_died": "failed"}),), exit_after_requests=60),
    ordered("hangs at its start", (Cell("", marks={"start_timeout": "left"}),), startup_s=3600.0),
)

#: What the machine does, by what was recorded of it: put to the checks of a cell in which nothing else is wrong.
RECORDED = (
    recorded("a clock that jumps", "clock_jumped", CAUTION, "the instrument's statement"),
    recorded("engine and client compete for a core", "shared_core", CAUTION, "one core in both sets"),
    recorded("a client starved of CPU", "shared_core", CAUTION, "its run-queue wait", "4 % of the time", "6 % of the time"),
    recorded("foreign load on the engine's cores", "foreign_load", CAUTION, "samples of the host", "4 % of the cores", "6 % of the cores"),
    recorded("clocks that throttle", "gpu_throttled", CAUTION, "NVML samples of an H200", "4 % of the time", "all the time", also=("gpu_clock_dropped",)),
    recorded("a clock that falls", "gpu_clock_dropped", CAUTION, "NVML samples", "by 9 %", "by 12 %"),
    recorded("a neighbour on the GPU", "gpu_shared", INVALID, "NVML samples of an H200", "none", "one process"),
    recorded("memory errors", "gpu_ecc_errors", INVALID, "NVML counters", "none new", "one uncorrected"),
    recorded("a GPU's memory that does not come back", "gpu_memory_kept", CAUTION, "NVML samples of an H200", "0.6 GiB", "26 GiB"),
    recorded("a GPU of which NVML tells nothing", "gpu_not_sampled", CAUTION, "NVML samples of an H200", "every sample", "no sample"),
    recorded("samples that end before the cell does", "gpu_not_sampled", CAUTION, "NVML samples of an H200", "all there", "half of them, and why"),
    recorded("a GPU whose power NVML denies", "gpu_not_sampled", CAUTION, "NVML samples of an H200", "energy is counted", "energy is denied too"),
    recorded("faster than the GPU can be", "faster_than_roofline", INVALID, "a floor", "9 % below it", "11 % below it"),
)  # fmt: skip

ALL = (*DEAD, *ORDERED, *RECORDED, *HARMLESS)
