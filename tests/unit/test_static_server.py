"""The static-batching server around a model that makes a step only when the test lets it."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from leverlab.engines.static import StaticEngine
from leverlab.static_batching.batches import Batch, Stepped
from leverlab.static_batching.server import StaticServer
from leverlab.static_batching.settings import Settings
from tests.unit.test_static_batches import Words

pytestmark = pytest.mark.serial

KEY = "a-key-that-nobody-knows"


class Text:
    def text(self, token: int) -> str:
        return f"<{token}>"


class StreamedWords(Words):
    def decoder(self) -> Text:
        return Text()


class SteppedModel:
    """Gives place p the token 100·p + step, and makes as many steps as `allow` has let it."""

    context_tokens = 100
    vocabulary = 100
    end_tokens = frozenset({-1})

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self.batches: list[Batch] = []
        self.fails = False

    def allow(self, steps: int) -> None:
        self._steps.release(steps)

    def facts(self) -> dict[str, Any]:
        return {}

    def generate(self, batch: Batch, stepped: Stepped) -> None:
        self.batches.append(batch)
        step = 0
        while True:
            assert self._steps.acquire(timeout=20)
            if self.fails:
                raise RuntimeError("out of everything")
            if all(stepped([100 * place + step for place in range(len(batch.requests))])):
                return
            step += 1


class Caller:
    """One connection to the server."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def send(self, path: str, body: dict[str, Any] | None = None, key: str = KEY) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)

    async def status(self) -> int:
        head = await self.reader.readuntil(b"\r\n\r\n")
        self._length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None
        )
        return int(head.split()[1])

    async def body(self) -> str:
        assert self._length is not None
        return (await self.reader.readexactly(self._length)).decode()

    async def event(self) -> Any:
        """The next event of a stream; None at its end."""
        size = int(await self.reader.readline(), 16)
        data = (await self.reader.readexactly(size + 2)).decode().strip()
        if not size:
            return None
        return data.removeprefix("data: ") if data == "data: [DONE]" else json.loads(data.removeprefix("data: "))

    async def texts(self) -> list[str]:
        """The texts of all events to the end of the stream."""
        assert await self.status() == 200
        found = []
        while (event := await self.event()) is not None:
            found += [choice["text"] for choice in event["choices"]] if event != "[DONE]" else []
        return found


Ask = Callable[..., Awaitable[Caller]]


def serving(test: Callable[[SteppedModel, Ask, StaticServer], Awaitable[None]], **settings: Any) -> None:
    """Run `test` beside a server of these settings; a server that does not stop fails."""

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        model = SteppedModel()
        server = StaticServer(Settings(**settings), model, StreamedWords(), KEY)
        serve = asyncio.create_task(server.serve(listener))

        async def ask(path: str, body: dict[str, Any] | None = None, key: str = KEY) -> Caller:
            caller = Caller(listener.getsockname()[1])
            await caller.send(path, body, key)
            return caller

        try:
            await asyncio.wait_for(test(model, ask, server), 20)
        finally:
            server.stop()
            model.allow(1000)
            await asyncio.wait_for(serve, 20)

    asyncio.run(main())


def prompt(words: int, most: int, **more: Any) -> dict[str, Any]:
    usage = {"include_usage": True, "continuous_usage_stats": True}
    return {
        "prompt": "w " * words,
        "max_tokens": most,
        "ignore_eos": True,
        "stream": True,
        "stream_options": usage,
        **more,
    }


async def counters(ask: Ask) -> dict[str, float]:
    caller = await ask("/metrics")
    assert await caller.status() == 200
    return StaticEngine().canonical_metrics(await caller.body())


async def until(ask: Ask, **wanted: float) -> dict[str, float]:
    while True:
        found = await counters(ask)
        if wanted.items() <= found.items():
            return found
        await asyncio.sleep(0.005)


