"""A tier below the prefix cache: blocks that the cache may have lost, and that cost less than computing them again."""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

_NAME_BYTES: Final = 16


class Tier:
    """Blocks of prompt tokens, each named by its words and all before it. With a `file` it outlives the engine's process."""

    def __init__(self, block_size: int, file: Path | None) -> None:
        self._block_size, self._file = block_size, file
        self._blocks: set[bytes] = set()
        self.queried_tokens = self.hit_tokens = 0
        if file is not None and file.is_file():
            kept = file.read_bytes()
            self._blocks = {kept[at : at + _NAME_BYTES] for at in range(0, len(kept), _NAME_BYTES)}

    def take_in(self, words: list[str], begin: int) -> int:
        """Keep the blocks of `words`, and return how many tokens that follow the first `begin` were there, the last one excepted."""
        found, missed, fresh = begin, False, list[bytes]()
        for end, name in self._names(words):
            if name not in self._blocks:
                missed = True
                fresh.append(name)
            elif not missed and begin < end < len(words):
                found = end
        self._blocks.update(fresh)
        if self._file is not None and fresh:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.write(b"".join(fresh))
        self.queried_tokens += len(words) - begin
        self.hit_tokens += found - begin
        return found - begin

    def reset(self) -> None:
        """Forget every block; the counters go on."""
        self._blocks.clear()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _names(self, words: list[str]) -> Iterator[tuple[int, bytes]]:
        name = b""
        for end in range(self._block_size, len(words) + 1, self._block_size):
            block = " ".join(words[end - self._block_size : end])
            name = blake2b(block.encode(), digest_size=_NAME_BYTES, key=name).digest()
            yield end, name
