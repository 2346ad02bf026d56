"""Check of tiers below the engine's own cache: was what they were found to hold loaded from there?"""

from typing import Final

from leverlab.checks.base import CellInputs, Check, Finding
from leverlab.engines.tiers import tells_of_loads
from leverlab.units import format_share

_LOADED_SHARE: Final = 0.9
"""Of the tokens found: what a tier must tell that it loaded. Tiers load whole blocks or chunks, and so rather more."""

_NOTHING_LOADED: Final = (
    "the engine took blocks as computed that nobody filled, and spared itself the load: neither its times nor its answers are those of "
    "the tier. vLLM 0.26 with LMCache does so in a step that runs as one full CUDA graph, as where only the last token of a prompt "
    "is left to compute: give prompts a length that is no multiple of LMCache's chunk (docs/cache-tiers.md)"
)
_LITTLE_LOADED: Final = (
    "see server.log of the trial for loads that failed: what was not loaded was computed, or taken as computed"
)


def _tier_not_loaded(inputs: CellInputs) -> Finding | None:
    tier, found = tells_of_loads(inputs.specification["server"]), inputs.server_delta.get("external_hit_tokens", 0.0)
    loads = inputs.server_delta.get("restores", 0.0)
    if tier is None or found <= 0 or loads < 0:
        return None
    counted = f"{found:.0f} tokens of prompts were counted as found in {tier}"
    if not loads:
        expected = "loads from there: it tells of each"
        return Finding("invalid", f"{counted}, which told of no load", expected, _NOTHING_LOADED)
    loaded = _loaded_tokens(inputs)
    if loaded is None:
        return Finding("ok", f"{counted}, which told of {loads:.0f} loads", "loads of what was found")
    saw = f"{counted}, which told of {loads:.0f} loads, of {loaded:.0f} tokens"
    expected = f"loads of at least {format_share(_LOADED_SHARE)} of what was found"
    if loaded >= _LOADED_SHARE * found:
        return Finding("ok", saw, expected)
    return Finding("caution", saw, expected, _LITTLE_LOADED)


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


TIER_CHECKS: Final = (
    Check("tier_not_loaded", "Was what a tier was found to hold loaded from there?", _tier_not_loaded, kept=()),
)
