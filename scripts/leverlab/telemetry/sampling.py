"""All samplers of a phase, from its beginning to its end."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import pyarrow as pa

from leverlab.records import SamplingCost
from leverlab.telemetry import gpu, host, server_metrics
from leverlab.telemetry.gpu import GpuSampler, GpuUnavailableError
from leverlab.telemetry.host import HostSampler
from leverlab.telemetry.periodic import Periodic
from leverlab.telemetry.server_metrics import MetricsSampler
from leverlab.telemetry.server_processes import ServerProcesses
from leverlab.topology import RunningServer, Servers

_ANSWER_TIMEOUT_S: Final = 5.0


class Sampling:
    """Observes while the `with` block runs; its tables are there afterwards.

    `device` is what the engine computes on: GPUs are observed for `cuda` alone. `gpus` are UUIDs or indices, none for all
    visible ones. `missing` names each table that there is not, or not whole, and says why.
    """

    def __init__(
        self,
        server: RunningServer,
        device: str,
        gpus: Sequence[str] = (),
        engine_cores: Sequence[int] = (),
        client_cores: Sequence[int] = (),
    ) -> None:
        self._servers = Servers(server, _ANSWER_TIMEOUT_S)
        processes = ServerProcesses(server.processes)
        self._samplers: dict[str, GpuSampler | HostSampler | MetricsSampler] = {
            "host": HostSampler(processes, engine_cores, client_cores),
            "server_metrics": MetricsSampler(self._servers.counters),
        }
        periods = {"host": host.PERIOD_S, "server_metrics": server_metrics.PERIOD_S, "gpu": gpu.PERIOD_S}
        self.missing: dict[str, str] = {}
        if device == "cuda":
            try:
                self._samplers["gpu"] = GpuSampler(gpus, processes)
            except GpuUnavailableError as error:
                self.missing["gpu"] = str(error)
        else:
            self.missing["gpu"] = "the engine computes on the CPU"
        # A look at GPUs is milliseconds in which the driver lets nobody else have the core: on the client's an answer would be read
        # that much later. A CPU engine has no core to spare, and neither has one beside GPUs that has only one.
        cores = engine_cores if device == "cuda" and len(engine_cores) > 1 else ()
        self._threads = {
            name: Periodic(f"sample {name}", periods[name], sampler.look, cores)
            for name, sampler in self._samplers.items()
        }
        self._begun_s = time.monotonic()
        self._server, self._engine = server, server.engine
        self._log_begins = server.log_sizes()
        self.compilation_lines: list[str] = []
        """Lines of the server's logs, written meanwhile, that tell of a compilation."""
        self.costs: dict[str, SamplingCost] = {}
        """Table → what its looks cost, once sampling has ended."""
        self.log_counters: dict[str, float] = {}
        """What only the logs count, of what was written meanwhile."""

    def __enter__(self) -> Self:
        self._begun_s = time.monotonic()
        self._log_begins = self._server.log_sizes()
        for thread in self._threads.values():
            thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for name, thread in self._threads.items():
            thread.stop()
            if thread.error:
                self.missing[name] = thread.error
            cost = thread.cost()
            if cost is not None:
                self.costs[name] = cost
        self._servers.close()
        lines = self._server.log_lines_from(self._log_begins)
        self.compilation_lines = [line for line in lines if self._engine.compilation.search(line)]
        self.log_counters = self._engine.log_counters("\n".join(lines))

    def tables(self, origin_ns: int | None = None) -> dict[str, pa.Table]:
        """`gpu` (where there is one), `host` and `server_metrics`, with times from `origin_ns` of CLOCK_MONOTONIC.

        None: from the beginning of the sampling, for a client that does not tell its t = 0.
        """
        origin_s = self._begun_s if origin_ns is None else origin_ns / 1e9
        return {name: sampler.table(origin_s) for name, sampler in self._samplers.items()}
