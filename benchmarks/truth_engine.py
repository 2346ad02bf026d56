"""How many chunks a second does the truth engine send on one core, and how late?

It is pinned to one core and drained from another by a loop that reads and throws away. Streams are opened at once; their gap is
chosen so that together they ask for a rate. Chunks sent and their lateness are those of its own truth log, over the middle
half of the run; CPU is the server's, from /proc.

Examples:
  python benchmarks/truth_engine.py                              # about a minute and a half
  python benchmarks/truth_engine.py --rates 50000 --seconds 10
  python benchmarks/truth_engine.py --rates 20000 -- --gap "exponential({gap})"     # flags after -- replace its own
"""

import argparse
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leverlab.load.plan import Endpoint, PlannedRequest, Target, request_bytes
from leverlab.truth.log import read_truth_chunks
from leverlab.units import format_share

USAGE = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
PROMPT_WORDS = 100
_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Result:
    """One run: chunks a second asked for and sent, lateness in seconds, the server's share of its core."""

    asked: float
    sent: float
    late_p50_s: float
    late_p99_s: float
    late_max_s: float
    cpu_share: float


def drain(port: int, streams: int, tokens: int) -> None:
    """Ask for `streams` answers of `tokens` tokens at once, and read them to their ends."""
    target = Target("127.0.0.1", port, "truth", None, Endpoint.COMPLETIONS, USAGE)
    prompt = "word " * PROMPT_WORDS
    epoll, sockets = select.epoll(), {}
    for _ in range(streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)
        sockets[connection.fileno()] = connection
        epoll.register(connection.fileno(), select.EPOLLIN)
    for at, connection in enumerate(sockets.values()):
        connection.sendall(request_bytes(target, PlannedRequest(at, f"r{at}", prompt, PROMPT_WORDS, tokens, 0.0)))
    open_streams = streams
    while open_streams:
        for fd, _ in epoll.poll():
            data = sockets[fd].recv(1 << 20)
            if not data:
                raise RuntimeError("the truth engine closed a connection")
            if data.endswith(_END):
                open_streams -= 1
        time.sleep(0.001)  # as a client that rests: reading each chunk on its own would cost as much as sending it


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def run(rate: float, streams: int, seconds: float, cores: Sequence[int], flags: Sequence[str]) -> Result:
    """Ask for `rate` chunks a second for `seconds`."""
    gap_s = streams / rate
    tokens = max(round(seconds / gap_s), 2)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "truth"
        command = [
            sys.executable,
            "-m",
            "leverlab.truth",
            "--port",
            "0",
            "--max-num-seqs",
            "8192",
            "--truth-log",
            str(log),
        ]
        command += ["--ttft", "0.5", "--gap", f"{gap_s}", *(flag.replace("{gap}", f"{gap_s}") for flag in flags)]
        os.sched_setaffinity(0, {cores[1]})
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            os.sched_setaffinity(0, {cores[0]})
            assert server.stderr is not None
            try:
                port = next(int(line.rsplit(":", 1)[1]) for line in server.stderr if line.startswith("listening on"))
                before_s, begun_s = cpu_s(server.pid), time.monotonic()
                drain(port, streams, tokens)
                share = (cpu_s(server.pid) - before_s) / (time.monotonic() - begun_s)
            finally:
                server.terminate()
                server.wait()
        columns = read_truth_chunks(log)
    begun, due = np.array(columns["begun_ns"]) / 1e9, np.array(columns["due_ns"]) / 1e9
    start, end = np.quantile(begun, [0.25, 0.75])
    middle = (begun >= start) & (begun <= end)
    late = (begun - due)[middle]
    p50, p99 = np.quantile(late, [0.5, 0.99])
    return Result(rate, float(middle.sum() / (end - start)), float(p50), float(p99), float(late.max()), share)


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| chunks/s asked | sent | late p50 (ms) | p99 (ms) | most (ms) | share of its core |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        lates = " | ".join(f"{late * 1e3:.3f}" for late in (result.late_p50_s, result.late_p99_s, result.late_max_s))
        lines.append(f"| {result.asked:,.0f} | {result.sent:,.0f} | {lates} | {format_share(result.cpu_share)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rates = [5_000, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 80_000]
    parser.add_argument("--rates", nargs="+", type=float, default=rates, help="chunks a second (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=256, help="streams at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a run (default: %(default)s)")
    parser.add_argument("flags", nargs="*", help="flags of the truth engine; {gap} is the gap that the rate needs")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two cores are needed: one for the truth engine, one to read what it sends")
    results = []
    for rate in options.rates:
        results.append(run(rate, options.streams, options.seconds, cores, options.flags))
        print(table(results[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()
