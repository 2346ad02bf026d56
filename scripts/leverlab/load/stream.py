"""One answer, taken apart after the run: HTTP framing by httptools, events by msgspec."""

from dataclasses import dataclass, field
from typing import Any, Literal

import httptools
import msgspec

from leverlab.load.digests import TextDigests

TokenSource = Literal["usage", "token_ids", "chunks"]


_NO_TEXT = msgspec.Raw()


class _Delta(msgspec.Struct):
    role: str | None = None
    content: msgspec.Raw = _NO_TEXT


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    delta: _Delta | None = None
    text: msgspec.Raw = _NO_TEXT


class _PromptTokensDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptTokensDetails | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_TEXT = msgspec.json.Decoder(str)


@dataclass(slots=True)
class Answer:
    """What one request's reads held. `chunk_reads` is the read that completed each token-bearing chunk."""

    http_status: int | None = None
    ended: bool = False
    done: bool = False
    events: int = 0
    malformed: str = ""
    error: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    token_source: TokenSource | None = None
    chunk_reads: list[int] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    text: TextDigests = field(default_factory=TextDigests)


class AnswerReader:
    """Feeds the reads of one answer to an HTTP parser. Use `feed` for each read in turn, then `finish`."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._carry = b""
        self._read = 0
        self._counted = 0
        self._body: list[bytes] = []
        self._framed = False

    def feed(self, data: memoryview, read: int) -> None:
        """Take in read number `read`."""
        self._read = read
        if self.answer.malformed:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.answer.malformed = f"not HTTP: {error}"

    def finish(self) -> Answer:
        """The answer, once all reads are in."""
        answer = self.answer
        if answer.http_status is not None and not self._framed:
            answer.ended = True  # by the end of the connection, which the log tells
        if answer.http_status not in (None, 200):
            answer.error = answer.error or _shortened(b"".join(self._body)) or f"HTTP status {answer.http_status}"
        if answer.token_source is None and answer.chunk_reads:
            answer.token_source = "chunks"
        return answer

    def on_status(self, _: bytes) -> None:
        """The status line was read."""
        self.answer.http_status = int(self._parser.get_status_code())

    def on_header(self, name: bytes, _: bytes) -> None:
        """A header was read: does it say how the body ends?"""
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """The header was read; the reason phrase, and with it the call of `on_status`, may be missing."""
        self.answer.http_status = int(self._parser.get_status_code())

    def on_message_complete(self) -> None:
        """The parser saw the end of the body."""
        self.answer.ended = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body: whole events, or the parts of one."""
        if self.answer.http_status != 200:
            self._body.append(body)
            return
        if self._carry:
            body = self._carry + body
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        *events, self._carry = body.split(b"\n\n")
        for event in events:
            self._take_event(event)

    def _take_event(self, event: bytes) -> None:
        if not event.startswith(b"data:"):
            lines = [line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if not lines:
                return  # a comment, which servers send to keep a connection alive
            data = b"\n".join(lines)
        else:
            data = event[5:].lstrip()
        if data == b"[DONE]":
            self.answer.done = True
            return
        self.answer.events += 1
        try:
            chunk = _EVENT.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.answer.malformed = self.answer.malformed or f"an event is not the protocol's JSON: {error}"
            return
        if chunk.error is not None:
            self.answer.error = _shortened(msgspec.json.encode(chunk.error))
        self._take_chunk(chunk)

    def _take_chunk(self, chunk: _Event) -> None:
        answer, usage = self.answer, chunk.usage
        if usage is not None:
            answer.prompt_tokens = usage.prompt_tokens
            if usage.completion_tokens is not None:
                answer.completion_tokens = usage.completion_tokens
            if usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens is not None:
                answer.cached_tokens = usage.prompt_tokens_details.cached_tokens
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        if choice.finish_reason is not None:
            answer.finish_reason = choice.finish_reason
        self._take_text(choice.text if choice.delta is None else choice.delta.content)
        if usage is not None and usage.completion_tokens is not None:
            answer.token_source = "usage"
            tokens = usage.completion_tokens - self._counted
        elif choice.token_ids is not None:
            answer.token_source = "token_ids"
            tokens = len(choice.token_ids)
        else:
            # A chat answer opens with a chunk that only names the role.
            tokens = 0 if choice.delta is not None and choice.delta.role is not None else 1
        if tokens > 0:
            self._counted += tokens
            answer.chunk_reads.append(self._read)
            answer.chunk_tokens.append(tokens)

    def _take_text(self, text: msgspec.Raw) -> None:
        """Text that is none, such as null, makes no answer malformed: tokens are counted without it."""
        try:
            self.answer.text.add(_TEXT.decode(text))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return


def _shortened(text: bytes, limit: int = 500) -> str:
    decoded = text.decode(errors="replace").strip()
    return decoded if len(decoded) <= limit else decoded[:limit] + " …"
