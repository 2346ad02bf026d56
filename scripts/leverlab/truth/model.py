"""The model of an engine: seats with a queue, a prefix cache, and when each chunk of a stream is due."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from leverlab.truth.settings import Settings

_NS: Final = 1_000_000_000


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
    """One request under way. `position` counts the tokens that were sent; instants are ns of CLOCK_MONOTONIC."""

    number: int
    request_id: str
    words: list[str]
    output_tokens: int
    finish_reason: str
    received_ns: int
    cached_tokens: int = 0
    admitted_ns: int = 0
    first_sent_ns: int = 0
    position: int = 0
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.words)


class Engine:
    """Seats and times. `offer` takes a request in, `release` frees its seat; both return who got a seat thereby."""

    def __init__(self, settings: Settings) -> None:
        self._ttft_ns = round(settings.ttft * _NS)
        self._prefill_ns = settings.prefill_per_token * _NS
        self._seats = settings.max_num_seqs
        self.gap_ns = round(settings.gap * _NS)
        self.cache = PrefixCache(settings.block_size, enabled=settings.enable_prefix_caching)
        self.running: set[Stream] = set()
        self.waiting: deque[Stream] = deque()

    def offer(self, stream: Stream, now_ns: int) -> list[Stream]:
        """Queue `stream`; admit whoever can be."""
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
        """When the first chunk of an admitted stream is due: admission + TTFT + prefill of what is not cached."""
        uncached = stream.prompt_tokens - stream.cached_tokens
        return stream.admitted_ns + self._ttft_ns + round(self._prefill_ns * uncached)

    def _admit(self, now_ns: int) -> list[Stream]:
        admitted: list[Stream] = []
        while self.waiting and len(self.running) < self._seats:
            stream = self.waiting.popleft()
            stream.admitted_ns = now_ns
            stream.cached_tokens = self.cache.take_in(stream.words)
            stream.words = []
            self.running.add(stream)
            admitted.append(stream)
        return admitted
