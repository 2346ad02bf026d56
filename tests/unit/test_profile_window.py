"""The window that a profiler records: when it opens, what is counted round it, and how it ends."""

import threading
from collections.abc import Callable

import pytest

from leverlab.profile.window import Looked, Window, WindowKeeper


class Engine:
    """Counts an iteration at each look, and generates ten tokens an iteration."""

    def __init__(self, tells_tokens: bool = True) -> None:
        self.looks, self.events = 0, [""] * 0
        self.tells_tokens = tells_tokens
        self.opened = threading.Event()

    def look(self) -> Looked:
        self.looks += 1
        return Looked(10.0 * self.looks if self.tells_tokens else None, 4.0, {"server": float(self.looks)})

    def begin(self) -> None:
        self.events.append("begin")
        self.opened.set()

    def end(self) -> None:
        self.events.append("end")


def kept(engine: Engine, window_s: float, tokens: float, end: Callable[[], None] | None = None) -> WindowKeeper:
    keeper = WindowKeeper(engine.look, engine.begin, end or engine.end, window_s, tokens)
    keeper.start()
    return keeper


def test_it_opens_after_a_third_of_the_tokens_and_counts_iterations_on_both_sides() -> None:
    engine = Engine()
    keeper = kept(engine, 0.01, tokens=300.0)
    assert engine.opened.wait(10)
    keeper.join(10)
    window = keeper.finish(10)
    # The first look counts 10 tokens; 100 more are a third of the load.
    assert window.iterations_before_start == 12.0 and window.iterations_after_start == 13.0
    assert window.iterations == (1.0, 3.0)
    assert engine.events == ["begin", "end"] and window.problem is None and not window.load_ended_first


def test_it_opens_by_ended_requests_where_the_engine_counts_no_tokens() -> None:
    engine = Engine(tells_tokens=False)
    keeper = kept(engine, 0.01, tokens=300.0)
    keeper.progress(1, 4)
    assert not engine.opened.wait(0.2)
    keeper.progress(2, 4)
    assert engine.opened.wait(10)
    assert keeper.finish(10).running_at_start == 4.0


def test_a_load_that_ends_first_closes_the_window_and_is_told() -> None:
    engine = Engine()
    keeper = kept(engine, 600.0, tokens=30.0)
    assert engine.opened.wait(10)
    window = keeper.finish(10)
    assert window.load_ended_first and engine.events == ["begin", "end"] and window.recorded_s is not None


def test_a_load_that_was_over_at_once_opens_no_window() -> None:
    engine = Engine(tells_tokens=False)
    keeper = kept(engine, 1.0, tokens=300.0)
    window = keeper.finish(10)
    assert window.opened_at_s is None and "before a third" in str(window.problem) and engine.events == []


def test_a_profiler_that_refuses_to_end_is_the_windows_problem() -> None:
    def refuse() -> None:
        raise RuntimeError("no")

    engine = Engine()
    keeper = kept(engine, 0.01, tokens=30.0, end=refuse)
    keeper.join(10)
    window = keeper.finish(10)
    assert window.problem == "RuntimeError: no" and keeper.closing and window.recorded_s is not None


class Dying(Engine):
    """Two servers, of which one has died when they are looked at for the `dies_at`th time."""

    def __init__(self, dies_at: int, back_at: float = float("inf")) -> None:
        super().__init__()
        self.dies_at, self.back_at = dies_at, back_at

    def look(self) -> Looked:
        one = super().look()
        if self.dies_at <= self.looks < self.back_at:
            raise ConnectionError("decode: connection refused")
        return Looked(one.generated, one.running, {"prefill": 100.0, "decode": one.iterations["server"]})


@pytest.mark.parametrize("dies_at", [13, 14])
def test_the_profilers_of_a_server_that_dies_and_of_the_others_are_told_to_end(dies_at: int) -> None:
    """The profiler begins after the twelfth look. A server that lives records until it is told to stop, whatever another does."""
    engine = Dying(dies_at)
    keeper = kept(engine, 0.01, tokens=300.0)
    keeper.join(10)
    window = keeper.finish(10)
    assert engine.events == ["begin", "end"] and keeper.closing
    assert window.problem == "ConnectionError: decode: connection refused"
    assert window.opened_at_s is not None and window.recorded_s is None and keeper.recorded is None
    assert window.iterations is None and Window(**window.as_mapping()) == window