def test_nobody_joins_before_the_longest_of_the_batch_is_done() -> None:
    async def test(model: SteppedModel, ask: Ask, _: StaticServer) -> None:
        short = await ask("/v1/completions", prompt(1, 2))
        await until(ask, waiting=1.0)
        long = await ask("/v1/completions", prompt(4, 5))
        await until(ask, running=2.0, waiting=0.0)
        third, fourth = await ask("/v1/completions", prompt(1, 1)), await ask("/v1/completions", prompt(1, 1))
        await until(ask, running=2.0, waiting=2.0)
        model.allow(4)
        assert await short.texts() == ["<0>", "<1>"], "it has its answer before the batch has ended"
        found = await until(ask, generation_tokens=6.0)
        assert (found["running"], found["waiting"], found["batches"]) == (1.0, 2.0, 1.0)
        model.allow(2)
        assert await long.texts() == ["<100>", "<101>", "<102>", "<103>", "<104>"]
        assert (await third.texts(), await fourth.texts()) == (["<0>"], ["<100>"])
        found = await counters(ask)
        assert (found["batches"], found["padded_prompt_tokens"]) == (2.0, 3.0)
        assert (found["sequence_steps"], found["idle_sequence_steps"]) == (5 * 2 + 2, 3.0)
        assert (found["prompt_tokens"], found["generation_tokens"], found["requests_finished"]) == (7.0, 9.0, 4.0)
        assert found["ttft_s_count"] == found["e2e_s_count"] == found["queue_time_s_count"] == 4.0
        assert (found["running"], found["waiting"]) == (0.0, 0.0)

    serving(test, max_batch_size=2, batch_wait=60.0, stream="step")


def test_delivered_at_the_end_an_answer_waits_for_the_longest() -> None:
    async def test(model: SteppedModel, ask: Ask, _: StaticServer) -> None:
        short = await ask("/v1/completions", prompt(1, 1))
        await until(ask, waiting=1.0)
        long = await ask("/v1/completions", prompt(1, 3))
        model.allow(2)
        found = await until(ask, generation_tokens=3.0)
        assert (found["requests_finished"], found["ttft_s_count"]) == (0.0, 0.0)
        model.allow(1)
        assert await short.texts() == ["<0>"]
        assert await long.texts() == ["<100><101><102>"], "all at once"
        found = await counters(ask)
        assert found["ttft_s_sum"] == pytest.approx(found["e2e_s_sum"])

    serving(test, max_batch_size=2, batch_wait=60.0, stream="end")


def test_a_batch_that_does_not_fill_begins_all_the_same() -> None:
    async def test(model: SteppedModel, ask: Ask, _: StaticServer) -> None:
        model.allow(1)
        assert await (await ask("/v1/completions", prompt(1, 1))).texts() == ["<0>"]
        assert [len(batch.requests) for batch in model.batches] == [1]

    serving(test, max_batch_size=8, batch_wait=0.01)


def test_usage_grows_with_each_event_and_is_told_once_more_at_the_end() -> None:
    async def test(model: SteppedModel, ask: Ask, _: StaticServer) -> None:
        model.allow(2)
        caller = await ask("/v1/chat/completions", {**prompt(0, 2), "messages": [{"role": "user", "content": "a b"}]})
        assert await caller.status() == 200
        opening, first, second, closing, done, end = [await caller.event() for _ in range(6)]
        assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert (first["choices"][0]["finish_reason"], second["choices"][0]["finish_reason"]) == (None, "length")
        assert [event["usage"]["completion_tokens"] for event in (opening, first, second, closing)] == [0, 1, 2, 2]
        assert closing["usage"] == {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}
        assert (closing["choices"], done, end) == ([], "[DONE]", None)

    serving(test, batch_wait=0.0, stream="step")


def test_an_answer_that_is_not_streamed_comes_whole() -> None:
    async def test(model: SteppedModel, ask: Ask, _: StaticServer) -> None:
        model.allow(3)
        caller = await ask("/v1/completions", prompt(2, 3, stream=False, return_token_ids=True))
        assert await caller.status() == 200
        answer = json.loads(await caller.body())
        assert answer["choices"] == [
            {"index": 0, "text": "<0><1><2>", "logprobs": None, "finish_reason": "length", "token_ids": [0, 1, 2]}
        ]
        assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3}

    serving(test, batch_wait=0.0, stream="step")


