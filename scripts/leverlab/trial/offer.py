"""Offering a workload to a server by the client that the phase names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from leverlab.identity import seed_from
from leverlab.load.offline import NOT_TOLD, OfflineError, offer_offline
from leverlab.load.parse import parse
from leverlab.load.plan import LoadPoint, PlannedRequest, Target
from leverlab.load.replay import ReplayProcessError, replay_in_subprocess
from leverlab.load.vllm_bench import BenchError, bench_serve
from leverlab.records import Reason

Progress = Callable[[int, int], None]
"""Called with the requests done and all of them, several times a second."""

_BENCH_MODULE: Final = ("-m", "vllm.entrypoints.cli.main")
"""What the console script `vllm` runs."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What the client brought back: its tables, its own stated error, and t = 0 of its times where it tells (CLOCK_MONOTONIC, ns)."""

    requests: pa.Table
    chunks: pa.Table
    instrument: Mapping[str, Any]
    origin_ns: int | None
    not_told: Mapping[str, str] = field(default_factory=dict)
    """Column or table → why the client leaves it empty."""


class ClientFailedError(Exception):
    """The load client came to grief; nothing can be said of the server."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.reason = Reason(code="client_failed", message=message)


@dataclass(frozen=True, slots=True)
class Clients:
    """How clients are run here: on which cores, and what the engine's own client is started with."""

    cores: Sequence[int]
    command_prefix: Sequence[str]
    tokenizer: Path
    seed: int

    def offer(
        self,
        client: str,
        target: Target,
        requests: Sequence[PlannedRequest],
        load: LoadPoint,
        timeout_s: float,
        folder: Path,
        progress: Progress,
    ) -> Offered:
        """Offer `requests` by `client` (`replay`, `vllm-bench`, `offline`), each followed for `timeout_s`; temporary files go to `folder`.

        Raises ClientFailedError.
        """
        cores = self.cores or None
        if client == "replay":
            try:
                log = replay_in_subprocess(
                    target, requests, load, timeout_s=timeout_s, cores=cores, progress=progress, directory=folder
                )
            except ReplayProcessError as error:
                raise ClientFailedError(str(error)) from error
            parsed = parse(log)
            return Offered(parsed.requests, parsed.chunks, asdict(parsed.instrument), log.origin_ns)
        if client == "offline":
            try:
                run = offer_offline(target, requests, load, timeout_s=timeout_s, progress=progress)
            except OfflineError as error:
                raise ClientFailedError(str(error)) from error
            return Offered(run.requests, run.chunks, {}, run.origin_ns, NOT_TOLD)
        progress(0, len(requests))
        arrivals_s = requests[-1].arrival_unit_s / load.value if load.kind == "rate" and load.value else 0.0
        try:
            bench = bench_serve(
                target,
                requests,
                load,
                command=[*self.command_prefix, *_BENCH_MODULE],
                tokenizer=self.tokenizer,
                seed=seed_from("bench", self.seed) % 2**31,
                timeout_s=arrivals_s + timeout_s,
                cores=cores,
                directory=folder,
            )
        except BenchError as error:
            raise ClientFailedError(str(error)) from error
        progress(len(requests), len(requests))
        return Offered(bench.requests, bench.chunks, {}, None)
