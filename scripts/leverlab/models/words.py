"""Words that are exactly one token each, whatever stands before and after them: what workloads write prompts with.

A prompt of n such words, joined by single spaces, has n tokens plus those that the tokenizer adds to every text.
"""

import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

_WORD: Final = re.compile(r"[a-z]{2,}")
_MARKS: Final = ("Ġ", "▁")  # how byte-level BPE and SentencePiece write the space before a word
_SHUFFLES: Final = 3


def word_tokens(tokenizer_path: Path) -> list[str]:
    """All words of lower-case ASCII letters that are one token each in any text " ".join(words), sorted.

    `tokenizer_path` is a tokenizer.json. A word qualifies when it is one token at the start of a text and one after a
    space, and stays so in random orders of all of them: tokenizers that do not split at spaces can merge across one.
    Raises ValueError where there are none.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.no_truncation()
    words = sorted(
        piece[1:]
        for piece in tokenizer.get_vocab(with_added_tokens=False)
        if piece.startswith(_MARKS) and _WORD.fullmatch(piece[1:])
    )
    alone = tokenizer.encode_batch(words, add_special_tokens=False)
    words = [word for word, encoding in zip(words, alone, strict=True) if len(encoding.ids) == 1]
    order = random.Random(0)
    for _ in range(_SHUFFLES):
        shuffled = order.sample(words, len(words))
        # The first stands at the end once more: every word is seen before another one.
        whole = _that_stay_whole(tokenizer, shuffled + shuffled[:1])
        words = sorted(word for word, times in Counter(whole).items() if times == 1 + (word == shuffled[0]))
    if not words:
        raise ValueError(f"{tokenizer_path}: no word of lower-case letters is one token in this tokenizer")
    return words


def _that_stay_whole(tokenizer: Tokenizer, words: list[str]) -> list[str]:
    """The words that are one token in the text of all `words`, in their order.

    A word owns the tokens that end within it or within the space before it: it must be one, that covers no other word.
    """
    tokens = iter([*tokenizer.encode(" ".join(words), add_special_tokens=False).offsets, (0, sys.maxsize)])
    start, end = next(tokens)
    kept, position = [], 0
    for word in words:
        owned = []
        while end <= position + len(word):
            owned.append((start, end))
            start, end = next(tokens)
        if len(owned) == 1 and owned[0][0] >= position - 1 and owned[0][1] == position + len(word):
            kept.append(word)
        position += len(word) + 1
    return kept


def added_tokens(tokenizer_path: Path) -> int:
    """Tokens that the tokenizer adds to every text by itself, such as the one that begins it."""
    return int(Tokenizer.from_file(str(tokenizer_path)).num_special_tokens_to_add(is_pair=False))
