"""Check of tiers below the engine's own cache: was what they were found to hold loaded from there?"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from leverlab.checks.base import CellInputs, Check, Finding
from leverlab.checks.links import RECEIVED, moved_bytes, unseen_bytes
from leverlab.engines.lmcache import keeps_blocks_as_they_are
from leverlab.engines.tiers import tells_of_loads, tier_of
from leverlab.units import format_number, format_share

_LOADED_SHARE: Final = 0.9
"""Of the tokens found: what a tier must tell that it loaded. Tiers load whole blocks or chunks, and so rather more."""

BUS_SHARE: Final = 0.5
"""Of the bytes of what was loaded: what must have come over PCIe. All of it does, and other things besides: half leaves out any doubt
about how many bytes a token takes."""

_GIB: Final = 2**30

_UNLIKE_PCIE: Final = ("NVIDIA GH", "NVIDIA GB")
"""How NVML calls GPUs that reach the host's memory over NVLink-C2C (Grace Hopper, Grace Blackwell)."""

_NOTHING_LOADED: Final = (
    "the engine took blocks as computed that nobody filled, and spared itself the load: neither its times nor its answers are those of "
    "the tier. vLLM 0.26 with LMCache does so in a step that runs as one full CUDA graph, as where only the last token of a prompt "
    "is left to compute: give prompts a length that is no multiple of LMCache's chunk (docs/cache-tiers.md)"
)
_NOTHING_CAME: Final = (
    "a tier in the host's memory or on disk reaches the GPU over its bus: what did not come was computed, or taken as computed by mistake, "
    "whatever the log says (docs/cache-tiers.md)"
)
_LITTLE_LOADED: Final = (
    "see server.log of the trial for loads that failed: what was not loaded was computed, or taken as computed"
)


@dataclass(frozen=True, slots=True)
class _Bus:
    """What the GPUs' counters say of loads: bytes that came over PCIe, and bytes of the loads."""

    came: float
    due: float
    little: bool
    """Whether it was less than `BUS_SHARE` of what was due, also with all that the samples can hide."""

    def __str__(self) -> str:
        return f"{_gib(self.came)} came over PCIe"


def _tier_not_loaded(inputs: CellInputs) -> Finding | None:
    server = inputs.specification["server"]
    tier, found = tier_of(server), inputs.server_delta.get("external_hit_tokens", 0.0)
    loads = inputs.server_delta.get("restores", 0.0)
    if tier is None or found <= 0 or loads < 0:
        return None
    counted, tells, loaded = (
        f"{found:.0f} tokens of prompts were counted as found in {tier}",
        tells_of_loads(server),
        None,
    )
    if tells and loads:
        loaded = _loaded_tokens(inputs)
        of = "" if loaded is None else f", of {loaded:.0f} tokens"
        counted += f", which told of {loads:.0f} loads{of}"
    bus = _bus(inputs, found if loaded is None else min(found, loaded))
    came = "" if bus is None else f"; {bus}"
    if tells and not loads:
        saw = f"{counted}, which told of no load" + (came if bus is not None and bus.little else "")
        return Finding("invalid", saw, "loads from there: it tells of each", _NOTHING_LOADED)
    if bus is not None and bus.little:
        expected = f"at least {format_share(BUS_SHARE)} of the {_gib(bus.due)} that they take"
        return Finding("invalid", f"{counted}{came}", expected, _NOTHING_CAME)
    if not tells and bus is None:
        return None
    if loaded is None:
        return Finding("ok", f"{counted}{came}", "loads of what was found")
    expected = f"loads of at least {format_share(_LOADED_SHARE)} of what was found"
    if loaded >= _LOADED_SHARE * found:
        return Finding("ok", f"{counted}{came}", expected)
    return Finding("caution", f"{counted}{came}", expected, _LITTLE_LOADED)


def _loaded_tokens(inputs: CellInputs) -> float | None:
    """Tokens that were loaded, of which each rank tells for its own part. None where neither they nor their bytes are known."""
    told, loaded_bytes = (inputs.server_delta.get(name) for name in ("restored_tokens", "restored_bytes"))
    if told is not None:
        flags = inputs.specification["server"].get("flags", {})
        ranks: int = flags.get("tensor-parallel-size", 1) * flags.get("pipeline-parallel-size", 1)
        return told / ranks
    if loaded_bytes is None or not inputs.kv_bytes_per_token:
        return None
    return loaded_bytes / inputs.kv_bytes_per_token


def _bus(inputs: CellInputs, tokens: float) -> _Bus | None:
    """What came over the bus where `tokens` were loaded; None where the counters cannot tell.

    A request's prompt is loaded between its sending and its first token. Ranks that share a model each receive a part: their bytes are
    added up. What else comes over the bus only adds to it.
    """
    if inputs.gpu is None or not inputs.gpu.num_rows or not inputs.requests.num_rows or not inputs.kv_bytes_per_token:
        return None
    if any(name.startswith(_UNLIKE_PCIE) for name in inputs.gpu_names):
        return None
    if not keeps_blocks_as_they_are(inputs.specification["server"].get("environment", {})):
        return None
    came = moved_bytes(inputs.gpu, RECEIVED)
    if not came:  # a counter that stands still counts nothing: launching a kernel already takes the bus
        return None
    prompts, sent_s, waited_s = (inputs.column(name) for name in ("prompt_tokens", "sent_s", "ttft_service_s"))
    due = tokens * inputs.kv_bytes_per_token
    sent = ~np.isnan(sent_s)
    # Of a request without a prompt's length or a first token nothing is known: it may have loaded all, at any time.
    load_bytes = np.nan_to_num(prompts[sent] * inputs.kv_bytes_per_token, nan=due)
    ended_s = sent_s[sent] + np.nan_to_num(waited_s[sent], nan=np.inf)
    most = came + unseen_bytes(inputs.gpu, load_bytes, sent_s[sent], ended_s)
    if came < BUS_SHARE * due <= most:
        return None
    return _Bus(came, due, little=most < BUS_SHARE * due)


def _gib(size_bytes: float) -> str:
    return f"{format_number(size_bytes / _GIB)} GiB"


TIER_CHECKS: Final = (
    Check(
        "tier_not_loaded",
        "Was what a tier was found to hold loaded from there?",
        _tier_not_loaded,
        kept=(),
        kept_if_there=("requests", "gpu"),
    ),
)
