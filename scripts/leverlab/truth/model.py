"""The model of an engine: seats with a queue, a prefix cache, and when each chunk of a stream is due."""

import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leverlab.truth.settings import Settings
from leverlab.truth.tier import Tier

_NS: Final = 1_000_000_000
_NO_DRAWS: Final = random.Random(0)
"""Where every time is a constant, nothing is drawn, and no request pays for a generator of its own."""


class PrefixCache:
    """Blocks of prompt tokens seen before, found by the hash of the whole prefix up to their end. Nothing is evicted."""

    def __init__(self, block_size: int, *, enabled: bool) -> None:
        self._block_size = block_size
        self._enabled = enabled
        self._blocks: set[int] = set()
        self.queried_tokens = 0
        self.hit_tokens = 0

    def take_in(self, words: list[str]) -> int:
        """Look `words` up, keep their blocks, and return how many leading tokens were there.

        At least the last token is always computed, as in vLLM: it gives the first output token.
        """
        if not self._enabled:
            return 0
        size, prefix, found, missed = self._block_size, 0, 0, False
        for end in range(size, len(words) + 1, size):
            prefix = hash((prefix, *words[end - size : end]))
            if prefix in self._blocks:
                if not missed and end < len(words):
                    found = end
            else:
                missed = True
                self._blocks.add(prefix)
        self.queried_tokens += len(words)
        self.hit_tokens += found
        return found

    def reset(self) -> None:
        """Forget every block; the counters go on."""
        self._blocks.clear()


@dataclass(slots=True, eq=False)
class Stream:
    """One request under way. `position` counts the tokens that were sent; instants are ns of CLOCK_MONOTONIC.

    `draws` is what its times and its accepted tokens are drawn from, seeded with `key` and the prompt: its own, so that the
    order of arrival decides nothing.
    """

    number: int
    request_id: str
    words: list[str]
    output_tokens: int
    finish_reason: str
    received_ns: int
    cached_tokens: int = 0
    restored_tokens: int = 0
    admitted_ns: int = 0
    first_sent_ns: int = 0
    position: int = 0
    key: str = ""
    draws: random.Random = _NO_DRAWS
    handed_over: bool = False
    """A prefill server has computed the prompt: what is not cached here is taken over from it."""
    taken_over_tokens: int = 0
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.words)


