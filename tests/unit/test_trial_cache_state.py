"""Each state of the caches: brought about, and seen to be, on servers that tell the truth, nothing, or something else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from leverlab.load.plan import PlannedRequest
from leverlab.models.tokenizer import synthetic_tokenizer
from leverlab.topology.counters import Counted, combined
from leverlab.trial.cache_state import TIER_PROBE_TOKENS, bring_about, fill
from leverlab.trial.warmup import PromptMaker


class FakeServer:
    """A prefix cache of whole prompts, with switches for what real ones get wrong."""

    def __init__(
        self, *, caches: bool = True, resets: bool = True, forgets: bool = True, counts: bool = True, tells: bool = True
    ) -> None:
        self.queries_without = False
        self.caches, self.resets, self.forgets, self.counts, self.tells = caches, resets, forgets, counts, tells
        self.capacity = 10**9
        self.prompts: dict[str, None] = {}
        self.queried = self.hits = 0.0
        self.status = "ok"
        self.tier: dict[str, None] | None = None
        self.tier_capacity, self.tier_forgets, self.resets_alone = 10**9, True, True
        self.below_queried = self.below_hits = 0.0

    def reset_cache(self, *, tiers: bool = True) -> bool:
        if not self.resets or not (tiers or self.resets_alone):
            return False
        if self.forgets:
            self.prompts.clear()
        if tiers and self.tier is not None and self.tier_forgets:
            self.tier.clear()
        return True

    def restart(self) -> None:
        self.prompts.clear()

    def keeps_cache(self) -> bool | None:
        return self.caches if self.queries_without else None

    def settled_counters(self) -> dict[str, float]:
        if not self.counts:
            return {}
        return {
            "prefix_queried_tokens": self.queried,
            "prefix_hit_tokens": self.hits,
            "external_queried_tokens": self.below_queried,
            "external_hit_tokens": self.below_hits,
        }

    def send_to_each(self, requests: Sequence[PlannedRequest], streams: int) -> pa.Table:
        cached = []
        for request in requests:
            assert request.output_tokens == 1
            assert (request.after, request.pause_s) == (None, 0), "filling a cache waits for nobody's answer"
            found = self.caches and request.prompt in self.prompts
            cached.append(request.prompt_tokens if found else 0)
            if self.caches or self.queries_without:
                self.queried += request.prompt_tokens
            if self.tier is not None and not found:
                self.below_queried += request.prompt_tokens
                if request.prompt in self.tier:
                    self.below_hits += request.prompt_tokens
                self.tier[request.prompt] = None
                while len(self.tier) > self.tier_capacity:
                    self.tier.pop(next(iter(self.tier)))
            if self.caches:
                self.hits += cached[-1]
                self.prompts[request.prompt] = None
                while len(self.prompts) > self.capacity:
                    self.prompts.pop(next(iter(self.prompts)))
        tokens = [request.prompt_tokens for request in requests]
        shown = cached if self.tells else [None] * len(cached)
        return pa.table(
            {
                "prompt_tokens": tokens,
                "cached_tokens": pa.array(shown, pa.int64()),
                "status": [self.status] * len(tokens),
            }
        )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptMaker:
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.json").write_text(synthetic_tokenizer(10_000).to_str())
    return PromptMaker(folder, "r1")


WORKLOAD = [
    PlannedRequest(index, f"r-{index}", f"prompt {index}", 100, 32, 0.0, index - 1 if index % 2 else None, 1.0)
    for index in range(20)
]


def test_a_cache_that_resets_is_seen_to_be_cold_and_is_empty(prompts: PromptMaker) -> None:
    server = FakeServer()
    state = bring_about("cold", server, WORKLOAD, prompts)
    assert state.verified is True
    assert server.prompts == {}, "the probe itself is gone too"


def test_a_reset_that_forgets_nothing_is_found_out(prompts: PromptMaker) -> None:
    for server in (FakeServer(forgets=False), FakeServer(forgets=False, counts=False)):
        state = bring_about("cold", server, WORKLOAD, prompts)
        assert state.verified is False
        assert "320" in state.saw


def test_a_server_that_refuses_to_reset_is_not_cold(prompts: PromptMaker) -> None:
    server = FakeServer(resets=False)
    assert bring_about("cold", server, WORKLOAD, prompts).verified is False
    assert bring_about("warm", server, WORKLOAD, prompts).verified is False


def test_a_server_that_tells_nothing_is_not_called_cold(prompts: PromptMaker) -> None:
    assert bring_about("cold", FakeServer(counts=False, tells=False), WORKLOAD, prompts).verified is None
    silent = FakeServer()
    silent.status = "http_error"
    assert bring_about("cold", silent, WORKLOAD, prompts).verified is None


def test_a_warm_cache_holds_the_workload_and_nothing_else(prompts: PromptMaker) -> None:
    server = FakeServer()
    server.prompts["of another phase"] = None
    state = bring_about("warm", server, WORKLOAD, prompts)
    assert state.verified is True
    assert set(server.prompts) == {request.prompt for request in WORKLOAD}


def test_a_cache_that_is_too_small_is_not_warm(prompts: PromptMaker) -> None:
    server = FakeServer()
    server.capacity = 3
    assert bring_about("warm", server, WORKLOAD, prompts).verified is False


def test_a_server_without_a_cache_is_as_warm_as_it_gets(prompts: PromptMaker) -> None:
    state = bring_about("warm", FakeServer(caches=False), WORKLOAD, prompts)
    assert state.verified is True and "no prefix cache" in state.saw


def test_one_that_counts_every_prompt_as_looked_up_is_asked_whether_it_has_a_cache(prompts: PromptMaker) -> None:
    server = FakeServer(caches=False)
    server.queries_without = True
    state = bring_about("warm", server, WORKLOAD, prompts)
    assert state.verified is True and "says that it keeps no prefix cache" in state.saw
    forgetful = FakeServer()
    forgetful.queries_without, forgetful.capacity = True, 0
    assert bring_about("warm", forgetful, WORKLOAD, prompts).verified is False


def with_tier(**attributes: Any) -> FakeServer:
    server = FakeServer()
    server.tier = {}
    for name, value in attributes.items():
        setattr(server, name, value)
    return server


def test_in_the_state_tier_the_prompts_are_below_and_nowhere_else(prompts: PromptMaker) -> None:
    server = with_tier()
    state = bring_about("tier", server, WORKLOAD, prompts)
    assert state.verified is True and "100 %" in state.saw
    assert server.prompts == {}
    assert set(server.tier or ()) == {request.prompt for request in WORKLOAD}


def test_a_tier_that_is_too_small_is_found_out(prompts: PromptMaker) -> None:
    assert bring_about("tier", with_tier(tier_capacity=3), WORKLOAD, prompts).verified is False


def test_a_server_that_resets_all_or_nothing_cannot_be_brought_into_the_state_tier(prompts: PromptMaker) -> None:
    state = bring_about("tier", with_tier(resets_alone=False), WORKLOAD, prompts)
    assert state.verified is False and "alone" in state.saw
    kept = bring_about("tier", with_tier(forgets=False), WORKLOAD, prompts)
    assert kept.verified is False and "the engine's own cache" in kept.saw


def test_without_a_tier_the_state_tier_is_an_empty_cache(prompts: PromptMaker) -> None:
    server = FakeServer()
    state = bring_about("tier", server, WORKLOAD, prompts)
    assert state.verified is True and "no tier" in state.saw
    assert server.prompts == {}


class FakeDisaggregation(FakeServer):
    """A prefill and a decode server that are sent the same: each with its own cache, and a connector below the first."""

    def __init__(self, *, decode_forgets: bool = True) -> None:
        super().__init__()
        self.decode = FakeServer(forgets=decode_forgets)
        self.tier, self.has_tier = {}, False

    def reset_cache(self, *, tiers: bool = True) -> bool:
        if not self.has_tier:
            self.tier = {}  # the connector is asked, and keeps nothing
        return self.decode.reset_cache(tiers=tiers) and super().reset_cache(tiers=tiers)

    def settled_counters(self) -> dict[str, float]:
        prefill, decode = super().settled_counters(), self.decode.settled_counters()
        return combined([Counted("prefill", False, prefill), Counted("decode", True, decode)])

    def send_to_each(self, requests: Sequence[PlannedRequest], streams: int) -> pa.Table:
        return pa.concat_tables([super().send_to_each(requests, streams), self.decode.send_to_each(requests, streams)])


def test_prefill_and_decode_servers_are_each_seen_to_be_cold(prompts: PromptMaker) -> None:
    assert bring_about("cold", FakeDisaggregation(), WORKLOAD, prompts).verified is True
    assert bring_about("cold", FakeDisaggregation(decode_forgets=False), WORKLOAD, prompts).verified is False


def test_a_tier_below_prefill_servers_is_seen_and_a_connector_is_not_taken_for_one(prompts: PromptMaker) -> None:
    server = FakeDisaggregation()
    server.has_tier = True
    state = bring_about("tier", server, WORKLOAD, prompts)
    assert state.verified is True and state.saw.startswith("100 %")
    without = bring_about("tier", FakeDisaggregation(), WORKLOAD, prompts)
    assert without.verified is None and "no tier" in without.saw


def test_a_tier_that_says_it_was_emptied_and_was_not_is_not_cold(prompts: PromptMaker) -> None:
    state = bring_about("cold", with_tier(tier_forgets=False), WORKLOAD, prompts)
    assert state.verified is False and f"{TIER_PROBE_TOKENS} in the tier below" in state.saw
    assert bring_about("cold", with_tier(), WORKLOAD, prompts).verified is True


def test_after_a_restart_the_tier_is_left_as_it_is_found(prompts: PromptMaker) -> None:
    for kept in (True, False):
        server = with_tier()
        assert fill(server, WORKLOAD)
        server.restart()
        if not kept:
            server.tier = {}
        state = bring_about("restarted", server, WORKLOAD, prompts)
        assert state.verified is True
        assert server.prompts == {}
        there = {request.prompt for request in WORKLOAD} & set(server.tier or ())
        assert len(there) == (len(WORKLOAD) if kept else 0)


def test_after_a_restart_a_cache_that_cannot_be_emptied_alone_is_found_out(prompts: PromptMaker) -> None:
    assert bring_about("restarted", with_tier(resets_alone=False), WORKLOAD, prompts).verified is False
    assert bring_about("restarted", with_tier(forgets=False), WORKLOAD, prompts).verified is False
    assert "no tier" in bring_about("restarted", FakeServer(), WORKLOAD, prompts).saw


def test_a_tier_that_tells_nothing_is_not_called_filled(prompts: PromptMaker) -> None:
    for asked in ("tier", "restarted"):
        server = with_tier(counts=False, tells=False)
        assert bring_about(asked, server, WORKLOAD, prompts).verified is None  # type: ignore[arg-type]
