"""Which cells of a study get a twin under a profiler, and the rules by which kernels are called."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from leverlab.config.base import Seconds, StrictModel
from leverlab.load_point import parse_load_point

Tool = Literal["nsys", "torch", "ncu"]
"""Nsight Systems, the profiler of torch that the engine starts itself, or Nsight Compute's counters of chosen kernels."""

NCU_LAUNCH_S: Final = 15
"""What Nsight Compute is given for a kernel: it saves the memory that the kernel may write, which is all that is allocated, and runs it some
ten times."""

PROFILED_KINDS = ("vllm", "sglang")
"""Kinds of engines that can be told to record."""

KERNEL_CLASSES = (
    "attention",
    "gemm",
    "moe",
    "norm_elementwise",
    "sampling",
    "kv_cache",
    "communication",
    "copy",
    "other",
)
"""What a kernel can be called. `other` is what no rule names."""


def _load_point(text: str) -> str:
    point = parse_load_point(text)
    if point.kind == "search":
        raise ValueError("`search` is no load point that a twin could repeat: name a rate, a concurrency or `burst`")
    return str(point)


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


class Profile(StrictModel):
    """Which cells get a twin: a short run of the same server and workload under a profiler, in a job of its own."""

    at: list[Annotated[str, AfterValidator(_load_point)]] = Field(
        min_length=1, description="load points of the study: `rate 4`, `concurrency 16`, `burst`"
    )
    treatments: list[str] = Field(
        default=[], description="`baseline`, `cuda_graphs=eager`, as reports name them; default: every treatment"
    )
    tool: Tool | None = Field(
        default=None, description="the profiler; default: nsys on GPUs, torch on a CPU; ncu: counters of chosen kernels"
    )
    window: Seconds = Field(default=1.0, description="how long the profiler records, in the middle of the load")
    kernels: Annotated[str, AfterValidator(_regular_expression)] = Field(
        default="gemm|nvjet|FlashAttnFwdSm|flash_fwd|(Prefill|Decode)With|_fwd_(grouped_)?kernel|unified_attention",
        description="for ncu: which kernels, as a regular expression that is searched in their whole names",
    )
    launches: int = Field(default=9, ge=1, description="for ncu: how many of them are looked at, seconds each")


class KernelClass(StrictModel):
    """Kernels of one class, by their names. Classes are tried in the order of the file; the first that fits is taken."""

    patterns: list[Annotated[str, AfterValidator(_regular_expression)]] = Field(
        min_length=1, description="regular expressions (Python's, in any case of letters) that are searched in the name"
    )
