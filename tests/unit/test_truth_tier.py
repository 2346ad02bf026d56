"""The truth engine's tier: what it finds beyond the prefix cache, what resets leave, what outlives the engine."""

from pathlib import Path

import httpx
import pytest

from leverlab.engines.truth import TruthEngine
from leverlab.truth.model import Engine, Stream
from leverlab.truth.settings import parse_settings
from leverlab.truth.tier import Tier
from tests.unit.truth_process import KEY, truth_engine

pytestmark = pytest.mark.serial

ENGINE = TruthEngine()


def test_only_whole_blocks_that_the_cache_does_not_have_are_found_and_never_the_last_token() -> None:
    tier = Tier(2, None)
    words = ["a", "b", "c", "d", "e"]
    assert tier.take_in(words, 0) == 0
    assert tier.take_in(words, 0) == 4
    assert tier.take_in(words, 2) == 2
    assert tier.take_in(words[:4], 0) == 2
    assert tier.take_in(["x", *words[1:]], 0) == 0, "a block counts with all that is before it"
    assert (tier.queried_tokens, tier.hit_tokens) == (5 + 5 + 3 + 4 + 5, 4 + 2 + 2)


def test_a_file_outlives_the_engine_and_goes_with_a_reset(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "blocks"
    assert Tier(2, file).take_in(["a", "b", "c"], 0) == 0
    again = Tier(2, file)
    assert again.take_in(["a", "b", "c"], 0) == 2
    again.reset()
    assert Tier(2, file).take_in(["a", "b", "c"], 0) == 0


def test_a_reset_of_the_cache_alone_leaves_the_tier(tmp_path: Path) -> None:
    flags = ("--tier", "--block-size", "2", "--enable-prompt-tokens-details")
    with (
        truth_engine(tmp_path, *flags) as engine,
        httpx.Client(base_url=f"http://127.0.0.1:{engine.port}", headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):

        def sent() -> tuple[int, dict[str, float]]:
            body = {"prompt": "a b c d e", "max_tokens": 1}
            answer = client.post("/v1/completions", json=body).json()
            counters = ENGINE.canonical_metrics(client.get("/metrics").text)
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"], counters

        assert sent()[0] == 0
        assert ENGINE.reset_cache(client, tiers=False)
        cached, counters = sent()
        assert cached == 4
        assert (counters["prefix_hit_tokens"], counters["external_hit_tokens"]) == (0, 4)
        assert ENGINE.reset_cache(client)
        assert sent()[0] == 0


def test_what_the_tier_has_costs_what_it_was_told_to() -> None:
    settings = parse_settings(
        ["--tier", "--block-size", "2", "--ttft", "0", "--prefill-per-token", "1", "--restore-per-token", "0.1"]
    )
    engine = Engine(settings)
    first, second = (Stream(number, str(number), ["a", "b", "c", "d", "e"], 1, "length", 0) for number in range(2))
    engine.offer(first, 0)
    assert engine.first_due_ns(first) == 5_000_000_000
    engine.release(first, 0)
    engine.cache.reset()
    engine.offer(second, 0)
    assert engine.first_due_ns(second) == 1_400_000_000, "four tokens restored, one computed"
