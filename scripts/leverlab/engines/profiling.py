"""How a server is started under a profiler and told when to record: what differs between engines.

An engine's process calls cudaProfilerStart and cudaProfilerStop for Nsight Systems, or runs torch's profiler itself and
writes a trace. Either is begun and ended by its own endpoints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from leverlab.config.profile import Tool

_START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 300.0
"""Torch's profiler writes its trace before it answers."""


class ProfilerRefusedError(Exception):
    """The server did not begin or end its profiler; the text is its answer."""


@dataclass(frozen=True, slots=True)
class Profiling:
    """One kind of engine under a profiler. `folder` is where torch's traces go."""

    flags: Callable[[Tool, Path], Mapping[str, Any]]
    start_body: Callable[[Tool, Path], Mapping[str, Any] | None]
    iterations: str | None
    """Sample of /metrics that counts the engine's iterations; None where it has none."""

    def start(self, client: httpx.Client, tool: Tool, folder: Path) -> None:
        """Have the server begin to record. Raises ProfilerRefusedError and httpx.HTTPError."""
        body = self.start_body(tool, folder)
        _accepted(client.post("/start_profile", json=body, timeout=_START_TIMEOUT_S), "start_profile")

    def stop(self, client: httpx.Client) -> None:
        """Have it end, and write what it has. Raises ProfilerRefusedError and httpx.HTTPError."""
        _accepted(client.post("/stop_profile", timeout=STOP_TIMEOUT_S), "stop_profile")

    def iteration_count(self, metrics: str) -> float | None:
        """The engine's own count of iterations in the text of /metrics; None where it tells none."""
        if self.iterations is None:
            return None
        values = [
            sample.value
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name == self.iterations
        ]
        return sum(values) if values else None


def _accepted(answer: httpx.Response, what: str) -> None:
    if answer.status_code != httpx.codes.OK:
        raise ProfilerRefusedError(f"/{what} answered {answer.status_code}: {answer.text[:200]}")


def _vllm_flags(tool: Tool, folder: Path) -> dict[str, Any]:
    if tool != "torch":
        return {"profiler-config": {"profiler": "cuda"}}
    # Stacks would make the trace ten times as large, and the frontend runs no kernels.
    options = {"torch_profiler_dir": str(folder), "torch_profiler_with_stack": False, "ignore_frontend": True}
    return {"profiler-config": {"profiler": "torch", **options}}


def _sglang_body(tool: Tool, folder: Path) -> dict[str, Any]:
    activities = ["CPU", "GPU"] if tool == "torch" else ["CUDA_PROFILER"]
    return {"output_dir": str(folder), "activities": activities, "with_stack": False}


PROFILING: Final[Mapping[str, Profiling]] = {
    "vllm": Profiling(_vllm_flags, lambda tool, folder: None, "vllm:iteration_tokens_total_count"),
    "sglang": Profiling(lambda tool, folder: {}, _sglang_body, None),
}
"""Kind of engine → how it is profiled."""
