"""Prompts made of words that are one token each, so that their length is exact without asking a server."""

from collections.abc import Sequence

from leverlab.workloads.stream import Stream


class Words:
    """A model's word tokens. `added` is the number of tokens that its tokenizer adds to every text by itself."""

    def __init__(self, words: Sequence[str], added: int) -> None:
        self._words = words
        self.added = added

    def run(self, stream: Stream, count: int) -> list[str]:
        """`count` words."""
        return [self._words[stream.below(len(self._words))] for _ in range(count)]

    def distinct_runs(self, stream: Stream, counts: Sequence[int]) -> list[list[str]]:
        """A run of each length of `counts`, no two of which begin alike.

        The first words differ as long as the vocabulary has that many, otherwise the first two (or more) do, so that
        no two runs share a block of a KV cache. Raises ValueError where the runs are too short for that.
        """
        base, heads = len(self._words), 1
        while base**heads < len(counts):
            heads += 1
        if counts and min(counts) < heads:
            raise ValueError(
                f"{len(counts)} prompts of {min(counts)} tokens cannot all begin differently: {base} words are one token "
                f"each in this tokenizer; ask for longer prompts or fewer requests"
            )
        runs = []
        for number, count in zip(stream.distinct(len(counts), base**heads), counts, strict=True):
            head = []
            for _ in range(heads):
                number, digit = divmod(number, base)
                head.append(self._words[digit])
            runs.append(head + self.run(stream, count - heads))
        return runs

    def distinct(self, stream: Stream, count: int) -> list[str]:
        """`count` words, no two alike. Raises ValueError where the tokenizer has fewer."""
        if count > len(self._words):
            raise ValueError(
                f"{count} different words are asked for, and {len(self._words)} are one token each: ask for fewer"
            )
        return [self._words[number] for number in stream.distinct(count, len(self._words))]

    def words_in(self, tokens: int) -> int:
        """Words of a prompt of `tokens` tokens. Raises ValueError where the tokenizer's own leave no room for one."""
        if tokens <= self.added:
            raise ValueError(
                f"a prompt of {tokens} tokens has no room: the tokenizer adds {self.added} to every text; ask for more"
            )
        return tokens - self.added
