"""Load clients run side by side: each in a process of its own on a core of its own, with its CPU time watched."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from leverlab.load.log import read_log
from leverlab.load.parse import parse
from leverlab.load.plan import LoadPoint, PlannedRequest, Target
from leverlab.load.replay import ReplayJob
from leverlab.load.vllm_bench import bench_arguments, from_result

EXTRA_BODY = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
CLIENTS = ("replay", "vllm", "httpx")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw: per request id its TTFT from the actual send and its chunks' arrivals, in seconds of its own clock."""

    ttft_s: Mapping[str, float]
    arrivals_s: Mapping[str, Sequence[float]]
    cpu: "CpuSampler"
    stated: Mapping[str, float] = field(default_factory=dict)
    """What it says of its own error; only the replay client does."""


class CpuSampler(threading.Thread):
    """CPU time of a process and its descendants, over time, in ns of the scheduler's own account."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.times: list[int] = []
        self.cpu_ns: list[int] = []

    def run(self) -> None:
        known: dict[str, int] = {}
        while not self._ended.wait(0.05):
            for pid in self._tree(self._pid):
                for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                    try:
                        known[str(task)] = int(task.read_text().split()[0])
                    except OSError:
                        continue
            self.times.append(time.monotonic_ns())
            self.cpu_ns.append(sum(known.values()))

    def _tree(self, pid: int) -> list[int]:
        found = [pid]
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                for child in children.read_text().split():
                    found += self._tree(int(child))
            except OSError:
                continue
        return found

    def between(self, start_ns: int, end_ns: int) -> float:
        """CPU seconds between two instants."""
        self._ended.set()
        self.join()
        first, last = np.interp([start_ns, end_ns], self.times, self.cpu_ns)
        return float(last - first) / 1e9


def run_pinned(command: Sequence[str], core: int, **options: Any) -> subprocess.Popen:  # noqa: ANN401
    """Start `command` on `core`, which it inherits from this thread."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(command, **options)
    finally:
        os.sched_setaffinity(0, allowed)


@dataclass(frozen=True, slots=True)
class Clients:
    """How the clients are started: `vllm`, the command of an environment with vLLM; `tokenizer`, a folder with one."""

    core: int
    vllm: Path
    tokenizer: Path

    def installed(self, client: str) -> bool:
        """Whether `client` can be run here."""
        return client != "vllm" or self.vllm.is_file()

    def offer(
        self, client: str, target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, folder: Path
    ) -> Seen:
        """Let `client` send `requests` at `load`, a rate with equal gaps or a concurrency; `folder` takes its files."""
        match client:
            case "replay":
                return self._replay(target, requests, load, folder)
            case "vllm":
                return self._vllm(target, requests, load, folder)
            case _:
                return self._httpx(target, requests, load, folder)

    def _watched(self, command: Sequence[str], folder: Path) -> CpuSampler:
        with (folder / "client.log").open("wb") as output:
            process = run_pinned(command, self.core, stdout=output, stderr=output)
            sampler = CpuSampler(process.pid)
            sampler.start()
            if process.wait() != 0:
                raise RuntimeError(f"{command[0]} failed: {(folder / 'client.log').read_text()[-2000:]}")
        return sampler

    def _replay(self, target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, folder: Path) -> Seen:
        raw = folder / "raw"
        job = ReplayJob(target, list(requests), load, 120.0, [self.core], str(raw))
        (folder / "job").write_bytes(msgspec.json.encode(job))
        sampler = self._watched([sys.executable, "-m", "leverlab.load", str(folder / "job")], folder)
        log = read_log(raw)
        parse(log)  # loads what the tables need
        begun = time.process_time()
        parsed = parse(log)
        stated = asdict(parsed.instrument) | {"parse_s": time.process_time() - begun}
        names = [request.request_id for request in requests]
        return _seen(names, parsed.requests.to_pylist(), parsed.chunks.to_pydict(), sampler, stated)

    def _vllm(self, target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, folder: Path) -> Seen:
        dataset, result = folder / "requests.jsonl", folder / "result.json"
        rows = [{"prompt": request.prompt, "output_tokens": request.output_tokens} for request in requests]
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = bench_arguments(target, len(requests), load, dataset, result, self.tokenizer, 0)
        arguments += ["--burstiness", "inf", "--request-id-prefix", "r"]
        sampler = self._watched([str(self.vllm), *arguments], folder)
        replayed = from_result(json.loads(result.read_text()), list(requests), target.endpoint, load)
        names = [request.request_id for request in requests]
        return _seen(names, replayed.requests.to_pylist(), replayed.chunks.to_pydict(), sampler)

    def _httpx(self, target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, folder: Path) -> Seen:
        job, result = folder / "job.json", folder / "result.json"
        asked = {
            "port": target.port,
            "rate": load.value if load.kind == "rate" else None,
            "streams": int(load.value or 0) if load.kind == "concurrency" else None,
            "requests": [[request.request_id, request.prompt, request.output_tokens] for request in requests],
            "body": dict(target.extra_body),
            "result": str(result),
        }
        job.write_text(json.dumps(asked))
        sampler = self._watched([sys.executable, str(Path(__file__).with_name("plain_client.py")), str(job)], folder)
        answers = json.loads(result.read_text())
        arrivals = {name: times for name, _, times in answers}
        return Seen({name: times[0] - sent_s for name, sent_s, times in answers if times}, arrivals, sampler)


def _seen(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    chunks: Mapping[str, Sequence[Any]],
    sampler: CpuSampler,
    stated: Mapping[str, float] | None = None,
) -> Seen:
    """From the tables of an adapter, whose rows are in the order of `names`."""
    arrivals: dict[str, list[float]] = {name: [] for name in names}
    for index, arrival_s in zip(chunks["index"], chunks["arrival_s"], strict=True):
        arrivals[names[index]].append(arrival_s)
    ttft = {names[row["index"]]: row["ttft_service_s"] for row in rows if row["status"] == "ok"}
    return Seen(ttft, arrivals, sampler, stated or {})
