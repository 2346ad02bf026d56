"""Whole batches handed to a program that has the engine in it (`leverlab.offline_batch`), and its own stamps in the same tables.

There is no stream and no client, so that some columns have no meaning and are null (`NOT_TOLD`). Of the others:
* `scheduled_s` and `sent_s` are the call of the batch, `last_token_s` its return: the caller has nothing before;
* `first_token_s` and `tpot_s` are by the engine's own stamps of a request's first and last token.
A burst is one batch of all requests; a concurrency of n makes batches of n, one after the other, in the order of the workload.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httpx
import pyarrow as pa

from leverlab.load.plan import LoadPoint, PlannedRequest, Target
from leverlab.load.schema import CHUNKS, REQUESTS

BATCH: Final = "/batch"

NOT_TOLD: Final[Mapping[str, str]] = {
    "ttft_s": "an offline batch gives its caller nothing before its end",
    "ttft_service_s": "an offline batch gives its caller nothing before its end",
    "send_lag_s": "no client sends the requests of an offline batch",
    "ttft_error_s": "no client stamps the tokens of an offline batch",
    "chunks": "an offline batch is not streamed",
}
"""Column or table → why an offline batch leaves it empty."""

_TELL_EVERY_S: Final = 0.25

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class OfflineReplay:
    """The tables of a run. `origin_ns`: the first call, on CLOCK_MONOTONIC: t = 0 of its times."""

    requests: pa.Table
    chunks: pa.Table
    origin_ns: int


class OfflineError(RuntimeError):
    """The program refused a batch, failed, or did not end it in time; the message says which."""


def batches(requests: Sequence[PlannedRequest], load: LoadPoint) -> list[Sequence[PlannedRequest]]:
    """The batches of `load`. Raises ValueError for a load that is none of batches."""
    if load.kind == "burst":
        return [requests]
    if load.kind != "concurrency" or load.value is None:
        raise ValueError(
            f"an offline batch has no {load.kind}: offer a burst, or a concurrency for batches of that size"
        )
    size = int(load.value)
    return [requests[at : at + size] for at in range(0, len(requests), size)]


def offer_offline(
    target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, *, timeout_s: float, progress: Progress
) -> OfflineReplay:
    """Hand `requests` to the program at `target`, each batch for at most `timeout_s`.

    `progress(done, all)` is called four times a second; what it raises ends the waiting. Raises OfflineError.
    """
    headers = {} if target.api_key is None else {"Authorization": f"Bearer {target.api_key}"}
    done: list[tuple[Sequence[PlannedRequest], Mapping[str, Any]]] = []
    with (
        httpx.Client(
            base_url=f"http://{target.host}:{target.port}", headers=headers, timeout=timeout_s, trust_env=False
        ) as client,
        _Waiting() as waiting,
    ):
        for batch in batches(requests, load):
            told = partial(progress, sum(len(ended) for ended, _ in done), len(requests))
            done.append((batch, waiting.for_result(partial(_ask, client, batch), told)))
    progress(len(requests), len(requests))
    return _tables(done)


class _Waiting:
    """Has one question at a time asked in a thread, and can leave it unanswered where the caller gives up."""

    def __enter__(self) -> "_Waiting":
        self._pool = ThreadPoolExecutor(1, "offline batch")
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def for_result(self, ask: Callable[[], Mapping[str, Any]], meanwhile: Callable[[], None]) -> Mapping[str, Any]:
        future: Future[Mapping[str, Any]] = self._pool.submit(ask)
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        while not ended.wait(_TELL_EVERY_S):
            meanwhile()
        return future.result()


def _ask(client: httpx.Client, batch: Sequence[PlannedRequest]) -> Mapping[str, Any]:
    body = {"requests": [{"prompt": one.prompt, "output_tokens": one.output_tokens} for one in batch]}
    begun_s = time.monotonic()
    try:
        answer = client.post(BATCH, json=body)
    except httpx.TimeoutException:
        raise OfflineError(
            f"a batch of {len(batch)} requests did not end in {time.monotonic() - begun_s:.0f} s"
        ) from None
    except httpx.HTTPError as error:
        raise OfflineError(f"the program does not answer: {type(error).__name__}: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise OfflineError(f"the program refused a batch: HTTP {answer.status_code}: {answer.text[-1000:]}")
    told: dict[str, Any] = answer.json()
    if len(told["requests"]) != len(batch):
        raise OfflineError(f"{len(told['requests'])} answers came for a batch of {len(batch)} requests")
    return told


def _tables(done: Sequence[tuple[Sequence[PlannedRequest], Mapping[str, Any]]]) -> OfflineReplay:
    origin_ns = int(done[0][1]["called_ns"])
    rows = [
        _row(request, answer, (told["called_ns"] - origin_ns) / 1e9, (told["returned_ns"] - origin_ns) / 1e9, origin_ns)
        for batch, told in done
        for request, answer in zip(batch, told["requests"], strict=True)
    ]
    return OfflineReplay(pa.Table.from_pylist(rows, schema=REQUESTS), CHUNKS.empty_table(), origin_ns)


def _row(
    request: PlannedRequest, answer: Mapping[str, Any], called_s: float, returned_s: float, origin_ns: int
) -> dict[str, Any]:
    first_s, last_s, tokens = answer["first_token_s"], answer["last_token_s"], answer["completion_tokens"]
    stamped = first_s is not None and last_s is not None
    return {
        "index": request.index,
        "status": "ok" if tokens else "no_tokens",
        "error": "" if tokens else "the answer holds no token",
        "prompt_tokens": answer["prompt_tokens"],
        "completion_tokens": tokens,
        "requested_output_tokens": request.output_tokens,
        "cached_tokens": answer["cached_tokens"],
        "finish_reason": answer["finish_reason"],
        "scheduled_s": called_s,
        "sent_s": called_s,
        "first_token_s": first_s - origin_ns / 1e9 if first_s is not None else None,
        "last_token_s": returned_s,
        "chunks": 0,
        "tpot_s": (last_s - first_s) / (tokens - 1) if stamped and tokens > 1 else None,
        "e2e_s": returned_s - called_s if tokens else None,
        "token_source": "token_ids",
    }
