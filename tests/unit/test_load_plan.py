"""What is sent: reading a workload, and the bytes on the wire."""

import json
from dataclasses import replace

import httptools
import pytest

from leverlab.load.plan import Endpoint, PlannedRequest, Target, read_requests, request_bytes

LINE = {
    "index": 0,
    "prompt": "naïve 日本",
    "prompt_tokens": 2,
    "output_tokens": 5,
    "arrival_unit_s": 0.5,
    "group": None,
}


def test_requests_are_read_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(LINE | {"index": at, "group": at}) + "\n" for at in range(3)))
    requests = read_requests(path, "cell7")
    assert requests[1] == PlannedRequest(1, "cell7-1", "naïve 日本", 2, 5, 0.5)
    assert [request.index for request in requests] == [0, 1, 2]
    path.write_text(json.dumps(LINE | {"after": 3, "pause_s": 1.5}) + "\n")
    assert (read_requests(path)[0].after, read_requests(path)[0].pause_s) == (3, 1.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": 3}, "prompt"),
        ({"output_tokens": 0}, "output_tokens"),
        ({"arrival_unit_s": -1.0}, "arrival_unit_s"),
        ({"pause_s": -1.0}, "pause_s"),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, words):
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(ValueError, match=rf"requests\.jsonl:2: .*{words}"):
        read_requests(path)


class Received:
    def __init__(self, data: bytes) -> None:
        self.headers, self.body, self.url, self.whole = {}, b"", b"", False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method, self.keep_alive = parser.get_method(), parser.should_keep_alive()

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        self.headers[name.lower()] = value

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.whole = True


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_the_bytes_are_one_whole_request(endpoint):
    extra = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    target = Target("127.0.0.1", 80, "m", "key", endpoint, extra)
    received = Received(request_bytes(target, PlannedRequest(4, "id-4", "naïve 日本", 2, 5, 0.0)))
    assert received.whole
    assert received.keep_alive
    assert (received.method, received.url) == (b"POST", endpoint.path.encode())
    assert received.headers[b"authorization"] == b"Bearer key"
    assert received.headers[b"x-request-id"] == b"id-4"
    body = json.loads(received.body)
    assert (body["max_tokens"], body["temperature"], body["stream"], body["model"]) == (5, 0, True, "m")
    assert body["stream_options"] == extra["stream_options"]
    assert body["ignore_eos"] is True
    prompt = body["prompt"] if endpoint is Endpoint.COMPLETIONS else body["messages"][0]["content"]
    assert prompt == "naïve 日本"


def test_a_priority_goes_out_in_the_body_of_the_request_that_has_one() -> None:
    target = Target("127.0.0.1", 8000, "m", None, Endpoint.COMPLETIONS, {})
    plain = PlannedRequest(0, "r0", "words", 1, 4, 0.0)
    bodies = [
        json.loads(request_bytes(target, one).partition(b"\r\n\r\n")[2]) for one in (plain, replace(plain, priority=0))
    ]
    assert "priority" not in bodies[0] and bodies[1] == {**bodies[0], "priority": 0}
