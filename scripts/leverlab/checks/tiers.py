"""Checks of tiers below the engine's own cache: was what they were found to hold loaded from there, and all of it?"""

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

WHOLE_SHARE: Final = 0.9
"""Of the bytes of what was loaded: what must have come over PCIe for all of it to have come. Packets make it more than all (1.07 and more on an
H100); a twentieth and more is left for what is not known of a token's bytes."""

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
_HALF_LOADED: Final = (
    "a part of what the engine took as computed was never filled: neither its times nor its answers are those of the tier. LMCache in "
    "vLLM's process was seen to load one half of each token's keys and values, which vLLM 0.26 keeps side by side; its daemon loads by other code "
    "(docs/cache-tiers.md)"
)
_TOO_FAST: Final = (
    "either a part was never filled, and neither times nor answers are those of the tier, or the time is of something else: what came over the bus, "
    "which would tell, was not seen well enough. LMCache in vLLM's process was seen to load one half (docs/cache-tiers.md)"
)
_ANOTHER_TIME: Final = (
    "as many bytes came as all of them would be, other traffic included: the time that the tier tells of a load seems not to be that of their way, and "
    "restore_time_s and restore_bandwidth not to be what they are called"
)
_LITTLE_LOADED: Final = (
    "see server.log of the trial for loads that failed: what was not loaded was computed, or taken as computed"
)


@dataclass(frozen=True, slots=True)
class _Bus:
    """What the GPUs' counters say of loads: bytes that came over PCIe, and bytes of the loads."""

    came: float
    due: float
    most: float
    """What may have come, with all that the samples can hide."""

    @property
    def little(self) -> bool:
        """Whether it was less than `BUS_SHARE` of what was due, whatever the samples hide."""
        return self.most < BUS_SHARE * self.due

    @property
    def in_part(self) -> bool:
        """Whether it was less than `WHOLE_SHARE` of that, whatever the samples hide."""
        return self.most < WHOLE_SHARE * self.due

    @property
    def whole(self) -> bool:
        """Whether it was as much as `WHOLE_SHARE`, by what the samples show."""
        return self.came >= WHOLE_SHARE * self.due

    def __str__(self) -> str:
        return f"{_gib(self.came)} came over PCIe"


@dataclass(frozen=True, slots=True)
class _Loads:
    """What was found in a tier, and what it and the bus tell of loads from there."""

    tier: str
    found: float
    """Tokens."""
    told: float
    """Loads."""
    tells: bool
    """Whether it tells of each load."""
    tokens: float | None
    """Of the loads; None where it does not tell, or told of none."""
    bus: _Bus | None


def _loads(inputs: CellInputs) -> _Loads | None:
    """None where nothing was found in a tier, or its counter fell."""
    server = inputs.specification["server"]
    tier, found = tier_of(server), inputs.server_delta.get("external_hit_tokens", 0.0)
    told = inputs.server_delta.get("restores", 0.0)
    if tier is None or found <= 0 or told < 0:
        return None
    tells = tells_of_loads(server)
    tokens = _loaded_tokens(inputs) if tells and told else None
    return _Loads(tier, found, told, tells, tokens, _bus(inputs, found if tokens is None else min(found, tokens)))


def _tier_not_loaded(inputs: CellInputs) -> Finding | None:
    loads = _loads(inputs)
    if loads is None:
        return None
    counted, bus = f"{loads.found:.0f} tokens of prompts were counted as found in {loads.tier}", loads.bus
    if loads.tells and loads.told:
        of = "" if loads.tokens is None else f", of {loads.tokens:.0f} tokens"
        counted += f", which told of {loads.told:.0f} loads{of}"
    if bus is not None and bus.came < BUS_SHARE * bus.due <= bus.most:
        bus = None  # it may have been enough
    came = "" if bus is None else f"; {bus}"
    if loads.tells and not loads.told:
        saw = f"{counted}, which told of no load" + (came if bus is not None and bus.little else "")
        return Finding("invalid", saw, "loads from there: it tells of each", _NOTHING_LOADED)
    if bus is not None and bus.little:
        expected = f"at least {format_share(BUS_SHARE)} of the {_gib(bus.due)} that they take"
        return Finding("invalid", f"{counted}{came}", expected, _NOTHING_CAME)
    if not loads.tells and bus is None:
        return None
    if loads.tokens is None:
        return Finding("ok", f"{counted}{came}", "loads of what was found")
    expected = f"loads of at least {format_share(_LOADED_SHARE)} of what was found"
    if loads.tokens >= _LOADED_SHARE * loads.found:
        return Finding("ok", f"{counted}{came}", expected)
    return Finding("caution", f"{counted}{came}", expected, _LITTLE_LOADED)


def _tier_loaded_in_part(inputs: CellInputs) -> Finding | None:
    """By two things that cannot be: fewer bytes on the bus than were loaded, and more bytes a second than the bus carries."""
    loads = _loads(inputs)
    if loads is None or (loads.tells and not loads.told):
        return None  # of a tier that told of no load the other check speaks
    bus, speed, most = loads.bus, _told_speed(inputs), inputs.pcie_bytes_per_s
    whole = bus is not None and bus.whole
    if bus is not None and bus.little:
        return None  # nothing came that is worth the name: the other check has it
    came = f"{bus} where loads of {loads.tier} take {_gib(bus.due)}" if bus is not None else ""
    expected = f"at least {format_share(WHOLE_SHARE)} of that"
    if bus is not None and bus.in_part:
        return Finding("invalid", came, expected, _HALF_LOADED)
    if speed is not None and most is not None and speed > most:
        saw = f"loads of {loads.tier} at {_gigabytes(speed)} by what it tells of them"
        carried = f"at most {_gigabytes(most)}, which the bus can carry"
        return Finding("caution" if whole else "invalid", saw, carried, _ANOTHER_TIME if whole else _TOO_FAST)
    return Finding("ok", came, expected) if whole else None


def _told_speed(inputs: CellInputs) -> float | None:
    """Bytes/s of the loads by what the tier tells of their bytes and time; None where it does not tell, or they need not take PCIe as they are."""
    if not keeps_blocks_as_they_are(inputs.specification["server"].get("environment", {})):
        return None
    size, took_s = (inputs.server_delta.get(name, 0.0) for name in ("restored_bytes", "restore_s"))
    if size <= 0 or took_s <= 0 or any(name.startswith(_UNLIKE_PCIE) for name in inputs.gpu_names):
        return None
    return size / took_s


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
    return _Bus(came, due, most)


def _gigabytes(rate: float) -> str:
    return f"{format_number(rate / 1e9)} GB/s"


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
    Check(
        "tier_loaded_in_part",
        "Did all of what a tier loaded come over the bus, and no faster than that carries?",
        _tier_loaded_in_part,
        kept=(),
        kept_if_there=("requests", "gpu"),
    ),
)