def test_what_spoils_the_window_first_is_its_problem() -> None:
    def refuse() -> None:
        raise RuntimeError("no")

    keeper = kept(Dying(14), 0.01, tokens=300.0, end=refuse)
    keeper.join(10)
    assert keeper.finish(10).problem == "ConnectionError: decode: connection refused"
    assert not keeper.closing, "it had gone before, by itself"


def test_counts_of_a_look_that_failed_are_not_those_of_the_next() -> None:
    keeper = kept(Dying(14, back_at=15), 0.01, tokens=300.0)
    keeper.join(10)
    assert keeper.finish(10).by_server["decode"] == [12.0, 13.0, None, 15.0]


def test_a_look_that_fails_while_it_records_costs_its_counts_alone() -> None:
    engine = Dying(13, back_at=14)
    keeper = kept(engine, 0.01, tokens=300.0)
    keeper.join(10)
    window = keeper.finish(10)
    assert engine.events == ["begin", "end"] and "connection refused" in str(window.problem)
    assert window.recorded_s is not None and window.iterations_before_stop == 114.0
    assert window.iterations is None and window.by_server["decode"] == [12.0, None, 14.0, 15.0]


@pytest.mark.parametrize("missing", ["iterations_before_start", "iterations_after_stop"])
def test_without_a_count_nothing_is_claimed(missing: str) -> None:
    counts = dict.fromkeys(
        ("iterations_before_start", "iterations_after_start", "iterations_before_stop", "iterations_after_stop"), 1.0
    )
    assert Window(**{**counts, missing: None}).iterations is None  # type: ignore[arg-type]


def test_iterations_of_several_servers_are_kept_apart() -> None:
    class Two(Engine):
        def look(self) -> Looked:
            one = super().look()
            return Looked(one.generated, one.running, {"prefill": 100.0, "decode": one.iterations["server"]})

    engine = Two()
    keeper = kept(engine, 0.01, tokens=300.0)
    keeper.join(10)
    window = keeper.finish(10)
    assert window.by_server == {"prefill": [100.0] * 4, "decode": [12.0, 13.0, 14.0, 15.0]}
    assert window.iterations_of("prefill") == (0.0, 0.0) and window.iterations_of("decode") == (1.0, 3.0)
    assert window.iterations == (1.0, 3.0), "of all together"
    assert Window(**window.as_mapping()) == window


def looked_at(*counts: dict[str, float | None]) -> Window:
    """The window of servers that tell these counts at the four looks round it, which are the engine's twelfth and later."""

    class Told(Engine):
        def look(self) -> Looked:
            one = super().look()
            return Looked(one.generated, one.running, counts[max(self.looks - 12, 0)])

    keeper = kept(Told(), 0.01, tokens=300.0)
    keeper.join(10)
    return keeper.finish(10)


@pytest.mark.parametrize("silent", [{"decode": None}, {}])
def test_a_server_that_counts_nothing_is_not_given_the_count_of_another(silent: dict[str, float | None]) -> None:
    """A look that found no counter of a server says so; a record of before that left such a server out."""
    counts = [{"prefill": 5.0 + number, **silent} for number in range(4)]
    window = looked_at(*counts)
    assert window.iterations_of("decode") is None
    if silent:
        assert window.iterations_of("prefill") == (1.0, 3.0)
        assert window.iterations is None, "one of two is not all"


def test_a_server_that_is_silent_at_one_look_has_no_count() -> None:
    counts: list[dict[str, float | None]] = [{"prefill": float(number), "decode": 10.0} for number in range(4)]
    counts[2]["decode"] = None
    window = looked_at(*counts)
    assert window.iterations_of("prefill") == (1.0, 3.0)
    assert window.iterations_of("decode") is None and window.iterations is None


def test_a_record_without_a_servers_counts_does_not_take_those_of_all_together() -> None:
    window = Window(
        iterations_before_start=45.0, iterations_after_start=46.0, iterations_before_stop=50.0, iterations_after_stop=56.0,
        by_server={"prefill": [5.0, 5.0, 6.0, 6.0], "replica-1": [40.0, 41.0, 44.0, 50.0]},
    )  # fmt: skip
    assert window.iterations_of("replica-2") is None and window.iterations_of("prefill") == (1.0, 1.0)


def test_of_a_server_that_stands_alone_nothing_is_kept_twice() -> None:
    engine = Engine()
    keeper = kept(engine, 0.01, tokens=300.0)
    keeper.join(10)
    window = keeper.finish(10)
    assert window.by_server == {} and window.iterations_of("") == window.iterations == (1.0, 3.0)
