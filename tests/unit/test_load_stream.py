"""Taking answers apart: what servers may do to a stream."""

from hashlib import blake2b

import pytest

from leverlab.load.connection import Body, Connection
from leverlab.load.stream import Answer, AnswerReader

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return chunk(b"data: " + text.encode() + b"\n\n")


def token(tokens: int, text: str = "x", finish: str = "null") -> bytes:
    usage = f'{{"prompt_tokens":3,"completion_tokens":{tokens},"total_tokens":{tokens + 3}}}'
    return event(f'{{"choices":[{{"index":0,"text":"{text}","finish_reason":{finish}}}],"usage":{usage}}}')


def read(*pieces: bytes) -> Answer:
    reader = AnswerReader()
    for number, piece in enumerate(pieces):
        reader.feed(memoryview(piece), number)
    return reader.finish()


WHOLE = HEAD + token(1) + token(2, "日本") + token(4, finish='"length"') + event("[DONE]") + LAST


def test_tokens_are_what_each_chunk_newly_reports():
    answer = read(WHOLE)
    assert answer.chunk_tokens == [1, 1, 2]
    assert (answer.http_status, answer.ended, answer.done, answer.finish_reason) == (200, True, True, "length")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.token_source) == (3, 4, "usage")


def test_every_cut_into_two_reads_gives_the_same_answer():
    whole = read(WHOLE)
    for at in range(1, len(WHOLE)):
        answer = read(WHOLE[:at], WHOLE[at:])
        assert (answer.chunk_tokens, answer.ended, answer.completion_tokens) == (whole.chunk_tokens, True, 4), at


def test_byte_by_byte_each_chunk_belongs_to_the_read_that_completes_it():
    answer = read(*(WHOLE[at : at + 1] for at in range(len(WHOLE))))
    assert answer.chunk_tokens == [1, 1, 2]
    ends = [WHOLE.index(b'"total_tokens":%d}}\n\n' % total) + len(b'"total_tokens":4}}\n\n') - 1 for total in (4, 5, 7)]
    assert answer.chunk_reads == ends


def test_a_repeated_usage_is_no_token():
    answer = read(HEAD + token(1) + token(1, "") + token(2) + LAST)
    assert answer.chunk_tokens == [1, 1]


def test_comments_and_carriage_returns():
    body = b': ping\r\n\r\ndata: {"choices":[{"text":"a","finish_reason":"stop"}]}\r\n\r\ndata: [DONE]\r\n\r\n'
    answer = read(HEAD + chunk(b": keep-alive\n\n") + chunk(body) + LAST)
    assert (answer.chunk_tokens, answer.done, answer.malformed) == ([1], True, "")


def test_a_role_is_no_token():
    role = event('{"choices":[{"delta":{"role":"assistant","content":""}}]}')
    text = event('{"choices":[{"delta":{"content":""}}]}')
    answer = read(HEAD + role + text + text + event("[DONE]") + LAST)
    assert (answer.chunk_tokens, answer.token_source) == ([1, 1], "chunks")


def test_digests_are_of_the_text_however_it_was_cut_into_chunks():
    one = read(HEAD + token(4, "a beginning of sixteen") + token(8, " and an end") + LAST).text
    other = read(HEAD + token(1, "a beg") + token(2, "") + token(9, "inning of sixteen and an end") + LAST).text
    assert (one.beginning, one.whole) == (other.beginning, other.whole)
    assert one.beginning != one.whole
    longer = read(HEAD + token(4, "a beginning of sixteen characters and more") + LAST).text
    assert longer.beginning == one.beginning
    assert longer.whole != one.whole
    assert one.beginning == blake2b(b"a beginning of s", digest_size=8).hexdigest()


def test_both_endpoints_answers_have_the_same_digests():
    role = event('{"choices":[{"delta":{"role":"assistant","content":""}}]}')
    chat = read(HEAD + role + event('{"choices":[{"delta":{"content":"日本"}}]}') + LAST).text
    assert (chat.beginning, chat.whole) == (read(HEAD + token(1, "日本") + LAST).text.beginning, chat.beginning)


@pytest.mark.parametrize("text", ['"text":null,', '"text":7,', '"text":["a"],', ""])
def test_an_answer_without_text_has_no_digest_and_is_none_the_worse_for_it(text):
    answer = read(HEAD + event(f'{{"choices":[{{{text}"finish_reason":"length"}}]}}') + event("[DONE]") + LAST)
    assert (answer.text.beginning, answer.text.whole) == (None, None)
    assert (answer.malformed, answer.chunk_tokens) == ("", [1])


def test_an_error_event_in_the_stream():
    answer = read(HEAD + token(1) + event('{"error":{"message":"engine died","code":500}}') + event("[DONE]") + LAST)
    assert "engine died" in answer.error


@pytest.mark.parametrize("garbage", ["{not json", '{"choices":3}', '{"choices":[],"usage":{"prompt_tokens":"3"}}'])
def test_what_is_not_the_protocol_is_said(garbage):
    assert "not the protocol" in read(HEAD + event(garbage) + LAST).malformed


def test_what_is_not_http_is_said():
    assert "not HTTP" in read(b"220 smtp ready\r\n").malformed


def test_an_http_error_keeps_the_servers_words():
    body = b'{"error":"Unauthorized"}'
    answer = read(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert (answer.http_status, answer.error, answer.ended) == (401, '{"error":"Unauthorized"}', True)


class Unconnected(Connection):
    """The look for the end of an answer, without a socket."""

    def __init__(self) -> None:
        self.await_answer()


@pytest.mark.parametrize(
    "whole",
    [WHOLE, b"HTTP/1.1 500 Oops\r\ncontent-length: 5\r\n\r\nabcde", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
)
def test_the_cheap_look_finds_the_end_however_the_bytes_are_cut(whole):
    for at in range(1, len(whole)):
        looked = Unconnected()
        assert not looked.ends_with(whole[:at]), at
        assert looked.ends_with(whole[at:]), at
    looked = Unconnected()
    assert [looked.ends_with(whole[at : at + 1]) for at in range(len(whole))] == [False] * (len(whole) - 1) + [True]


def test_without_a_length_the_connection_is_the_end():
    looked = Unconnected()
    assert not looked.ends_with(b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert looked.body is Body.UNTIL_CLOSE
