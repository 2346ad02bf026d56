"""Load clients run side by side: each in a process of its own on a core of its own, with its CPU time watched."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from leverlab.load.log import read_log
from leverlab.load.parse import parse
from leverlab.load.plan import LoadPoint, PlannedRequest, Target
from leverlab.load.replay import ReplayJob
from leverlab.load.vllm_bench import bench_arguments

EXTRA_BODY = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
CLIENTS = ("replay", "vllm", "sglang", "httpx")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw: per request id its TTFT from the actual send and its chunks' arrivals, in seconds of its own clock."""

    ttft_s: Mapping[str, float]
    arrivals_s: Mapping[str, Sequence[float]]
    cpu: "CpuSampler"
    stated: Mapping[str, float] = field(default_factory=dict)
    """What it says of its own error; only the replay client does."""
    named: bool = True
    """Whether requests carried their ids to the server; where not, `r0` is the first that it received, and so on."""


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
    """How the clients are started: `vllm`, the command of that name in an environment with vLLM; `sglang`, the Python of one with
    SGLang; `tokenizer`, a folder with one."""

    core: int
    vllm: Path
    sglang: Path
    tokenizer: Path

    def program(self, client: str) -> Path:
        """What runs `client`."""
        return {"vllm": self.vllm, "sglang": self.sglang}.get(client, Path(sys.executable))

    def offer(
        self, client: str, target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, folder: Path
    ) -> Seen:
        """Let `client` send `requests` at `load`, a rate with equal gaps or a concurrency; `folder` takes its files."""
        match client:
            case "replay":
                return self._replay(target, requests, load, folder)
            case "vllm":
                return self._vllm(target, requests, load, folder)
            case "sglang":
                return self._sglang(target, requests, load, folder)
            case _:
                return self._httpx(target, requests, load, folder)

    def _watched(self, command: Sequence[str], folder: Path) -> CpuSampler:
        with (folder / "client.log").open("wb") as output:
            offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
            process = run_pinned(command, self.core, stdout=output, stderr=output, env=offline)
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
        arrivals: dict[str, list[float]] = {request.request_id: [] for request in requests}
        for index, arrival_s in zip(
            *(parsed.chunks.column(name).to_pylist() for name in ("index", "arrival_s")), strict=True
        ):
            arrivals[requests[index].request_id].append(arrival_s)
        rows = parsed.requests.to_pylist()
        ttft = {requests[row["index"]].request_id: row["ttft_service_s"] for row in rows if row["status"] == "ok"}
        return Seen(ttft, arrivals, sampler, stated)

    def _vllm(self, target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, folder: Path) -> Seen:
        dataset, result = folder / "requests.jsonl", folder / "result.json"
        rows = [{"prompt": request.prompt, "output_tokens": request.output_tokens} for request in requests]
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = bench_arguments(target, len(requests), load, dataset, result, self.tokenizer, 0)
        arguments += ["--burstiness", "inf", "--request-id-prefix", "r"]
        sampler = self._watched([str(self.vllm), *arguments], folder)
        return _from_details(json.loads(result.read_text()), requests, sampler, named=True)

    def _sglang(self, target: Target, requests: Sequence[PlannedRequest], load: LoadPoint, folder: Path) -> Seen:
        """Its only dataset of given prompts shuffles them and takes one length of the outputs; it sends no ids."""
        dataset, result = folder / "requests.jsonl", folder / "result.json"
        turns = ([{"content": request.prompt}, {"content": "an answer of some words"}] for request in requests)
        dataset.write_text("".join(json.dumps({"conversations": pair}) + "\n" for pair in turns))
        arguments = [
            "-m", "sglang.bench_serving",
            "--backend", "vllm",
            "--base-url", f"http://{target.host}:{target.port}",
            "--model", str(self.tokenizer),
            "--served-model-name", target.model,
            "--tokenizer", str(self.tokenizer),
            "--dataset-name", "custom",
            "--dataset-path", str(dataset),
            "--sharegpt-output-len", str(requests[0].output_tokens),
            "--num-prompts", str(len(requests)),
            "--warmup-requests", "0",
            "--ready-check-timeout-sec", "0",
            "--disable-tqdm",
            "--request-rate", f"{load.value:g}" if load.kind == "rate" else "inf",
            "--output-file", str(result),
            "--output-details",
        ]  # fmt: skip
        if load.kind == "concurrency" and load.value is not None:
            arguments += ["--max-concurrency", str(int(load.value))]
        sampler = self._watched([str(self.sglang), *arguments], folder)
        return _from_details(json.loads(result.read_text()), requests, sampler, named=False)

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


def _from_details(
    result: Mapping[str, Any], requests: Sequence[PlannedRequest], sampler: CpuSampler, *, named: bool
) -> Seen:
    """From the lists that vLLM's and SGLang's clients save, in the order of sending; arrivals count from the request's own send."""
    ttft: dict[str, float] = {}
    arrivals: dict[str, list[float]] = {}
    for request, first_s, gaps_s, error in zip(
        requests, result["ttfts"], result["itls"], result["errors"], strict=True
    ):
        if not error:
            ttft[request.request_id] = first_s
            arrivals[request.request_id] = list(accumulate(gaps_s, initial=first_s))
    return Seen(ttft, arrivals, sampler, named=named)
