"""Checks of the conditions under which a cell was measured: load, cache, settings, versions, steadiness."""

from typing import Final

import numpy as np
from packaging.version import Version

from leverlab.checks.base import CellInputs, Check, Finding
from leverlab.stats.knee import SATURATION_SHARE
from leverlab.units import format_share

_HIT_TOLERANCE: Final = 0.02
"""By how much of the prompt tokens the measured hit ratio may pass the workload's own sharing."""

_LONG_STAY: Final = 0.9
"""Share of the requests that must have been able to leave while others still came."""

_LOADS_OF_GPUS: Final = "0.32"
"""vLLM whose log is known to have the experts' load over the GPUs; that of 0.26 has it over the layers."""

_FEW_HITS_SHARE: Final = 0.5
"""Share of the workload's own sharing below which hits are called few."""


def _saturated(inputs: CellInputs) -> Finding | None:
    offered, achieved = inputs.keeping_up.arrived, inputs.keeping_up.finished
    if offered is None or achieved is None or inputs.keeping_up.beyond is None:
        return None
    saw = f"{offered:.3g} requests/s arrived, {achieved:.3g} were finished"
    expected = f"at least {format_share(SATURATION_SHARE)} of what arrives is finished per second, and no queue that grows to the end"
    if not inputs.keeping_up.beyond:
        return Finding("ok", saw, expected)
    if achieved >= SATURATION_SHARE * offered:
        saw += ", while the queue and the waiting grew for as long as requests came"
    return Finding(
        "caution",
        saw,
        expected,
        "a finding, not a fault: beyond its capacity latencies grow with the length of the run, and throughput at this "
        "rate is what was offered; achieved_rate and the burst say what the server can sustain",
    )


def _window_short(inputs: CellInputs) -> Finding | None:
    if inputs.load.kind != "rate" or inputs.waiting:
        return None
    if inputs.keeping_up.beyond:
        return None  # who waits stays longer than requests come, and is marked for it
    scheduled_s, last_s = (inputs.column(name)[inputs.ended_well] for name in ("scheduled_s", "last_token_s"))
    if len(scheduled_s) == 0:
        return None
    lasted_s, stays_s = float(np.ptp(scheduled_s)), float(np.quantile(last_s - scheduled_s, _LONG_STAY))
    saw = f"requests came for {lasted_s:.3g} s, and one in ten stays {stays_s:.3g} s or longer"
    expected = "requests that come for longer than nine in ten of them stay"
    if lasted_s >= stays_s:
        return Finding("ok", saw, expected)
    return Finding(
        "caution",
        saw,
        expected,
        "let them come for longer (`minimum_duration` of the study's load), or ask for shorter answers: until those who came first have "
        "left, fewer run at once than this rate brings in the long run, so that latencies are lower than there; throughput is what was "
        "offered",
    )


def _saturation_not_judged(inputs: CellInputs) -> Finding | None:
    if inputs.load.kind != "rate" or not inputs.waiting:
        return None
    return Finding(
        "caution",
        "requests wait for the answers to others: a server that is slow is asked less, so that what it finishes always keeps up with "
        "what comes",
        "requests that come whether or not others are answered",
        "not judged, and not a fault: see how TTFT grows with the rate; a workload whose requests stand alone tells the capacity",
    )


def _search_not_settled(inputs: CellInputs) -> Finding | None:
    found = inputs.search
    if found is None:
        return None
    expected = "a rate that meets the objectives, and one above it, as near as was asked for, that misses one"
    tried = f"{found.runs} runs"
    if found.highest_rate is None:
        return Finding(
            "caution",
            f"{tried}, and none met the objectives, down to {found.kept:.3g} requests/s",
            expected,
            "the objectives are out of this server's reach at the rates tried: relax them, or give `search` a lower `lowest` or more time",
        )
    if found.missed is None:
        saw = f"{tried}, and every rate met them, up to {found.highest_rate:.3g} requests/s"
        return Finding("caution", saw, expected, "raise `highest` of the search, or give the workload more requests")
    saw = f"{tried}: {found.highest_rate:.4g} requests/s met them, {found.missed:.4g} missed {found.limited_by}"
    if found.settled:
        return Finding("ok", saw, expected)
    return Finding(
        "caution", saw, expected, "the search ran out of time: raise its `limit`, or take a coarser `precision`"
    )


