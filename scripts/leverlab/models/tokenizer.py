"""A tokenizer made on the spot: byte-level BPE whose vocabulary is written down by rule instead of trained on a text.

No corpus is shipped or fetched, nothing is drawn, and so the files are the same bytes on every machine. Words are made
of syllables (a consonant and a vowel): `bado`, `kife`, and where two syllables do not make enough words, `badoki`. Each
is one token, with and without the space before it, which lets a workload count its tokens without asking a server. Any
other text still encodes, in more tokens, because the 256 bytes are tokens too.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MINIMUM_VOCABULARY: Final = 10_000
"""`vllm bench latency` draws token ids up to this number."""

BEGIN, END, PAD, TURN_START, TURN_END = "<|begin|>", "<|end|>", "<|pad|>", "<|turn|>", "<|turn_end|>"
SPECIAL_TOKENS: Final = (BEGIN, END, PAD, TURN_START, TURN_END)

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    f"{TURN_START}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{TURN_END}\n"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{TURN_START}assistant\n{{% endif %}}"
)

_SPACE: Final = "Ġ"  # how byte-level BPE writes a space
_SYLLABLES: Final = tuple(a + b for a, b in itertools.product("bcdfghjklmnpqrstvwyz", "aeiou"))


def synthetic_tokenizer(vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer with exactly `vocabulary` entries that adds no token of its own to a text.

    Ids: special tokens, bytes, syllables, longer words, the same words with a space before them.
    Raises ValueError below MINIMUM_VOCABULARY entries.
    """
    if vocabulary < MINIMUM_VOCABULARY:
        raise ValueError(f"a tokenizer needs at least {MINIMUM_VOCABULARY} entries, not {vocabulary}")
    entries = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *_SYLLABLES]
    spaced, unspaced = divmod(vocabulary - len(entries), 2)
    pieces = list(itertools.islice(_words(), spaced + unspaced))
    entries += [word for word, _ in pieces] + [_SPACE + word for word, _ in pieces[:spaced]]
    merges = [(syllable[0], syllable[1]) for syllable in _SYLLABLES]
    merges += [parts for _, parts in pieces]
    merges += [(_SPACE, word) for word, _ in pieces[:spaced]]
    tokenizer = Tokenizer(models.BPE(vocab={entry: id_ for id_, entry in enumerate(entries)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _words() -> Iterator[tuple[str, tuple[str, str]]]:
    """Words in the order of their merges, each with the two pieces that BPE merges into it.

    BPE merges the neighbours that come first in the list. Of three syllables that is the earlier pair of the two.
    """
    rank = {syllable: number for number, syllable in enumerate(_SYLLABLES)}
    for first, second in itertools.product(_SYLLABLES, repeat=2):
        yield first + second, (first, second)
    for first, second, third in itertools.product(_SYLLABLES, repeat=3):
        left_first = (rank[first], rank[second]) <= (rank[second], rank[third])
        yield first + second + third, (first + second, third) if left_first else (first, second + third)


def tokenizer_files(vocabulary: int, context_tokens: int) -> dict[str, bytes]:
    """Name → content of the files that a model's folder needs for its tokenizer and its chat template."""
    tokenizer = synthetic_tokenizer(vocabulary)
    configuration: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [TURN_START, TURN_END],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_tokens,
        "chat_template": CHAT_TEMPLATE,
    }
    return {
        "tokenizer.json": (tokenizer.to_str(pretty=False) + "\n").encode(),
        "tokenizer_config.json": (json.dumps(configuration, indent=1, sort_keys=True) + "\n").encode(),
    }
