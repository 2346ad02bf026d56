"""The HTTP front of an offline batch: batches, single prompts and questions in, put into a line for the thread that computes."""

import asyncio
import json
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from leverlab.offline_batch.generation import Answered, Done, Model, Wanted
from leverlab.static_batching.api import (
    COMPLETIONS,
    AnswerWriter,
    BadRequestError,
    Served,
    error_body,
    read_body,
)
from leverlab.static_batching.front import Connection, HttpRequest

BATCH: Final = "/batch"
"""`POST` here takes `{"requests": [{"prompt": text, "output_tokens": number}]}` and answers with what `_told` makes of it."""

_BACKLOG: Final = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Errand:
    """Something to be done by the thread that computes, and where its result goes."""

    do: Callable[[], Any]
    result: "Future[Any]"

    def run(self) -> None:
        """Do it. What it raises is the result's."""
        try:
            self.result.set_result(self.do())
        except Exception as error:
            self.result.set_exception(error)


class Front:
    """Answers connections in a thread of its own. `line` is emptied by the thread that owns the engine."""

    def __init__(self, model: Model, served_model_name: str, api_key: str | None) -> None:
        self.line: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self._model = model
        self._name = served_model_name
        self._authorization = None if api_key is None else f"Bearer {api_key}"
        self._served = Served(served_model_name, model.context_tokens, model.vocabulary)
        self._number = 0

    def start(self, listener: socket.socket) -> None:
        """Listen on the bound socket `listener` from now on."""
        threading.Thread(target=lambda: asyncio.run(self.serve(listener)), name="front", daemon=True).start()

    async def serve(self, listener: socket.socket) -> None:
        """Answer until the loop is cancelled."""
        loop = asyncio.get_running_loop()
        front = await loop.create_server(
            lambda: Connection(self._handle, lambda _: None), sock=listener, backlog=_BACKLOG
        )
        await front.serve_forever()

    def _handle(self, connection: Connection, request: HttpRequest) -> None:
        route = (request.method, request.path)
        guarded = request.path.startswith("/v1/") or request.method == "POST"
        if guarded and self._authorization not in (None, request.headers.get("authorization")):
            connection.answer(401, error_body("the API key is missing or wrong", 401))
        elif route == ("POST", BATCH):
            self._take_batch(connection, request)
        elif route == ("POST", COMPLETIONS):
            self._take_prompt(connection, request)
        elif route == ("POST", "/reset_prefix_cache"):
            tiers = "reset_external=true" in request.query.split("&")
            self._put(
                connection,
                lambda: self._model.reset_prefix_cache(tiers=tiers),
                lambda done: _json(connection, {"success": done}),
            )
        elif route == ("POST", "/flush_cache"):  # SGLang's name for it
            self._put(
                connection,
                lambda: self._model.reset_prefix_cache(tiers=True),
                lambda done: connection.answer(200 if done else 400, b""),
            )
        elif route == ("GET", "/health"):
            connection.answer(200, b"")
        elif route == ("GET", "/metrics"):
            connection.answer(200, self._model.metrics(), "text/plain; version=0.0.4")
        elif route == ("GET", "/version"):
            _json(connection, {"version": self._model.version})
        elif route == ("GET", "/server_info"):
            _json(connection, self._model.told())
        elif route == ("GET", "/v1/models"):
            model = {"id": self._name, "object": "model", "max_model_len": self._model.context_tokens}
            _json(connection, {"object": "list", "data": [model]})
        else:
            connection.answer(404, error_body(f"no such route: {request.method} {request.path}", 404))

    def _take_batch(self, connection: Connection, request: HttpRequest) -> None:
        try:
            batch = [_wanted(each) for each in json.loads(request.body)["requests"]]
        except (ValueError, KeyError, TypeError) as error:
            connection.answer(400, error_body(f"no batch: {type(error).__name__}: {error}", 400))
            return
        self._put(connection, lambda: self._model.generate(batch), lambda done: _json(connection, _told(done)))

    def _take_prompt(self, connection: Connection, request: HttpRequest) -> None:
        """A batch of one: for the warm-up and for prompts that look into the cache."""
        try:
            asked = read_body(request.path, request.body, self._served, self._model)
        except BadRequestError as error:
            connection.answer(400, error_body(str(error), 400))
            return
        self._number += 1
        writer = AnswerWriter(asked, self._name, request.headers.get("x-request-id") or str(self._number))

        def deliver(done: Done) -> None:
            [answer] = done.answers
            if not asked.streamed:
                connection.answer(200, writer.whole(answer.text, answer.tokens, answer.finish_reason))
                return
            connection.begin_stream()
            connection.event(writer.chunk(answer.text, answer.tokens, answer.finish_reason), *writer.closing())
            connection.end_stream()

        self._put(connection, lambda: self._model.generate([Wanted.of(asked)]), deliver)

    def _put(self, connection: Connection, do: Callable[[], T], deliver: Callable[[T], None]) -> None:
        """Have the computing thread `do` something; then `deliver` it here, or tell what went wrong."""
        loop, result = asyncio.get_running_loop(), Future[T]()

        def ended(future: "Future[T]") -> None:
            error = future.exception()
            if error is None:
                deliver(future.result())
            else:
                status = 400 if isinstance(error, ValueError) else 500
                connection.answer(status, error_body(f"{type(error).__name__}: {error}", status))

        result.add_done_callback(lambda future: loop.call_soon_threadsafe(ended, future))
        self.line.put(Errand(do, result))


def _wanted(given: Mapping[str, Any]) -> Wanted:
    prompt, tokens = given["prompt"], given["output_tokens"]
    if not isinstance(prompt, str) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError("prompt must be a text and output_tokens a whole number of at least 1")
    return Wanted(prompt, tokens)


def _told(done: Done) -> dict[str, Any]:
    return {
        "called_ns": done.called_ns,
        "returned_ns": done.returned_ns,
        "requests": [_request(answer) for answer in done.answers],
    }


def _request(answer: Answered) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": len(answer.tokens),
        "cached_tokens": answer.cached_tokens,
        "finish_reason": answer.finish_reason,
        "first_token_s": answer.first_token_s,
        "last_token_s": answer.last_token_s,
    }


def _json(connection: Connection, value: Mapping[str, Any]) -> None:
    connection.answer(200, json.dumps(value).encode())