def _cache_state(inputs: CellInputs) -> Finding:
    asked = str(inputs.cache.get("asked", inputs.specification["phase"].get("cache")))
    verified = inputs.cache.get("verified")
    expected = f"the cache {asked} when the phase began, and seen to be"
    if verified is False:
        saw = f"not {asked}: {told}" if (told := inputs.cache.get("saw")) else f"not {asked}"
        return Finding("invalid", saw, expected, "the cache did not reset or fill: restart the server")
    # A prefill server's connector is asked whether or not a tier lies behind it.
    has_tier = inputs.specification["server"].get("topology") != "prefill-decode"
    if asked == "tier" and has_tier and (below := _below(inputs)) is not None and below[1] <= 0 < below[0]:
        saw = f"of {below[0]:.0f} tokens asked of the tier below the engine's own cache none were there"
        return Finding("invalid", saw, expected, "the tier lost what it was filled with: is it large enough?")
    if verified is True:
        return Finding("ok", f"seen to be {asked}", expected)
    told = inputs.cache.get("saw")
    saw = f"could not be seen: {told}" if told else "could not be seen"
    return Finding("caution", saw, expected, "this engine does not show the state of its cache")


def _foreign_cache_hits(inputs: CellInputs) -> Finding | None:
    if inputs.specification["phase"].get("cache") != "cold":
        return None
    cached = inputs.column("cached_tokens")[inputs.ended_well]
    expected = "a cold cache: at least the first request finds nothing"
    # What a prefill server hands over counts as cached where it is taken over: the counters of the prefix caches tell then.
    handed_over = inputs.specification["server"].get("topology") == "prefill-decode"
    # A request without a number may have found nothing: SGLang reports no zeros.
    if len(cached) and bool((cached > 0).all()) and not handed_over:
        return Finding(
            "invalid",
            f"every request found cached tokens, the least {cached.min():.0f}",
            expected,
            "the cache held prompts from before the phase: see how it was reset",
        )
    measured, shared = _hit_ratio(inputs), _shared_ratios(inputs)
    if measured is None or not shared:
        return Finding("ok", "a request found nothing", expected) if bool((cached == 0).any()) else None
    saw = f"{format_share(measured, 1)} of prompt tokens were hits; the workload itself shares {format_share(max(shared), 1)}"
    if measured > max(shared) + _HIT_TOLERANCE:
        return Finding("invalid", saw, expected, "the cache held prompts from before the phase: see how it was reset")
    return Finding("ok", saw, expected)


def _few_cache_hits(inputs: CellInputs) -> Finding | None:
    measured, shared = _hit_ratio(inputs), _shared_ratios(inputs)
    if not measured or not shared:
        return None
    saw = f"{format_share(measured, 1)} of prompt tokens were hits"
    expected = f"near {format_share(min(shared), 1)}, which the workload shares"
    if measured >= _FEW_HITS_SHARE * min(shared):
        return Finding("ok", saw, expected)
    return Finding(
        "caution",
        saw,
        expected,
        "prompts were evicted, or came before their prefix was computed: a finding, not a fault",
    )


def _hit_ratio(inputs: CellInputs) -> float | None:
    """Share of prompt tokens found in the engine's own cache or in a tier below it.

    None without the counters, and where one fell: `counters_reset` says so, and no share can be made of them.
    """
    queried, hits = (inputs.server_delta.get(name) for name in ("prefix_queried_tokens", "prefix_hit_tokens"))
    below = _below(inputs) or (0.0, 0.0)
    if queried is None or hits is None or queried <= 0 or hits < 0 or below[1] < 0:
        return None
    return (hits + below[1]) / queried


def _below(inputs: CellInputs) -> tuple[float, float] | None:
    """Tokens asked of a tier below the engine's own cache, and found there; None where the server counts none."""
    queried, hits = (inputs.server_delta.get(name) for name in ("external_queried_tokens", "external_hit_tokens"))
    return None if queried is None or hits is None else (queried, hits)


