"""The real ShareGPT file: a list of conversations, of which the first two turns are a prompt and its answer."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer

from leverlab.workloads.stream import Stream

MINIMUM_TOKENS: Final = 4
"""Shorter prompts and answers are left out, as `vllm bench serve` does."""

_BATCH: Final = 256


class ShareGptError(ValueError):
    """The file is missing, is another one, or is not in ShareGPT's format."""


class _Turn(msgspec.Struct):
    value: str


class _Conversation(msgspec.Struct):
    conversations: list[_Turn] = []


def read_pairs(path: Path | None, sha256: str) -> list[tuple[str, str]]:
    """Prompt and answer of every conversation of at least two turns. Raises ShareGptError."""
    if path is None:
        raise ShareGptError("this workload reads the ShareGPT file: give `--config sharegpt_path=FILE`")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShareGptError(f"sharegpt_path: {path}: cannot be read: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ShareGptError(
            f"sharegpt_path: {path}: its SHA-256 is {found}, and the workload asks for {sha256}: take that file, or "
            f"write `sha256: {found}` into the workload"
        )
    try:
        conversations = msgspec.json.decode(content, type=list[_Conversation])
    except msgspec.MsgspecError as error:
        raise ShareGptError(
            f"sharegpt_path: {path}: not a list of {{conversations: [{{from, value}}, …]}}: {error}"
        ) from None
    return [
        (entry.conversations[0].value, entry.conversations[1].value)
        for entry in conversations
        if len(entry.conversations) >= 2
    ]


def draw_pairs(
    stream: Stream,
    pairs: list[tuple[str, str]],
    tokenizer: Tokenizer,
    count: int,
    maximum_prompt: int,
    maximum_total: int,
) -> list[tuple[str, int, int]]:
    """`count` prompts with their tokens (what the tokenizer adds included) and their answers' tokens, in random order.

    Raises ShareGptError where fewer pass the limits.
    """
    chosen: list[tuple[str, int, int]] = []
    for prompt, prompt_tokens, output_tokens in _counted(tokenizer, stream.shuffled(pairs)):
        long_enough = min(prompt_tokens, output_tokens) >= MINIMUM_TOKENS
        if long_enough and prompt_tokens <= maximum_prompt and prompt_tokens + output_tokens <= maximum_total:
            chosen.append((prompt, prompt_tokens, output_tokens))
            if len(chosen) == count:
                return chosen
    raise ShareGptError(
        f"sharegpt_path: only {len(chosen)} of {len(pairs)} conversations pass the limits, and {count} requests are asked for"
    )


def _counted(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, int, int]]:
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        prompts: list[Any] = tokenizer.encode_batch([prompt for prompt, _ in batch])
        answers: list[Any] = tokenizer.encode_batch([answer for _, answer in batch], add_special_tokens=False)
        for (prompt, _), encoded, answer in zip(batch, prompts, answers, strict=True):
            yield prompt, len(encoded.ids), len(answer.ids)
