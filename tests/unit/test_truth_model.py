"""When the truth engine's chunks are due, worked out by hand."""

from leverlab.truth.distributions import parse_distribution
from leverlab.truth.model import Engine, Stream
from leverlab.truth.settings import Settings

MS = 1_000_000


def settings(ttft: str = "0.1", gap: str = "0.01", **others: object) -> Settings:
    return Settings(ttft=parse_distribution(ttft), gap=parse_distribution(gap), **others)


def stream(number: int = 0, *, words: int = 4, tokens: int = 8, key: str = "k") -> Stream:
    return Stream(number, key, [f"{key}{at}" for at in range(words)], tokens, "length", 0, key=key)


def due(engine: Engine, wanted: Stream) -> list[tuple[int, int]]:
    """(instant, tokens) of every chunk of an admitted stream."""
    at_ns, left, chunks = engine.first_due_ns(wanted), wanted.output_tokens, []
    while left:
        tokens = engine.chunk_tokens(wanted, left)
        chunks.append((at_ns, tokens))
        left -= tokens
        at_ns = engine.next_due_ns(wanted, at_ns)
    return chunks


def test_prefills_run_side_by_side_or_one_after_the_other():
    for serial, expected in ((False, [140, 140, 140]), (True, [140, 180, 220])):
        engine = Engine(settings(prefill_per_token=0.01, serial_prefill=serial))
        streams = [stream(at, key=f"s{at}") for at in range(3)]
        for one in streams:
            engine.offer(one, 0)
        assert [engine.first_due_ns(one) for one in streams] == [at * MS for at in expected]


def test_a_prefill_after_a_pause_in_arrivals_waits_for_nobody():
    engine = Engine(settings(prefill_per_token=0.01, serial_prefill=True))
    early, late = stream(0, key="early"), stream(1, key="late")
    engine.offer(early, 0)
    engine.first_due_ns(early)
    engine.offer(late, 1000 * MS)
    assert engine.first_due_ns(late) == (1000 + 140) * MS


def test_the_gap_grows_with_the_batch():
    engine = Engine(settings(gap_per_stream=0.002))
    streams = [stream(at, key=f"s{at}") for at in range(4)]
    for one in streams:
        engine.offer(one, 0)
    assert engine.next_due_ns(streams[0], 0) == (10 + 3 * 2) * MS
    engine.release(streams[3], 0)
    assert engine.next_due_ns(streams[0], 0) == (10 + 2 * 2) * MS


def test_draws_depend_on_seed_and_request_and_not_on_the_order_of_arrival():
    told = settings("lognormal(0.05, 0.3)", "exponential(0.01)", tokens_per_chunk=4, acceptance=0.6, seed=5)

    def chunks(told: Settings, keys: list[str]) -> dict[str, list[tuple[int, int]]]:
        engine = Engine(told)
        streams = [stream(at, tokens=20, key=key) for at, key in enumerate(keys)]
        for one in streams:
            engine.offer(one, 0)
        return {one.key: due(engine, one) for one in streams}

    first = chunks(told, ["a", "b", "c"])
    assert chunks(told, ["c", "a", "b"]) == first
    assert len({str(times) for times in first.values()}) == 3, "each request has draws of its own"
    assert chunks(settings("lognormal(0.05, 0.3)", "exponential(0.01)", seed=6), ["a"])["a"] != first["a"]


def test_accepted_tokens_are_as_many_as_declared():
    """E[tokens of a chunk] = (1 - α^(k))/(1 - α) for at most k tokens (Leviathan et al. 2023, equation 1)."""
    engine = Engine(settings(tokens_per_chunk=4, acceptance=0.7))
    one = stream(tokens=40_000)
    engine.offer(one, 0)
    sizes = [tokens for _, tokens in due(engine, one)]
    assert sum(sizes) == 40_000
    assert set(sizes) == {1, 2, 3, 4}
    assert abs(sum(sizes) / len(sizes) - (1 - 0.7**4) / 0.3) < 0.05
    assert engine.drafts == len(sizes)
    assert engine.drafted_tokens == 3 * len(sizes)
    assert engine.accepted_tokens == sum(sizes) - len(sizes)


def test_without_acceptance_every_chunk_is_full_and_the_last_holds_the_rest():
    engine = Engine(settings(tokens_per_chunk=3))
    one = stream(tokens=8)
    engine.offer(one, 0)
    assert due(engine, one) == [(100 * MS, 3), (110 * MS, 3), (120 * MS, 2)]


def test_an_answer_that_is_not_streamed_takes_as_long():
    told = settings("uniform(0.05, 0.1)", "gamma(0.01, 3)", tokens_per_chunk=2, acceptance=0.5)
    streamed, whole = stream(tokens=30), stream(tokens=30)
    engines = Engine(told), Engine(told)
    engines[0].offer(streamed, 0)
    engines[1].offer(whole, 0)
    assert engines[1].whole_due_ns(whole) == due(engines[0], streamed)[-1][0]


def test_drift_slows_what_comes_later():
    engine = Engine(settings(drift_per_s=0.5))
    one = stream()
    engine.offer(one, 1000 * MS)
    assert engine.first_due_ns(one) == 1100 * MS, "nothing grows before a request has come"
    engine.drift_from(1000 * MS)
    engine.drift_from(2000 * MS)
    assert engine.next_due_ns(one, 1000 * MS) == 1010 * MS
    assert engine.next_due_ns(one, 2000 * MS) == 2015 * MS
    late = stream(1, key="late")
    engine.offer(late, 3000 * MS)
    assert engine.first_due_ns(late) == 3200 * MS


def test_who_comes_during_a_pause_begins_after_it():
    engine = Engine(settings())
    engine.hold(0, 500 * MS)
    early, late = stream(0, key="early"), stream(1, key="late")
    engine.offer(early, 100 * MS)
    engine.offer(late, 700 * MS)
    assert (engine.first_due_ns(early), engine.first_due_ns(late)) == (600 * MS, 800 * MS)
