"""The server: one thread for connections, which owns all state, and one that generates a batch at a time."""

import asyncio
import json
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from leverlab.static_batching import STATIC_VERSION
from leverlab.static_batching.api import (
    CHAT,
    COMPLETIONS,
    AnswerWriter,
    Asked,
    BadRequestError,
    Served,
    Tokenizer,
    error_body,
    read_body,
)
from leverlab.static_batching.batches import Batch, FinishReason, Produced, Request, Stepped, WaitingLine
from leverlab.static_batching.front import Connection, HttpRequest
from leverlab.static_batching.metrics import Metrics
from leverlab.static_batching.settings import Settings

_BACKLOG: Final = 4096


class Decoder(Protocol):
    """Turns the tokens of one answer into text as they come."""

    def text(self, token: int) -> str:
        """What `token` adds; nothing where it does not end a character."""


class StreamingTokenizer(Tokenizer, Protocol):
    """What the server needs of a model's tokenizer."""

    def decoder(self) -> Decoder:
        """A decoder for one answer."""


class Model(Protocol):
    """What the server needs of a loaded model."""

    context_tokens: int
    vocabulary: int
    end_tokens: frozenset[int]

    def facts(self) -> dict[str, Any]:
        """What is true of it, for /server_info."""

    def generate(self, batch: Batch, stepped: Stepped) -> None:
        """Generate `batch` until `stepped` says that every sequence has ended."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A request on its way: what was asked for, by whom, and what it was given. Instants are seconds of CLOCK_MONOTONIC."""

    asked: Asked
    request: Request
    connection: Connection
    writer: AnswerWriter
    decoder: Decoder
    begun_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    opened: bool = False
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class StaticServer:
    """Answers connections and forms batches. Everything but `_generate` and what it calls runs in the event loop."""

    def __init__(self, settings: Settings, model: Model, tokenizer: StreamingTokenizer, api_key: str | None) -> None:
        self._settings = settings
        self._model = model
        self._tokenizer = tokenizer
        self._authorization = None if api_key is None else f"Bearer {api_key}"
        self._served = Served(settings.served_model_name, model.context_tokens, model.vocabulary)
        self._line = WaitingLine(settings.max_batch_size, settings.batch_wait)
        self._metrics = Metrics(settings.served_model_name)
        self._flights: dict[Request, _Flight] = {}
        self._by_connection: dict[Connection, _Flight] = {}
        self._batch: Batch | None = None
        self._generator = ThreadPoolExecutor(1, "generate")
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._number = 0

    async def serve(self, listener: socket.socket) -> None:
        """Serve on the bound socket `listener` until `stop`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        front = await loop.create_server(lambda: Connection(self._handle, self._gone), sock=listener, backlog=_BACKLOG)
        print(f"listening on {self._settings.host}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
        await self._stopping.wait()
        front.close()
        if self._batch is not None:
            self._batch.stop()
        await loop.run_in_executor(None, self._generator.shutdown)

    def stop(self) -> None:
        """End after the step that is being computed; nobody is given anything more."""
        self._stopping.set()

    def _handle(self, connection: Connection, request: HttpRequest) -> None:
        route = (request.method, request.path)
        if request.path.startswith("/v1/") and self._authorization not in (None, request.headers.get("authorization")):
            connection.answer(401, error_body("the API key is missing or wrong", 401))
        elif route in (("POST", COMPLETIONS), ("POST", CHAT)):
            self._accept(connection, request)
        elif route == ("GET", "/health"):
            connection.answer(200, b"")
        elif route == ("GET", "/metrics"):
            connection.answer(200, self._metrics.render(self._gauges()), "text/plain; version=0.0.4")
        elif route == ("GET", "/v1/models"):
            model = {
                "id": self._settings.served_model_name,
                "object": "model",
                "owned_by": "leverlab",
                "max_model_len": self._model.context_tokens,
            }
            connection.answer(200, json.dumps({"object": "list", "data": [model]}).encode())
        elif route == ("GET", "/server_info"):
            told = {"settings": self._settings.public(), "facts": self._model.facts(), "version": STATIC_VERSION}
            connection.answer(200, json.dumps(told).encode())
        else:
            connection.answer(404, error_body(f"no such route: {request.method} {request.path}", 404))

    def _gauges(self) -> dict[str, int]:
        return {
            "vllm:num_requests_running": len(self._flights) - len(self._line),
            "vllm:num_requests_waiting": len(self._line),
            "static:batch_places": 0 if self._batch is None else len(self._batch.requests),
        }

    def _accept(self, connection: Connection, request: HttpRequest) -> None:
        arrived_s = time.monotonic()
        name = self._settings.served_model_name
        try:
            asked = read_body(request.path, request.body, self._served, self._tokenizer)
        except BadRequestError as error:
            connection.answer(400, error_body(str(error), 400))
            return
        self._number += 1
        request_id = request.headers.get("x-request-id") or str(self._number)
        waiting = Request(asked.prompt, asked.most_tokens, asked.ignore_end, arrived_s)
        flight = _Flight(asked, waiting, connection, AnswerWriter(asked, name, request_id), self._tokenizer.decoder())
        self._flights[waiting] = self._by_connection[connection] = flight
        self._line.add(waiting)
        self._form_batch()

    def _gone(self, connection: Connection) -> None:
        flight = self._by_connection.pop(connection, None)
        if flight is None:
            return
        flight.request.gone = True
        self._line.remove(flight.request)
        del self._flights[flight.request]
        self._metrics.ended("abort")

    def _form_batch(self) -> None:
        """Begin a batch where none is under way and one is due; otherwise come back when it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait_s = self._line.due_in_s(time.monotonic())
        if self._batch is not None or wait_s is None or self._stopping.is_set():
            return
        loop = asyncio.get_running_loop()
        if wait_s > 0:
            self._timer = loop.call_later(wait_s, self._form_batch)
            return
        batch = self._batch = Batch(self._line.take(), self._model.end_tokens)
        begun_s = time.monotonic()
        for request in batch.requests:
            self._flights[request].begun_s = begun_s
        self._metrics.count("static:batches_total", 1)
        self._metrics.count("static:padded_prompt_tokens_total", batch.padded_tokens)
        ended = loop.run_in_executor(self._generator, self._generate, batch, loop)
        ended.add_done_callback(lambda future: self._batch_ended(batch, future.exception()))

    def _generate(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
        """In the generating thread: run `batch`, and tell the event loop of each step."""

        def stepped(tokens: Sequence[int]) -> Sequence[bool]:
            idle = sum(batch.finished)
            produced = batch.step(tokens)
            loop.call_soon_threadsafe(self._take_step, produced, len(tokens), idle, time.monotonic())
            return batch.finished

        self._model.generate(batch, stepped)

    def _take_step(self, produced: Sequence[Produced], places: int, idle: int, now_s: float) -> None:
        self._metrics.count("static:sequence_steps_total", places)
        self._metrics.count("static:idle_sequence_steps_total", idle)
        self._metrics.count("vllm:generation_tokens_total", len(produced))
        for part in produced:
            flight = self._flights.get(part.request)
            if flight is None:
                continue  # its client has gone meanwhile
            if not flight.tokens:
                self._metrics.count("vllm:prompt_tokens_total", len(part.request.prompt))
                flight.first_s = now_s
            text = flight.decoder.text(part.token)
            flight.text += text
            flight.tokens.append(part.token)
            flight.last_s = now_s
            flight.finish_reason = part.finish_reason
            if self._settings.stream == "step":
                self._send(flight, text, [part.token], now_s)

    def _send(self, flight: _Flight, text: str, tokens: Sequence[int], now_s: float) -> None:
        """Send `tokens`, and with the last of them the end of the answer."""
        connection, writer = flight.connection, flight.writer
        if flight.asked.streamed:
            if not flight.opened:
                connection.begin_stream()
            # In this order: each tells the usage up to then.
            events = [] if flight.opened else writer.opening()
            events.append(writer.chunk(text, tokens, flight.finish_reason))
            events += writer.closing() if flight.finish_reason else []
            connection.event(*events)
        if not flight.opened:
            flight.opened = True
            self._metrics.observe("vllm:time_to_first_token_seconds", now_s - flight.request.arrived_s)
        if flight.finish_reason is None:
            return
        self._account(flight, now_s)
        if flight.asked.streamed:
            connection.end_stream()
        else:
            connection.answer(200, writer.whole(flight.text, flight.tokens, flight.finish_reason))

    def _account(self, flight: _Flight, now_s: float) -> None:
        """`flight` has all its tokens, the last of which is sent now."""
        arrived_s, observe = flight.request.arrived_s, self._metrics.observe
        observe("vllm:request_queue_time_seconds", flight.begun_s - arrived_s)
        observe("vllm:request_prefill_time_seconds", flight.first_s - flight.begun_s)
        observe("vllm:request_decode_time_seconds", flight.last_s - flight.first_s)
        observe("vllm:request_inference_time_seconds", flight.last_s - flight.begun_s)
        observe("vllm:e2e_request_latency_seconds", now_s - arrived_s)
        if len(flight.tokens) > 1:
            per_token_s = (flight.last_s - flight.first_s) / (len(flight.tokens) - 1)
            observe("vllm:request_time_per_output_token_seconds", per_token_s)
        self._metrics.ended(flight.finish_reason or "error")
        self._forget(flight)

    def _batch_ended(self, batch: Batch, error: BaseException | None) -> None:
        now_s = time.monotonic()
        if error is not None:
            print("a batch failed:", *traceback.format_exception(error), file=sys.stderr, flush=True)
        for flight in [self._flights[request] for request in batch.requests if request in self._flights]:
            if flight.finish_reason is not None:
                self._send(flight, flight.text, flight.tokens, now_s)
            else:
                self._fail(
                    flight,
                    "the batch ended before this answer did" if error is None else f"{type(error).__name__}: {error}",
                )
        self._batch = None
        self._form_batch()

    def _fail(self, flight: _Flight, message: str) -> None:
        self._metrics.ended("error")
        self._forget(flight)
        if flight.opened and flight.asked.streamed:
            flight.connection.event(error_body(message, 500))
            flight.connection.end_stream()
        else:
            flight.connection.answer(500, error_body(message, 500))

    def _forget(self, flight: _Flight) -> None:
        del self._flights[flight.request]
        del self._by_connection[flight.connection]
