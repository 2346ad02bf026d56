"""The truth engine's loop: one thread, an epoll, a heap of what is due, and a log of when it went out."""

import heapq
import json
import os
import random
import select
import sys
import time
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from leverlab.incoming import STREAM_HEAD, Client, Clients, whole_answer
from leverlab.load.plan import Endpoint
from leverlab.load.timer import Timer
from leverlab.truth.answers import AnswerWriter, Vocabulary, framed
from leverlab.truth.body import Body, StreamOptions
from leverlab.truth.faults import GARBAGE, AnswerPlan, Faults
from leverlab.truth.lateness import Lateness
from leverlab.truth.log import RequestTruth, TruthLog
from leverlab.truth.metrics import Metrics
from leverlab.truth.model import Engine, Stream
from leverlab.truth.settings import Settings
from leverlab.truth.sums import solved

_POLL_EVERY_NS: Final = 500_000
"""Under load the loop looks for new requests at least this often between two sends."""
_EXIT_STATUS: Final = 70


class _Flight:
    """A stream, how its answer is written, and to whom."""

    __slots__ = ("client", "plan", "stream", "streamed", "writer")

    def __init__(
        self, stream: Stream, plan: AnswerPlan, writer: AnswerWriter, client: Client, *, streamed: bool
    ) -> None:
        self.plan = plan
        self.stream = stream
        self.writer = writer
        self.client = client
        self.streamed = streamed