class Engine:
    """Seats and times. `offer` takes a request in, `release` frees its seat; both return who got a seat thereby."""

    def __init__(self, settings: Settings) -> None:
        self._ttft, self._gap = settings.ttft, settings.gap
        self._constant_gap_ns = None if settings.gap.constant is None else round(settings.gap.constant * _NS)
        self._gap_per_stream_ns = settings.gap_per_stream * _NS
        self._prefill_ns = settings.prefill_per_token * _NS
        self._restore_ns = settings.restore_per_token * _NS
        self._transfer_ns = settings.kv_transfer_per_token * _NS
        self._serial_prefill = settings.serial_prefill
        self._prefill_free_ns = 0
        self._seats = settings.max_num_seqs
        self._tokens_per_chunk, self._acceptance = settings.tokens_per_chunk, settings.acceptance
        self._seed = settings.seed
        self._draws = None in (settings.ttft.constant, settings.gap.constant) or settings.acceptance < 1
        self._drift_per_s = settings.drift_per_s
        self._drift_from_ns: int | None = None
        self._held_until_ns = 0
        self.cache = PrefixCache(settings.block_size, enabled=settings.enable_prefix_caching)
        file = None if settings.tier_file is None else Path(settings.tier_file)
        self.tier = Tier(settings.block_size, file) if settings.tier else None
        self.running: set[Stream] = set()
        self.waiting: deque[Stream] = deque()
        self.drafts = self.drafted_tokens = self.accepted_tokens = 0

    def offer(self, stream: Stream, now_ns: int) -> list[Stream]:
        """Queue `stream`; admit whoever can be."""
        if self._draws:
            stream.draws = random.Random(f"{self._seed} {stream.key} {' '.join(stream.words)}")
        self.waiting.append(stream)
        return self._admit(now_ns)

    def release(self, stream: Stream, now_ns: int) -> list[Stream]:
        """`stream` has ended or its client has gone."""
        if stream in self.running:
            self.running.remove(stream)
        else:
            self.waiting.remove(stream)
        return self._admit(now_ns)

    def first_due_ns(self, stream: Stream) -> int:
        """When the first chunk of an admitted stream is due: admission + transfer of what is handed over + prefill of what is
        neither that nor cached + restoring + TTFT.

        With serial prefills its own begins when those before it are done.
        """
        begun_ns = max(stream.admitted_ns, self._held_until_ns)
        begun_ns += self.transfer_ns(stream)
        prefill_ns = round(
            self._prefill_ns * (stream.prompt_tokens - stream.cached_tokens - stream.taken_over_tokens)
            + self._restore_ns * stream.restored_tokens
        )
        if self._serial_prefill:
            begun_ns = max(begun_ns, self._prefill_free_ns)
            self._prefill_free_ns = begun_ns + prefill_ns
        took_ns = prefill_ns + round(self._ttft.draw(stream.draws) * _NS)
        return begun_ns + round(took_ns * self._slowness(begun_ns))

    def transfer_ns(self, stream: Stream) -> int:
        """How long the transfer of what is handed over takes."""
        return round(self._transfer_ns * stream.taken_over_tokens)

    def next_due_ns(self, stream: Stream, due_ns: int) -> int:
        """When the chunk after the one that was due at `due_ns` is due."""
        gap_ns = self._constant_gap_ns
        if gap_ns is None:
            gap_ns = round(self._gap.draw(stream.draws) * _NS)
        if self._gap_per_stream_ns:
            gap_ns += round(self._gap_per_stream_ns * (len(self.running) - 1))
        if self._drift_from_ns is not None:
            gap_ns = round(gap_ns * self._slowness(due_ns))
        return due_ns + gap_ns

    def whole_due_ns(self, stream: Stream) -> int:
        """When an answer is due that is not streamed: with the last of the chunks that it would have had."""
        due_ns, left = self.first_due_ns(stream), stream.output_tokens
        while (left := left - self.chunk_tokens(stream, left)) > 0:
            due_ns = self.next_due_ns(stream, due_ns)
        return due_ns

    def chunk_tokens(self, stream: Stream, left: int) -> int:
        """How many of the `left` tokens still to come are in the next chunk.

        One, and the drafted tokens up to the first that is not accepted (Leviathan et al. 2023, algorithm 1).
        """
        most = self._tokens_per_chunk
        if most == 1:
            return min(1, left)
        tokens = most
        if self._acceptance < 1:
            tokens = 1
            while tokens < most and stream.draws.random() < self._acceptance:
                tokens += 1
        tokens = min(tokens, left)
        if tokens:
            self.drafts += 1
            self.drafted_tokens += most - 1
            self.accepted_tokens += tokens - 1
        return tokens

    def drift_from(self, now_ns: int) -> None:
        """Let times grow from now on, where they are told to; the first call counts."""
        if self._drift_per_s and self._drift_from_ns is None:
            self._drift_from_ns = now_ns

    def hold(self, now_ns: int, pause_ns: int) -> None:
        """Do nothing for `pause_ns`. What is due already is for the caller to move."""
        self._held_until_ns = now_ns + pause_ns
        self._prefill_free_ns += pause_ns

    def _slowness(self, at_ns: int) -> float:
        if self._drift_from_ns is None:
            return 1.0
        return 1.0 + self._drift_per_s * max(at_ns - self._drift_from_ns, 0) / _NS

    def _admit(self, now_ns: int) -> list[Stream]:
        admitted: list[Stream] = []
        while self.waiting and len(self.running) < self._seats:
            stream = self.waiting.popleft()
            stream.admitted_ns = now_ns
            stream.cached_tokens = self.cache.take_in(stream.words)
            if self.tier is not None:
                stream.restored_tokens = self.tier.take_in(stream.words, stream.cached_tokens)
                stream.cached_tokens += stream.restored_tokens
            if stream.handed_over:
                # The last token is computed here: it gives the first output token.
                stream.taken_over_tokens = max(stream.prompt_tokens - 1 - stream.cached_tokens, 0)
            stream.words = []
            self.running.add(stream)
            admitted.append(stream)
        return admitted
