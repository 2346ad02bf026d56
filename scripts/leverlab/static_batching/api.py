"""OpenAI's interface: what a request asks for, and the bytes of its answer."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

COMPLETIONS: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
DEFAULT_TOKENS: Final = 16
"""Tokens where the request does not say, as OpenAI's interface has it."""

_MUST_BE: Final[dict[str, tuple[Any, ...]]] = {
    "temperature": (None, 0),
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "stop": (None, "", []),
    "logprobs": (None, False),
    "min_tokens": (None, 0),
}
"""What would change the tokens or their number, and the values with which it does not. None: left out."""


class BadRequestError(ValueError):
    """A request that is not served; the text says why and what to send instead."""


class Tokenizer(Protocol):
    """What this module needs of a model's tokenizer."""

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, with those that the tokenizer adds."""

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """The ids of a chat in the model's template, ready for the answer."""


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: the model's name, the most tokens of prompt and output together, and its number of token ids."""

    model: str
    context_tokens: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    endpoint: str
    prompt: Sequence[int]
    most_tokens: int
    ignore_end: bool
    streamed: bool
    include_usage: bool
    continuous_usage: bool
    token_ids: bool


def read_body(endpoint: str, body: bytes, served: Served, tokenizer: Tokenizer) -> Asked:
    """The request in `body`. Raises BadRequestError where it is not one, asks for other than greedy decoding, or is too long."""
    try:
        given = json.loads(body)
    except ValueError as error:
        raise BadRequestError(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise BadRequestError("the body must be a JSON object")
    if given.get("model", served.model) != served.model:
        raise BadRequestError(f"the model {given['model']!r} is not served; {served.model!r} is")
    for key, fitting in _MUST_BE.items():
        if given.get(key) not in fitting:
            raise BadRequestError(
                f"{key}: {given[key]!r}: this server decodes one sequence a request, greedily and to its end: leave {key} out"
            )
    options = given.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequestError("stream_options: must be an object")
    most = given.get("max_completion_tokens") or given.get("max_tokens") or DEFAULT_TOKENS
    if not isinstance(most, int) or most < 1:
        raise BadRequestError(f"max_tokens: {most!r}: must be a whole number of at least 1")
    prompt = _prompt(endpoint, given, tokenizer)
    if not all(0 <= token < served.vocabulary for token in prompt):
        raise BadRequestError(f"prompt: the model has token ids from 0 to {served.vocabulary - 1}")
    if len(prompt) + most > served.context_tokens:
        raise BadRequestError(
            f"{len(prompt)} prompt tokens and max_tokens {most} are more than the context of {served.context_tokens} tokens"
        )
    return Asked(
        endpoint=endpoint,
        prompt=prompt,
        most_tokens=most,
        ignore_end=bool(given.get("ignore_eos")),
        streamed=bool(given.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        token_ids=bool(given.get("return_token_ids")),
    )


def _prompt(endpoint: str, given: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    if endpoint == CHAT:
        messages = given.get("messages")
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise BadRequestError("messages: must be a list of objects, each with role and content as text")
        ids = tokenizer.encode_chat(messages)
    else:
        prompt = given.get("prompt")
        if isinstance(prompt, str):
            ids = tokenizer.encode(prompt)
        elif isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
            ids = prompt
        else:
            raise BadRequestError("prompt: must be one text, or one list of token ids")
    if not ids:
        raise BadRequestError("the prompt has no tokens")
    return ids


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


class AnswerWriter:
    """Writes the events of one request's answer, each without its framing; counts the tokens that it has written."""

    def __init__(self, asked: Asked, model: str, request_id: str) -> None:
        self._asked = asked
        self._chat = asked.endpoint == CHAT
        kind, name = ("chatcmpl", "chat.completion.chunk") if self._chat else ("cmpl", "text_completion")
        self._head = {"id": f"{kind}-{request_id}", "object": name, "created": int(time.time()), "model": model}
        self._tokens = 0

    def opening(self) -> list[bytes]:
        """What goes out before the first token: a chat answer names the role."""
        if not self._chat:
            return []
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self._event([choice], usage=self._asked.continuous_usage)]

    def chunk(self, text: str, tokens: Sequence[int], finish_reason: str | None) -> bytes:
        """The event with the next `tokens`, which add `text`."""
        self._tokens += len(tokens)
        said: dict[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        if self._asked.token_ids:
            choice["token_ids"] = list(tokens)
        return self._event([choice], usage=self._asked.continuous_usage)

    def closing(self) -> list[bytes]:
        """The usage of the whole answer, where it was asked for, and the end of the stream."""
        return [*([self._event([], usage=True)] if self._asked.include_usage else []), b"[DONE]"]

    def whole(self, text: str, tokens: Sequence[int], finish_reason: str) -> bytes:
        """The answer to a request that did not ask for a stream."""
        self._tokens = len(tokens)
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        if self._asked.token_ids:
            choice["token_ids"] = list(tokens)
        name = str(self._head["object"]).removesuffix(".chunk")
        return json.dumps({**self._head, "object": name, "choices": [choice], "usage": self._usage()}).encode()

    def _event(self, choices: list[dict[str, Any]], *, usage: bool) -> bytes:
        told = {"usage": self._usage()} if usage else {}
        return json.dumps({**self._head, "choices": choices, **told}, separators=(",", ":")).encode()

    def _usage(self) -> dict[str, int]:
        prompt = len(self._asked.prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + self._tokens, "completion_tokens": self._tokens}


def error_body(message: str, status: int) -> bytes:
    """The body of a refusal, and the event that ends a stream which failed."""
    return json.dumps({"error": {"message": message, "code": status}}).encode()