def _shared_ratios(inputs: CellInputs) -> list[float]:
    """Hit ratios of an ideal cache, one for each size of block that engines use."""
    return [float(ratio) for ratio in inputs.workload_card.get("expected_prefix_hit_ratio", {}).values()]


def _setting_not_taken(inputs: CellInputs) -> Finding:
    wrong = [difference for difference in inputs.differences if not difference.get("expected")]
    explained = len(inputs.differences) - len(wrong)
    expected = "every requested setting in effect"
    if not wrong:
        extra = f"; {explained} differ as their meaning says" if explained else ""
        return Finding("ok", f"all in effect{extra}", expected)
    named = "; ".join(f"{item['key']}: asked {item['intended']}, is {item['effective']}" for item in wrong[:5])
    return Finding(
        "invalid", named, expected, "the engine runs with something else than the treatment says: see trial.json"
    )


def _versions_differ(inputs: CellInputs) -> Finding | None:
    declared = inputs.specification["server"]["engine"].get("versions", {})
    if not declared:
        return None
    known = {name: inputs.installed_versions[name] for name in declared if name in inputs.installed_versions}
    wrong = [f"{name}: {known[name]} instead of {declared[name]}" for name in known if known[name] != declared[name]]
    expected = ", ".join(f"{name} {version}" for name, version in sorted(declared.items()))
    if wrong:
        return Finding("invalid", "; ".join(wrong), expected, "make the engine's environment again, and measure again")
    unknown = sorted(set(declared) - set(known))
    if unknown:
        return Finding("caution", f"not known: {', '.join(unknown)}", expected, "see the fingerprint in trial.json")
    return Finding("ok", "the same", expected)


def _expert_load_of_layers(inputs: CellInputs) -> Finding | None:
    if not inputs.server_delta.get("expert_load_most"):
        return None
    installed = inputs.installed_versions.get("vllm")
    expected = f"vLLM {_LOADS_OF_GPUS} or later, whose log has the load of the GPUs that share the experts"
    if installed is not None and Version(installed) >= Version(_LOADS_OF_GPUS):
        return Finding("ok", f"vLLM {installed}", expected)
    return Finding(
        "caution",
        "a vLLM of a version that is not known" if installed is None else f"vLLM {installed}",
        expected,
        "expert_imbalance_logged may be of the layers, GPU by GPU: do not take it for how evenly the GPUs are loaded",
    )


def _not_warmed_up(inputs: CellInputs) -> Finding | None:
    if inputs.warmup_steady is None:
        return None
    expected = "the last two windows of the warm-up agree"
    if inputs.warmup_steady:
        return Finding("ok", "they agree", expected)
    return Finding(
        "caution", "they do not", expected, "the first requests may still have met compilation: compare the replicates"
    )


CONDITION_CHECKS: Final = (
    Check("saturated", "Did the server keep up with the offered rate?", _saturated),
    Check(
        "saturation_not_judged",
        "Does the workload let it be judged whether the server keeps up?",
        _saturation_not_judged,
        kept=(),
    ),
    Check(
        "window_short",
        "Did requests come for long enough to fill the server as the rate does?",
        _window_short,
        kept=("requests",),
    ),
    Check(
        "search_not_settled",
        "Is the highest rate known to the precision that was asked for?",
        _search_not_settled,
        kept=(),
    ),
    Check("cache_state_wrong", "Was the cache in the stated state?", _cache_state),
    Check("foreign_cache_hits", "Were all cache hits from prompts of this phase?", _foreign_cache_hits),
    Check("few_cache_hits", "Did the cache hold what the workload shares?", _few_cache_hits),
    Check("setting_not_taken", "Did the intended settings take effect?", _setting_not_taken),
    Check("versions_differ", "Is installed what the identity says?", _versions_differ),
    Check("expert_load_of_layers", "Does the log tell the experts' load by GPU?", _expert_load_of_layers, kept=()),
    Check("not_warmed_up", "Was the server steady before the phase?", _not_warmed_up),
)
