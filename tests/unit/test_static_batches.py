"""Static batching without a model: who waits, who is batched with whom, how prompts are padded, when a batch ends."""

import ast
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import leverlab.static_batching as package
from leverlab.engines.static import StaticEngine
from leverlab.static_batching.api import CHAT, COMPLETIONS, BadRequestError, Served, read_body
from leverlab.static_batching.batches import Batch, Request, WaitingLine
from leverlab.static_batching.metrics import Metrics

END = 9
SERVED = Served("model", 100, 100)


def request(prompt_tokens: int = 1, most: int = 1, *, arrived_s: float = 0.0, ignore_end: bool = True) -> Request:
    return Request(list(range(1, prompt_tokens + 1)), most, ignore_end, arrived_s)


def batch(*requests: Request) -> Batch:
    return Batch(requests, frozenset([END]))


def test_a_batch_is_due_when_it_is_full_or_its_first_has_waited_long_enough() -> None:
    line = WaitingLine(2, 0.5)
    assert line.due_in_s(0.0) is None
    first, second, third = (request(arrived_s=at) for at in (1.0, 1.2, 1.3))
    line.add(first)
    assert line.due_in_s(1.1) == pytest.approx(0.4)
    assert line.due_in_s(7.0) == 0.0, "the wait has passed while another batch was generated"
    line.add(second)
    assert line.due_in_s(1.2) == 0.0
    line.add(third)
    assert line.take() == [first, second]
    assert line.due_in_s(1.3) == pytest.approx(0.5)
    assert line.remove(third) and not line.remove(first)
    assert (line.due_in_s(9.0), len(line)) == (None, 0)


def test_prompts_are_padded_on_the_left_to_the_longest() -> None:
    padded = batch(request(3), request(1), request(2))
    assert padded.padded(0) == ([[1, 2, 3], [0, 0, 1], [0, 1, 2]], [[1, 1, 1], [0, 0, 1], [0, 1, 1]])
    assert padded.padded_tokens == 3
    assert batch(request(2), request(2)).padded_tokens == 0


def test_a_finished_sequence_keeps_its_place_until_the_longest_is_done() -> None:
    short, long = request(most=1), request(most=3)
    running = batch(short, long)
    assert running.most_steps == 3
    assert [(part.request, part.finish_reason) for part in running.step([5, 5])] == [(short, "length"), (long, None)]
    assert running.finished == [True, False]
    assert [part.request for part in running.step([0, 5])] == [long], "the padding that it is fed is given to nobody"
    assert [part.finish_reason for part in running.step([0, 5])] == ["length"]
    assert running.finished == [True, True]


def test_only_a_request_that_does_not_ignore_it_stops_at_the_end_token() -> None:
    stops, goes_on = request(most=4, ignore_end=False), request(most=4)
    running = batch(stops, goes_on)
    assert [part.finish_reason for part in running.step([END, END])] == ["stop", None]
    assert running.finished == [True, False]


def test_who_has_gone_is_given_nothing_and_holds_nobody_up() -> None:
    gone, other = request(most=9), request(most=2)
    running = batch(gone, other)
    running.step([5, 5])
    gone.gone = True
    assert [part.request for part in running.step([5, 5])] == [other]
    assert running.finished == [True, True]


def test_a_stopped_batch_ends_with_the_next_step() -> None:
    running = batch(request(most=9))
    running.stop()
    assert (running.step([5]), running.finished) == ([], [True])


def test_the_metrics_are_in_the_projects_names() -> None:
    metrics = Metrics("model")
    metrics.count("vllm:prompt_tokens_total", 7)
    metrics.count("static:idle_sequence_steps_total", 3)
    metrics.observe("vllm:e2e_request_latency_seconds", 0.3)
    metrics.observe("vllm:e2e_request_latency_seconds", 500.0)
    for reason in ("length", "length", "stop"):
        metrics.ended(reason)
    text = metrics.render({"vllm:num_requests_running": 2, "vllm:num_requests_waiting": 5}).decode()
    found = StaticEngine().canonical_metrics(text)
    assert {
        "e2e_s_sum": 500.3,
        "e2e_s_count": 2.0,
        "prompt_tokens": 7.0,
        "idle_sequence_steps": 3.0,
    }.items() <= found.items()
    assert (found["requests_finished"], found["running"], found["waiting"]) == (3.0, 2.0, 5.0)
    assert found["prefix_hit_tokens"] == found["preemptions"] == found["ttft_s_count"] == 0.0
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    within = {
        sample.labels["le"]: sample.value
        for sample in samples
        if sample.name == "vllm:e2e_request_latency_seconds_bucket"
    }
    assert (within["0.25"], within["0.5"], within["160.0"], within["+Inf"]) == (0.0, 1.0, 1.0, 2.0)
    with pytest.raises(KeyError):
        metrics.count("vllm:prompt_tokens", 1)


class Words:
    """A tokenizer whose tokens are words."""

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        return [0, *self.encode(messages[0]["content"])]


def test_a_request_is_read() -> None:
    body = b'{"prompt": "a bcd", "max_tokens": 3, "ignore_eos": true, "stream": true, "temperature": 0.0, "stream_options": {"include_usage": true}}'
    asked = read_body(COMPLETIONS, body, SERVED, Words())
    assert (asked.prompt, asked.most_tokens, asked.ignore_end, asked.streamed) == ([1, 3], 3, True, True)
    assert (asked.include_usage, asked.continuous_usage) == (True, False)
    chat = read_body(CHAT, b'{"messages": [{"role": "user", "content": "a"}]}', SERVED, Words())
    assert (chat.prompt, chat.most_tokens, chat.streamed) == ([0, 1], 16, False)
    assert read_body(COMPLETIONS, b'{"prompt": [4, 5]}', SERVED, Words()).prompt == [4, 5]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("no JSON", "no JSON"),
        ("[]", "must be a JSON object"),
        ('{"prompt": "a", "model": "other"}', "'other' is not served"),
        ('{"prompt": "a", "temperature": 0.7}', "temperature"),
        ('{"prompt": "a", "n": 2}', "n: 2"),
        ('{"prompt": "a", "stop": ["x"]}', "stop"),
        ('{"prompt": "a", "max_tokens": -1}', "at least 1"),
        ('{"prompt": "a", "max_tokens": 10}', "context of 10 tokens"),
        ('{"prompt": ["a", "b"]}', "one text"),
        ('{"prompt": ""}', "no tokens"),
        ("{}", "one text"),
        ('{"prompt": [5, 100]}', "ids from 0 to 99"),
        ('{"prompt": "a", "stream_options": [1]}', "stream_options"),
    ],
)
def test_what_it_cannot_serve_truthfully_is_refused(body: str, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        read_body(COMPLETIONS, body.encode(), Served("model", 10, 100), Words())


def test_it_imports_nothing_that_an_engines_environment_has_not_got() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "transformers", "tokenizers"}
    files = list(Path(package.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in allowed or name.startswith("leverlab.static_batching"), (
                    file.name,
                    name,
                )
