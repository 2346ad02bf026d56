"""What was answered, in two short digests: whether two servers answered alike can be told without keeping what they said."""

from hashlib import blake2b
from typing import Final

BEGINNING: Final = 16
"""Characters that an answer's beginning has: a few tokens. Sums of another order choose another token now and then, and everything
after it differs; what is not computed from the prompt differs at once."""

_BYTES: Final = 8


class TextDigests:
    """Digests of an answer whose pieces come one after another. What is kept of it does not grow with it."""

    __slots__ = ("_beginning", "_whole")

    def __init__(self) -> None:
        self._beginning = ""
        self._whole = blake2b(digest_size=_BYTES)

    def add(self, text: str) -> None:
        """Take in the next piece."""
        if len(self._beginning) < BEGINNING:
            self._beginning = (self._beginning + text)[:BEGINNING]
        self._whole.update(text.encode())

    @property
    def beginning(self) -> str | None:
        """16 hexadecimal digits, of the first `BEGINNING` characters or of all where there are fewer; None of an answer without text."""
        if not self._beginning:
            return None
        return blake2b(self._beginning.encode(), digest_size=_BYTES).hexdigest()

    @property
    def whole(self) -> str | None:
        """The same of the whole text."""
        return self._whole.hexdigest() if self._beginning else None