class TruthServer:
    """Serves until `stop` is called or a fault switch ends it."""

    def __init__(self, settings: Settings, api_key: str | None) -> None:
        self._settings = settings
        self._authorization = None if api_key is None else f"Bearer {api_key}".encode()
        self._faults = Faults(settings)
        self._engine = Engine(settings)
        self._metrics = Metrics(settings, self._engine)
        self._vocabulary = Vocabulary(settings.seed, settings.empty_text_every)
        self._log = TruthLog(Path(settings.truth_log) if settings.truth_log else None)
        self._decoder = msgspec.json.Decoder(Body)
        self._epoll = select.epoll()
        self._timer = Timer(self._epoll)
        self._flights: dict[Client, _Flight] = {}
        self._flight_of: dict[int, _Flight] = {}
        self._due: list[tuple[int, int, _Flight]] = []
        self._requests = 0
        self._ended = 0
        self._lateness = Lateness()
        self._splits = settings.split_chunks or settings.split_json
        self._stopping = False
        self._clients = Clients(settings.host, settings.port, self._epoll, self._handle, self._gone)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._clients.port

    def stop(self) -> None:
        """Leave the loop at the next opportunity (for signal handlers)."""
        self._stopping = True

    def serve(self) -> None:
        """The loop. Returns after `stop`."""
        clock, due = time.monotonic_ns, self._due
        next_poll = armed_for = 0
        while not self._stopping:
            now = clock()
            while due and due[0][0] <= now < next_poll:
                now = self._send_next(now)
            wait_s = 0.0
            if not due or due[0][0] > now:
                if not due or self._log.full:
                    self._log.flush()
                wait_s = 0.5
                if due and armed_for != due[0][0]:
                    armed_for = due[0][0]
                    self._timer.arm(armed_for)
            for fd, mask in self._epoll.poll(wait_s):
                self._clients.serve(fd, mask)
            next_poll = clock() + _POLL_EVERY_NS
        self._log.flush()
        print(self._lateness.sentence(), file=sys.stderr)

    def _send_next(self, now_ns: int) -> int:
        """Send the chunk that is due first; return the time after it."""
        due_ns, number, flight = self._due[0]
        stream = flight.stream
        if stream not in self._engine.running:
            heapq.heappop(self._due)
            return time.monotonic_ns()
        before = stream.position
        left = stream.output_tokens - before
        tokens = self._engine.chunk_tokens(stream, left) if flight.streamed else left
        after = before + tokens
        last = after >= stream.output_tokens
        data = self._payload(flight, before, tokens, last=last)
        begun_ns = time.monotonic_ns()
        try:
            complete = self._write(flight.client, data)
        except OSError:
            heapq.heappop(self._due)
            self._clients.close(flight.client)
            return time.monotonic_ns()
        ended_ns = time.monotonic_ns()
        self._log.records.extend((number, tokens, due_ns, begun_ns, ended_ns if complete else -1))
        self._lateness.add(begun_ns - due_ns)
        stream.position = after
        if before == 0:
            stream.first_sent_ns = begun_ns
        if flight.plan.broken and before < flight.plan.broken_at <= after:
            if flight.plan.broken == "cut":
                heapq.heappop(self._due)
                self._clients.close(flight.client)
                return ended_ns
            self._write(flight.client, framed(GARBAGE))
        if last:
            heapq.heappop(self._due)
            self._end(flight, begun_ns)
        else:
            heapq.heapreplace(self._due, (self._engine.next_due_ns(stream, due_ns), number, flight))
        return ended_ns

    def _payload(self, flight: _Flight, before: int, tokens: int, *, last: bool) -> bytes:
        stream, writer = flight.stream, flight.writer
        if not flight.streamed:
            return whole_answer(200, writer.whole(tokens, stream.finish_reason))
        data = writer.chunk(before, tokens, f'"{stream.finish_reason}"'.encode() if last else b"null")
        return data if before else writer.opening() + data

    def _write(self, client: Client, data: bytes) -> bool:
        """Send `data`, in two segments where that is asked for. False where the kernel did not take all of it at once."""
        if self._splits and (pieces := self._faults.pieces(data)) is not None:
            client.write(pieces[0])
            data = pieces[1]
        return self._clients.write(client, data)

    def _end(self, flight: _Flight, last_sent_ns: int) -> None:
        stream = flight.stream
        self._flights.pop(flight.client, None)
        if flight.streamed:
            try:
                self._write(flight.client, flight.writer.closing(stream.output_tokens + self._settings.wrong_usage_by))
            except OSError:
                self._clients.close(flight.client)
        self._start(self._engine.release(stream, time.monotonic_ns()))
        self._metrics.ended(stream, last_sent_ns, stream.finish_reason)
        self._ended += 1
        if self._settings.exit_after_requests and self._ended >= self._settings.exit_after_requests:
            self._log.flush()
            print(f"died after {self._ended} requests, as told by --exit-after-requests", file=sys.stderr, flush=True)
            os._exit(_EXIT_STATUS)

    def _start(self, admitted: list[Stream]) -> None:
        for stream in admitted:
            flight = self._flight_of.pop(stream.number)
            if self._settings.enable_prompt_tokens_details:
                flight.writer.cached_tokens = stream.cached_tokens
            if flight.streamed:
                due_ns = self._engine.first_due_ns(stream)
                if self._settings.empty_first_chunk:
                    self._write_empty(flight)
            else:
                due_ns = self._engine.whole_due_ns(stream)
            heapq.heappush(self._due, (due_ns, stream.number, flight))
            self._metrics.admitted(stream)
            self._log.add(
                RequestTruth(
                    stream.number, stream.request_id, stream.received_ns, stream.admitted_ns,
                    stream.prompt_tokens, stream.cached_tokens, stream.output_tokens,
                )
            )  # fmt: skip

    def _write_empty(self, flight: _Flight) -> None:
        try:
            self._write(flight.client, flight.writer.chunk(0, 0, b"null"))
        except OSError:
            self._clients.close(flight.client)

    def _gone(self, client: Client) -> None:
        flight = self._flights.pop(client, None)
        if flight is not None:
            self._flight_of.pop(flight.stream.number, None)
            self._start(self._engine.release(flight.stream, time.monotonic_ns()))
            self._metrics.ended(flight.stream, 0, "abort")

    def _handle(self, client: Client) -> None:
        route = (client.method, client.path)
        if client.path.startswith(b"/v1/") and self._authorization not in (None, client.headers.get(b"authorization")):
            self._answer(client, 401, {"error": "Unauthorized"})
        elif route == (b"POST", b"/v1/completions"):
            self._generate(client, Endpoint.COMPLETIONS)
        elif route == (b"POST", b"/v1/chat/completions"):
            self._generate(client, Endpoint.CHAT)
        elif route == (b"GET", b"/health"):
            self._write(client, whole_answer(200, b""))
        elif route == (b"GET", b"/metrics"):
            self._write(client, whole_answer(200, self._metrics.render(), "text/plain; version=0.0.4"))
        elif route == (b"GET", b"/v1/models"):
            model = {"id": self._settings.served_model_name, "object": "model", "owned_by": "leverlab"}
            self._answer(client, 200, {"object": "list", "data": [model]})
        elif route == (b"GET", b"/leverlab/config"):
            self._answer(client, 200, self._settings.public())
        elif route == (b"GET", b"/leverlab/lateness"):
            self._answer(client, 200, self._lateness.report())
        elif route == (b"POST", b"/reset_prefix_cache"):
            self._answer(client, 200, {"success": self._reset(external=client.query == b"reset_external=true")})
        else:
            self._answer(client, 404, {"error": {"message": "no such route", "code": 404}})

    def _reset(self, *, external: bool) -> bool:
        """Empty the prefix cache and, with `external`, the tier below it; whether the answer is that it was done."""
        if self._engine.running or self._settings.refuse_reset:
            return False
        if not self._settings.keep_cache_on_reset:
            self._engine.cache.reset()
        if external and self._engine.tier is not None and not self._settings.keep_tier_on_reset:
            self._engine.tier.reset()
        return True

    def _answer(self, client: Client, status: int, content: dict[str, object]) -> None:
        self._write(client, whole_answer(status, json.dumps(content).encode()))

    def _generate(self, client: Client, endpoint: Endpoint) -> None:
        number = self._requests
        self._requests += 1
        key = client.headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = key or str(number)
        struck = self._faults.count(request_id)
        if struck:
            self._disturb(struck)
        refusal = self._faults.http_error(struck)
        if refusal is not None:
            self._answer(
                client, refusal, {"error": {"message": "refused as told by --http-error-every", "code": refusal}}
            )
            return
        if self._faults.silent(struck):
            return
        try:
            body = self._decoder.decode(client.body)
        except msgspec.MsgspecError as error:
            self._answer(client, 400, {"error": {"message": str(error), "code": 400}})
            return
        words = body.words()
        answer = self._solved(body)
        if answer is None:
            tokens = self._output_tokens(words, body.limit, ignore_eos=body.ignore_eos)
        else:
            tokens = min(body.limit, len(answer.split()))
        plan = self._faults.plan(struck, tokens, "length" if tokens == body.limit else "stop")
        transfer = body.kv_transfer_params
        stream = Stream(
            number, request_id, words, plan.tokens, plan.finish_reason, client.received_ns, key=key,
            handed_over=transfer is not None and transfer.do_remote_prefill,
        )  # fmt: skip
        options = body.stream_options or StreamOptions()
        writer = AnswerWriter(
            self._vocabulary,
            endpoint,
            self._settings.served_model_name,
            request_id,
            prompt_tokens=len(words),
            # Greedy answers are a function of the prompt; others need only differ.
            start=crc32(body.text().encode()) if body.temperature == 0 else number * 7,
            include_usage=options.include_usage and self._settings.usage,
            continuous_usage=options.continuous_usage_stats,
            token_ids=bool(body.return_token_ids),
            answer=answer,
        )
        writer.hands_over = transfer is not None and transfer.do_remote_decode
        flight = _Flight(stream, plan, writer, client, streamed=body.stream)
        if body.stream:
            self._write(client, STREAM_HEAD)
        self._flights[client] = self._flight_of[number] = flight
        self._start(self._engine.offer(stream, time.monotonic_ns()))

    def _solved(self, body: Body) -> str | None:
        """The answer to the prompt's sum, where such are to be solved; None otherwise."""
        if body.stream or not self._settings.solves:
            return None
        return solved(body.text(), self._settings.solves, self._settings.seed)

    def _disturb(self, struck: int) -> None:
        """What befalls the whole engine with the request of this number among those that faults may strike."""
        now_ns = time.monotonic_ns()
        self._engine.drift_from(now_ns)
        if pause_ns := self._faults.pause_ns(struck):
            self._engine.hold(now_ns, pause_ns)
            self._due[:] = [(due_ns + pause_ns, number, flight) for due_ns, number, flight in self._due]
            if line := self._faults.pause_line():
                print(line, file=sys.stderr, flush=True)
        if self._faults.resets_counters(struck):
            self._metrics = Metrics(self._settings, self._engine)

    def _output_tokens(self, words: list[str], limit: int, *, ignore_eos: bool) -> int:
        mean = self._settings.natural_tokens
        if ignore_eos or not mean:
            return limit
        return min(limit, random.Random(f"{self._settings.seed} {words}").randint(1, 2 * mean - 1))
