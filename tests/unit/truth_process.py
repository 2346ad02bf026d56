"""Starting the truth engine for a test, and joining what it logged with what the client saw."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from leverlab.load.parse import ParsedReplay, parse
from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.load.replay import replay
from leverlab.truth.log import read_truth_chunks, read_truth_requests

KEY = "secret-key-of-this-test"
USAGE = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


class Truth:
    """A running truth engine."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def target(self, endpoint: Endpoint = Endpoint.COMPLETIONS, key: str | None = KEY, **extra_body: object) -> Target:
        return Target("127.0.0.1", self.port, "truth", key, endpoint, extra_body or USAGE)

    def settle(self) -> None:
        """Return once the truth log holds every chunk sent so far: it is written before the next request is looked at."""
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@contextmanager
def truth_engine(folder: Path, *arguments: str) -> Iterator[Truth]:
    log = folder / "truth.log"
    command = [sys.executable, "-m", "leverlab.truth", "--port", "0", "--truth-log", str(log), *arguments]
    environment = {**os.environ, "LEVERLAB_API_KEY": KEY}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if line.startswith("listening on"):
                    yield Truth(process, int(line.rsplit(":", 1)[1]), log)
                    break
            else:
                raise RuntimeError("the truth engine did not start")
        finally:
            process.kill()


def plan(
    count: int, *, tokens: int = 8, prompt: str = "one two three four", every_s: float = 0.0, prefix: str = "r"
) -> list[PlannedRequest]:
    return [
        PlannedRequest(at, f"{prefix}{at}", prompt, len(prompt.split()), tokens, at * every_s) for at in range(count)
    ]


def run(
    target: Target, requests: list[PlannedRequest], load: LoadPoint, timeout_s: float = 10.0
) -> tuple[ParsedReplay, int]:
    """The parsed replay, and its t = 0 in ns of CLOCK_MONOTONIC."""
    log = replay(target, requests, load, timeout_s=timeout_s)
    return parse(log), log.origin_ns


def arrivals_against_truth(parsed: ParsedReplay, origin_ns: int, log: Path) -> tuple[np.ndarray, np.ndarray]:
    """For every chunk: how much later it was stamped than its send began (s), and how much earlier than its send ended (s)."""
    ids = {request.number: request.request_id for request in read_truth_requests(log)}
    sends: dict[str, list[tuple[int, int]]] = {}
    columns = read_truth_chunks(log)
    for number, begun, ended in zip(columns["number"], columns["begun_ns"], columns["ended_ns"], strict=True):
        sends.setdefault(ids[number], []).append((begun, ended))
    names = dict(zip(parsed.requests["index"].to_pylist(), parsed.requests["request_id"].to_pylist(), strict=True))
    seen: dict[str, list[float]] = {}
    for index, arrival in zip(parsed.chunks["index"].to_pylist(), parsed.chunks["arrival_s"].to_pylist(), strict=True):
        seen.setdefault(names[index], []).append(arrival * 1e9 + origin_ns)
    after_begin, before_end = [], []
    for name, stamps in seen.items():
        assert len(stamps) == len(sends[name]), "as many chunks were seen as were sent"
        for stamp, (begun, ended) in zip(stamps, sends[name], strict=True):
            after_begin.append((stamp - begun) / 1e9)
            before_end.append((ended - stamp) / 1e9)
    return np.array(after_begin), np.array(before_end)


def true_times(log: Path, origin_ns: int) -> dict[str, tuple[float, float]]:
    """For every request: when its first and its last chunk were handed to the kernel, in s since `origin_ns`."""
    ids = {request.number: request.request_id for request in read_truth_requests(log)}
    columns = read_truth_chunks(log)
    ends: dict[str, tuple[float, float]] = {}
    for number, begun in zip(columns["number"], columns["begun_ns"], strict=True):
        sent_s = (begun - origin_ns) / 1e9
        ends[ids[number]] = (ends.get(ids[number], (sent_s, sent_s))[0], sent_s)
    return ends
