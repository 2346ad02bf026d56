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

_BLOCK_TOKENS: Final = 16
"""vLLM's on a GPU where no flag says another number."""
_SPARE_BLOCKS: Final = 16
"""vLLM keeps one back itself."""
_VLLM_SIZES: Final = {"num-gpu-blocks-override", "kv-cache-memory-bytes"}


class ProfilerRefusedError(Exception):
    """The server did not begin or end its profiler; the text is its answer."""


@dataclass(frozen=True, slots=True)
class Profiling:
    """One kind of engine under a profiler. `folder` is where torch's traces go."""

    flags: Callable[[Tool, Path], Mapping[str, Any]]
    start_body: Callable[[Tool, Path], Mapping[str, Any] | None]
    cache_flags: Callable[[Mapping[str, Any], int], Mapping[str, Any]]
    """(the server's flags, tokens) → the flags by which its KV cache holds so many tokens and little more; none where its own say a size."""
    iterations: str | None
    """Sample of /metrics that counts the engine's iterations; None where it has none."""

    def start(self, client: httpx.Client, tool: Tool, folder: Path) -> None:
        """Have the server begin to record. Raises ProfilerRefusedError and httpx.HTTPError."""
        body = self.start_body(tool, folder)
        _accepted(client.post("/start_profile", json=body, timeout=_START_TIMEOUT_S), "start_profile")

    def stop(self, client: httpx.Client, timeout_s: float) -> None:
        """Have it end, and write what it has. Raises ProfilerRefusedError and httpx.HTTPError."""
        _accepted(client.post("/stop_profile", timeout=timeout_s), "stop_profile")

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


def _vllm_cache(flags: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """It does not start with a cache that cannot hold its longest request."""
    asked = flags.get("max-model-len")
    if not isinstance(asked, int) or _VLLM_SIZES & set(flags):
        return {}
    block = int(flags.get("block-size", _BLOCK_TOKENS))
    longest = max(tokens, asked)
    return {"num-gpu-blocks-override": -(-longest // block) + _SPARE_BLOCKS}


def _sglang_cache(flags: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    return {} if "max-total-tokens" in flags else {"max-total-tokens": tokens}


def _sglang_body(tool: Tool, folder: Path) -> dict[str, Any]:
    activities = ["CPU", "GPU"] if tool == "torch" else ["CUDA_PROFILER"]
    return {"output_dir": str(folder), "activities": activities, "with_stack": False}


PROFILING: Final[Mapping[str, Profiling]] = {
    "vllm": Profiling(_vllm_flags, lambda tool, folder: None, _vllm_cache, "vllm:iteration_tokens_total_count"),
    "sglang": Profiling(lambda tool, folder: {}, _sglang_body, _sglang_cache, None),
}
"""Kind of engine → how it is profiled."""
