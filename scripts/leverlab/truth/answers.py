"""The bytes of an answer: events of the OpenAI-compatible stream, assembled from parts that are made once."""

import json
import random
import time
from typing import Final

from leverlab.load.plan import Endpoint

_WORDS: Final = 1024
_SYLLABLES: Final = (
    "ka",
    "no",
    "ré",
    "mi",
    "tu",
    "日本",
    "sel",
    "or",
    "va",
    "ün",
    "pe",
    "qui",
    "ла",
    "dor",
    "é",
    "gan",
)
NUMBERS: Final = [b"%d" % number for number in range(65536)]
END: Final = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    """`data` as one event in one HTTP chunk."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


class Vocabulary:
    """The words that are generated, drawn from a seed, each as the text of an event in both endpoints' form."""

    def __init__(self, seed: int, empty_text_every: int) -> None:
        draw = random.Random(f"words {seed}")
        self.words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) + " " for _ in range(_WORDS)]
        if empty_text_every:
            self.words = ["" if at % empty_text_every == 0 else word for at, word in enumerate(self.words)]

    def text(self, start: int, count: int) -> str:
        """`count` words from position `start` on."""
        return "".join(self.words[(start + at) % _WORDS] for at in range(count))


class AnswerWriter:
    """Writes the chunks of one request's answer. `options` are the request's: usage, continuous usage, token ids."""

    __slots__ = (
        "_answer", "_before_text", "_choice_end", "_continuous", "_finish", "_include_usage", "_prompt_tokens", "_start", "_token_ids",
        "_usage_start", "_vocabulary", "cached_tokens", "endpoint", "hands_over", "head",
    )  # fmt: skip

    def __init__(
        self,
        vocabulary: Vocabulary,
        endpoint: Endpoint,
        model: str,
        request_id: str,
        *,
        prompt_tokens: int,
        start: int,
        include_usage: bool,
        continuous_usage: bool,
        token_ids: bool,
        answer: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.cached_tokens: int | None = None
        self.hands_over = False
        """A decode server is to go on from here: a whole answer says where the KV cache is."""
        self._vocabulary = vocabulary
        self._start = start
        self._answer = answer
        self._prompt_tokens = prompt_tokens
        self._include_usage = include_usage
        self._continuous = include_usage and continuous_usage
        self._token_ids = token_ids
        kind, name = (
            ("cmpl", "text_completion") if endpoint is Endpoint.COMPLETIONS else ("chatcmpl", "chat.completion.chunk")
        )
        self.head = json.dumps(
            {"id": f"{kind}-{request_id}", "object": name, "created": int(time.time()), "model": model},
            separators=(",", ":"),
        ).encode()[:-1]
        if endpoint is Endpoint.COMPLETIONS:
            self._before_text = self.head + b',"choices":[{"index":0,"text":'
            self._choice_end = b',"logprobs":null,"finish_reason":'
        else:
            self._before_text = self.head + b',"choices":[{"index":0,"delta":{"content":'
            self._choice_end = b'},"logprobs":null,"finish_reason":'
        self._usage_start = b',"usage":{"prompt_tokens":%d,"total_tokens":' % prompt_tokens

    def opening(self) -> bytes:
        """What goes out with the first chunk before it: a chat answer names the role."""
        if self.endpoint is Endpoint.COMPLETIONS:
            return b""
        event = (
            self.head
            + b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        )
        return framed(event + (self._usage(0) if self._continuous else b"") + b"}")

    def chunk(self, before: int, tokens: int, finish_reason: bytes) -> bytes:
        """The event with `tokens` tokens after `before` earlier ones. `finish_reason` is JSON: `null` or a string."""
        words = self._vocabulary.words
        text = (
            words[(self._start + before) % _WORDS]
            if tokens == 1
            else self._vocabulary.text(self._start + before, tokens)
        )
        body = b'%b"%b"%b%b%b}]%b}' % (
            self._before_text,
            text.encode(),
            self._choice_end,
            finish_reason,
            self._ids(before, tokens) if self._token_ids else b"",
            self._usage(before + tokens) if self._continuous else b"",
        )
        return b"%x\r\ndata: %b\n\n\r\n" % (len(body) + 8, body)

    def closing(self, tokens: int) -> bytes:
        """The usage of the whole answer, where it was asked for, and the end of stream and body."""
        done = framed(b"[DONE]") + END
        if not self._include_usage:
            return done
        usage = self._usage(tokens)
        if self.cached_tokens is not None:
            usage = usage[:-1] + b',"prompt_tokens_details":{"cached_tokens":%d}}' % self.cached_tokens
        return framed(self.head + b',"choices":[]' + usage + b"}") + done

    def whole(self, tokens: int, finish_reason: str) -> bytes:
        """The answer to a request that did not ask for a stream."""
        text = self._vocabulary.text(self._start, tokens) if self._answer is None else self._answer
        choice: dict[str, object] = {"index": 0, "finish_reason": finish_reason}
        if self.endpoint is Endpoint.COMPLETIONS:
            choice["text"] = text
        else:
            choice["message"] = {"role": "assistant", "content": text}
        usage: dict[str, object] = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        fields = json.loads(self.head + b"}") | {"choices": [choice], "usage": usage}
        if self.hands_over:
            fields["kv_transfer_params"] = {
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_num_tokens": self._prompt_tokens,
            }
        fields["object"] = fields["object"].removesuffix(".chunk")
        return json.dumps(fields).encode()

    def _usage(self, tokens: int) -> bytes:
        total = self._prompt_tokens + tokens
        number = NUMBERS[tokens] if tokens < 65536 else b"%d" % tokens
        return b'%b%b,"completion_tokens":%b}' % (
            self._usage_start,
            NUMBERS[total] if total < 65536 else b"%d" % total,
            number,
        )

    def _ids(self, before: int, tokens: int) -> bytes:
        return b',"token_ids":[%b]' % b",".join(NUMBERS[(self._start + before + at) % _WORDS] for at in range(tokens))
