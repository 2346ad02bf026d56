"""Each reported metric equals the truth within the instrument's stated error.

Configurations of the truth engine are drawn by number: endpoint, load, lengths, times, tokens a chunk. Each is measured by
the replay client; its metrics are computed as those of any cell, and once more with the instants at which the server really
handed its chunks to the kernel.

pytest tests/golden --golden 200      # all of them, about five minutes
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.load.instrument import arrivals
from leverlab.load.log import ReplayLog
from leverlab.load.parse import ParsedReplay, parse
from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest
from leverlab.load.replay import replay
from leverlab.metrics import METRICS
from leverlab.truth.log import read_truth_chunks, read_truth_requests
from tests.unit.truth_process import truth_engine

pytestmark = pytest.mark.golden

CLIENT_METRICS = ("ttft_s", "ttft_service_s", "tpot_s", "chunk_gap_s", "e2e_s")
RATES = ("throughput", "total_throughput", "achieved_rate", "goodput")
OBJECTIVES = {"ttft_p95": 1e6}
"""Met by every request: goodput then counts requests, and depends on no threshold that a microsecond could cross."""


@dataclass(frozen=True)
class Configuration:
    """One truth configuration: the server's flags, and what is sent to it how."""

    flags: tuple[str, ...]
    endpoint: Endpoint
    load: LoadPoint
    requests: list[PlannedRequest]


def drawn(number: int) -> Configuration:
    draw = random.Random(f"golden {number}")
    ttft, gap = draw.uniform(0.01, 0.08), draw.uniform(0.002, 0.02)
    flags = {
        "seed": number,
        "ttft": draw.choice([f"{ttft:.4f}", f"lognormal({ttft:.4f}, 0.4)", f"exponential({ttft:.4f})"]),
        "gap": draw.choice([f"{gap:.4f}", f"gamma({gap:.4f}, 4)", f"uniform({gap / 2:.4f}, {gap:.4f})"]),
        "tokens-per-chunk": [1, 1, 3, 5][number % 4],
        "acceptance": draw.choice([1.0, 0.7]),
        "max-num-seqs": draw.choice([2, 8, 64]),
    }
    kind = ["rate", "concurrency", "burst"][number % 3]
    value = {"rate": draw.uniform(10, 60), "concurrency": float(draw.randint(1, 6)), "burst": None}[kind]
    arrival_s, requests = 0.0, []
    for index in range(draw.randint(20, 40)):
        prompt = " ".join(f"w{draw.randrange(5000)}" for _ in range(draw.randint(4, 30)))
        tokens = draw.randint(1, 24)
        requests.append(PlannedRequest(index, f"r{index}", prompt, len(prompt.split()), tokens, arrival_s))
        arrival_s += draw.expovariate(1.0)
    words = tuple(word for name, text in flags.items() for word in (f"--{name}", str(text)))
    endpoint = Endpoint.CHAT if (number // 2) % 2 else Endpoint.COMPLETIONS
    return Configuration(words, endpoint, LoadPoint(kind, value), requests)


def true_tables(parsed: ParsedReplay, origin_ns: int, log: Path) -> tuple[pa.Table, pa.Table, float]:
    """The client's tables with the server's own instants in them, and how long the longest send took (s)."""
    ids = {request.number: request.request_id for request in read_truth_requests(log)}
    columns = read_truth_chunks(log)
    begun = (np.array(columns["begun_ns"]) - origin_ns) / 1e9
    longest_s = float((np.array(columns["ended_ns"]) - np.array(columns["begun_ns"])).max()) / 1e9
    sends: dict[str, list[tuple[float, int]]] = {}
    for number, begun_s, tokens in zip(columns["number"], begun, columns["tokens"], strict=True):
        sends.setdefault(ids[number], []).append((float(begun_s), tokens))
    rows, chunks = parsed.requests.to_pylist(), []
    for row in rows:
        own = [send for send in sends[row["request_id"]] if send[1]]
        assert row["status"] == "ok" and row["completion_tokens"] == sum(tokens for _, tokens in own)
        first_s, last_s, rest = own[0][0], own[-1][0], sum(tokens for _, tokens in own[1:])
        row |= {
            "first_token_s": first_s,
            "last_token_s": last_s,
            "ttft_s": first_s - row["scheduled_s"],
            "ttft_service_s": first_s - row["sent_s"],
            "e2e_s": last_s - row["scheduled_s"],
            "tpot_s": (last_s - first_s) / rest if rest else None,
        }
        chunks += [{"index": row["index"], "arrival_s": at_s, "tokens": tokens} for at_s, tokens in own]
    return (
        pa.Table.from_pylist(rows, parsed.requests.schema),
        pa.Table.from_pylist(chunks, parsed.chunks.schema),
        longest_s,
    )


def stated_error_s(log: ReplayLog) -> float:
    """By how much the instrument says that its latest stamp may be late."""
    found = arrivals(log)
    several = len(found.arrival_ns) and parse(log).instrument.coalesced_share
    return float((found.since_poll_ns if several else found.late_ns).max()) / 1e9


def test_metrics_equal_the_truth(number: int, tmp_path: Path) -> None:
    configuration = drawn(number)
    with truth_engine(tmp_path, *configuration.flags) as server:
        target = server.target(configuration.endpoint)
        log = replay(target, configuration.requests, configuration.load, timeout_s=60.0)
        server.settle()
        parsed = parse(log)
        requests, chunks, send_s = true_tables(parsed, log.origin_ns, server.log)
    seen = MeasuredCell(parsed.requests, parsed.chunks, configuration.load, {}, None).metrics(OBJECTIVES)
    truth = MeasuredCell(requests, chunks, configuration.load, {}, None).metrics(OBJECTIVES)
    # A stamp lies between the begin of a send and its end, or later by what the instrument states.
    error_s = stated_error_s(log) + send_s
    assert pa.compute.sum(parsed.chunks.column("tokens")).as_py() == pa.compute.sum(chunks.column("tokens")).as_py()
    compared = 0
    for (metric, statistic), value in truth.items():
        own = seen[metric, statistic]
        if metric not in (*CLIENT_METRICS, *RATES):
            continue
        assert (own is None) == (value is None), (metric, statistic)
        if own is None or value is None:
            continue
        compared += 1
        what = f"{metric} {statistic or ''} of configuration {number}: {own:.6g} instead of {value:.6g}"
        if metric in RATES:
            spans = requests.column("last_token_s").to_numpy()
            # Ends of a window move by the error; a rate over the middle of the ends is over eight tenths of their span or less.
            least_s = 0.5 * float(spans.max() - spans.min())
            assert own == pytest.approx(value, rel=2 * error_s / least_s + 1e-9), what
        else:
            earlier_s = error_s if metric in ("chunk_gap_s", "tpot_s") else 1e-6
            assert -earlier_s <= own - value <= error_s, f"{what}; stated: {error_s:.6g} s"
    assert compared >= 15, "latencies with their percentiles, and the rates"
    assert {METRICS[name].unit for name in CLIENT_METRICS} == {"s"}