def test_who_goes_away_is_taken_out_of_the_line_and_idles_in_a_batch() -> None:
    async def test(model: SteppedModel, ask: Ask, _: StaticServer) -> None:
        leaves, stays = await ask("/v1/completions", prompt(1, 50)), await ask("/v1/completions", prompt(1, 3))
        await until(ask, running=2.0)
        waits = await ask("/v1/completions", prompt(1, 1))
        await until(ask, waiting=1.0)
        model.allow(1)
        await until(ask, generation_tokens=2.0)
        leaves.writer.close()
        waits.writer.close()
        await until(ask, running=1.0, waiting=0.0)
        model.allow(2)
        assert len(await stays.texts()) == 3
        found = await until(ask, sequence_steps=6.0)
        assert (found["generation_tokens"], found["requests_finished"]) == (4.0, 3.0)

    serving(test, max_batch_size=2, batch_wait=60.0, stream="step")


def test_a_batch_that_fails_says_so_and_the_next_is_served() -> None:
    async def test(model: SteppedModel, ask: Ask, _: StaticServer) -> None:
        before, begun = (
            await ask("/v1/completions", prompt(1, 1, stream=False)),
            await ask("/v1/completions", prompt(1, 9)),
        )
        model.allow(1)
        assert await before.status() == 200 and await begun.status() == 200
        assert (await begun.event())["choices"]
        model.fails = True
        model.allow(1)
        assert (await begun.event())["error"] == {"message": "RuntimeError: out of everything", "code": 500}
        assert await begun.event() is None
        refused, also = await ask("/v1/completions", prompt(1, 1)), await ask("/v1/completions", prompt(1, 1))
        model.allow(1)
        assert (await refused.status(), await also.status()) == (500, 500)
        model.fails = False
        served, beside = await ask("/v1/completions", prompt(1, 1)), await ask("/v1/completions", prompt(1, 1))
        model.allow(1)
        assert len(await served.texts()) == len(await beside.texts()) == 1

    serving(test, max_batch_size=2, batch_wait=60.0, stream="step")


def test_a_stop_ends_after_the_step_under_way() -> None:
    async def test(model: SteppedModel, ask: Ask, server: StaticServer) -> None:
        caller = await ask("/v1/completions", prompt(1, 50))
        model.allow(1)
        assert await caller.status() == 200
        await caller.event()
        server.stop()
        await until_stopped(model)
        model.allow(1)
        assert (await caller.event())["error"]["message"] == "the batch ended before this answer did"

    async def until_stopped(model: SteppedModel) -> None:
        while not model.batches[0]._stopped:
            await asyncio.sleep(0.005)

    serving(test, batch_wait=0.0, stream="step")


def test_only_who_has_the_key_is_served() -> None:
    async def test(_: SteppedModel, ask: Ask, __: StaticServer) -> None:
        asked = {
            ("/v1/models", "wrong"): 401, ("/v1/models", KEY): 200, ("/health", "wrong"): 200, ("/server_info", KEY): 200,
            ("/nowhere", KEY): 404,
        }  # fmt: skip
        for (path, key), status in asked.items():
            assert await (await ask(path, key=key)).status() == status, path
        refused = await ask("/v1/completions", prompt(99, 9))
        assert await refused.status() == 400
        assert "more than the context of 100 tokens" in await refused.body()

    serving(test)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /health", 400),
        ("POST /v1/completions HTTP/1.1\r\nContent-Length: many", 400),
        ("POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked", 501),
        ("POST /v1/completions HTTP/1.1\r\nContent-Length: 999999999999", 413),
    ],
)
def test_what_is_not_understood_ends_the_connection(head: str, status: int) -> None:
    async def test(_: SteppedModel, ask: Ask, __: StaticServer) -> None:
        caller = await ask("/health")
        assert await caller.status() == 200
        caller.writer.write(f"{head}\r\n\r\n".encode())
        assert await caller.status() == status
        assert await caller.reader.read() == b""

    serving(test)


def test_a_connection_is_kept_and_its_requests_are_answered_in_order() -> None:
    async def test(_: SteppedModel, ask: Ask, __: StaticServer) -> None:
        caller = await ask("/health")
        for path in ("/nowhere", "/health"):
            caller.writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        found = []
        for _ in range(3):
            found.append(await caller.status())
            await caller.body()
        assert found == [200, 404, 200]

    serving(test)
