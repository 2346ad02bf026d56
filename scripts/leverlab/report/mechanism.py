"""What a lever changed in the kernels, in words: sentences from two twins, which turn round where the two are exchanged."""

from collections.abc import Iterator, Sequence
from typing import Final

from leverlab.profile.analysis import IDLE_CAUSES
from leverlab.report.doubts import mark_phrase
from leverlab.report.kernel_words import KERNEL_WORDS
from leverlab.report.layer_parts import layer_sentence
from leverlab.report.peer_copies import peer_changes
from leverlab.report.phrases import joined
from leverlab.report.profiled import Profiled, Recorded
from leverlab.report.twin_conditions import doubts_beside_cells, doubts_of_twins
from leverlab.units import format_number, format_seconds, format_share

_TELLING: Final = 0.05
"""Share of a step, or of a count, from which a change is told."""


def mechanism(baseline: Profiled, treatment: Profiled, label: str) -> str:
    """What `treatment`, called `label`, does in the kernels against `baseline`. Empty where one of them recorded nothing."""
    before, after = baseline.recorded, treatment.recorded
    if before is None or after is None:
        return ""
    parts = [
        *_launches(before, after),
        *_idle(before, after),
        *_prompts(before, after),
        *_step(before, after),
        *peer_changes(before, after, _TELLING),
        *_measured(baseline, treatment),
    ]
    told = "; ".join(parts) if parts else "no count and no share of time differs by a twentieth"
    doubts = list(doubts_of_twins(baseline, treatment))
    return f"{label}{mark_phrase(doubts)}: {told}.{_where(before, after)}"


def change_in_short(baseline: Profiled, treatment: Profiled, label: str) -> str:
    """How much longer or shorter the steps of `treatment` are than those of `baseline`, and what makes up most of it."""
    before, after = baseline.recorded, treatment.recorded
    if before is None or after is None:
        return ""
    told = [f"a {part}" for part in _step(before, after) if _moved(before.step_s, after.step_s)]
    told += [*_prompt_step(before, after)]
    doubts = list(doubts_of_twins(baseline, treatment, in_short=True))
    return (
        f"{label}{mark_phrase(doubts)}: {'; '.join(told) or 'no step differs by a twentieth'}.{_where(before, after)}"
    )


def _launches(before: Recorded, after: Recorded) -> Iterator[str]:
    if before.step is None or after.step is None:
        return
    for name, old, new in (
        ("kernel launches", before.step.kernel_launches, after.step.kernel_launches),
        ("graph launches", before.step.graph_launches, after.step.graph_launches),
        ("kernels", before.step.kernels, after.step.kernels),
        ("communication kernels", before.step.communication_kernels, after.step.communication_kernels),
    ):
        if abs(new - old) > _TELLING * max(old, new):
            yield f"{name} per decode step {format_number(old)} → {format_number(new)}"
    old_s, new_s = before.step.communication_s, after.step.communication_s
    if abs(new_s - old_s) > _TELLING * max(old_s, new_s):
        yield f"communication takes {format_seconds(old_s)} → {format_seconds(new_s)} of a decode step"
    old_s, new_s = before.step.launch_calls_s, after.step.launch_calls_s
    if abs(new_s - old_s) > _TELLING * max(old_s, new_s):
        yield f"the CPU's time in the calls that launch {format_seconds(old_s)} → {format_seconds(new_s)}"


def _idle(before: Recorded, after: Recorded) -> Iterator[str]:
    old, new = before.idle_share, after.idle_share
    if abs(new - old) >= _TELLING / 5:
        yield f"idle {format_share(old)} → {format_share(new)} of the window"


def _prompts(before: Recorded, after: Recorded) -> Iterator[str]:
    old, new = before.phase_share("prefill", "mixed"), after.phase_share("prefill", "mixed")
    if abs(new - old) >= _TELLING:
        yield f"steps that compute prompts take {format_share(old)} → {format_share(new)} of the time in which something runs"
    yield from _prompt_step(before, after)


def _prompt_step(before: Recorded, after: Recorded) -> Iterator[str]:
    old_s, new_s = sum(before.prompt_step_s().values()), sum(after.prompt_step_s().values())
    if _moved(old_s, new_s):
        yield f"a step that computes prompts {format_seconds(old_s)} → {format_seconds(new_s)}"


def _moved(old_s: float | None, new_s: float | None) -> bool:
    return bool(old_s and new_s) and abs((new_s or 0) - (old_s or 0)) > _TELLING * max(old_s or 0, new_s or 0)


def _step(before: Recorded, after: Recorded) -> Iterator[str]:
    old, new = before.step_s, after.step_s
    if old is not None and new is not None:
        yield f"decode step {format_seconds(old)} → {format_seconds(new)}"


def _measured(baseline: Profiled, treatment: Profiled) -> Iterator[str]:
    old, new = baseline.measured_tpot_s, treatment.measured_tpot_s
    if old is not None and new is not None:
        doubts = list(doubts_beside_cells(baseline, treatment))
        yield f"measured without a profiler, TPOT {format_seconds(old)} → {format_seconds(new)}{mark_phrase(doubts)}"


def _where(before: Recorded, after: Recorded) -> str:
    """Which parts of a step make up its change."""
    if before.step is None or after.step is None:
        return ""
    old, new = before.parts_s(), after.parts_s()
    change = sum(new.values()) - sum(old.values())
    by_part = {name: new.get(name, 0.0) - old.get(name, 0.0) for name in {**old, **new}}
    same_way = sorted(
        (name for name, part in by_part.items() if part * change > 0 and abs(part) >= _TELLING * abs(change)),
        key=lambda name: -abs(by_part[name]),
    )
    if not same_way or abs(change) < _TELLING * max(sum(old.values()), sum(new.values())):
        return ""
    most, *more = [(format_seconds(abs(by_part[name])), KERNEL_WORDS[name]) for name in same_way[:3]]
    named = joined([f"{most[0]} are {most[1]}", *(f"{seconds} {words}" for seconds, words in more)])
    against = [name for name, part in by_part.items() if part * change < 0 and abs(part) >= _TELLING * abs(change)]
    other = (
        f"; against it stand {joined([f'{format_seconds(abs(by_part[n]))} {KERNEL_WORDS[n]}' for n in against])}"
        if against
        else ""
    )
    return (
        f" Of the {format_seconds(abs(change))} that a step takes {'longer' if change > 0 else 'less'}, {named}{other}."
    )


def anatomy(twin: Profiled, label: str) -> str:
    """What a step of one twin is made of, in a sentence. Empty where it recorded nothing."""
    found = twin.recorded
    if found is None:
        return ""
    parts = sorted(found.parts_s().items(), key=lambda item: -item[1])
    whole = sum(seconds for _, seconds in parts)
    shares = _shares(parts, whole)
    what = f"a decode step of {format_seconds(whole)}" if found.step is not None else "the window"
    causes = [
        f"{IDLE_CAUSES[name]} for {format_share(share)}" for name, share in found.idle_causes.items() if share >= 0.01
    ]
    waited = f" Nothing ran in {format_share(found.idle_share)} of the window: {joined(causes)}." if causes else ""
    if found.step is None and found.prompt_step_s():
        if waited and not found.decodes:
            waited = f"{waited[:-1]}; the time in which no request was there to be computed is in that."
        return f"{label}: {_prompts_alone(found)}{waited}"
    return f"{label}: {what} is {joined(shares)}.{_communication(found)}{layer_sentence(found)}{waited}{_weights(twin, found)}"


def _prompts_alone(found: Recorded) -> str:
    """Of a server without a step that only decodes: what its steps are made of."""
    parts = sorted(found.prompt_step_s().items(), key=lambda item: -item[1])
    busy_s = sum(seconds for _, seconds in parts)
    tokens = "" if found.prompt_tokens is None else f" (median {format_number(found.prompt_tokens)} tokens)"
    decodes = "each of its steps computes prompts" if found.decodes else "none of its steps decodes"
    return (
        f"{decodes}. A step that computes prompts{tokens} keeps the GPU busy for {format_seconds(busy_s)}, of which "
        f"{joined(_shares(parts, busy_s))}."
    )


def _shares(parts: Sequence[tuple[str, float]], whole: float) -> list[str]:
    """The share of each part of the whole, but for those under 1 %."""
    return [
        f"{format_share(seconds / whole)} {KERNEL_WORDS[name]}" for name, seconds in parts if seconds / whole >= 0.01
    ]


def _communication(found: Recorded) -> str:
    """How many kernels of a decode step talk to other GPUs, how long, and what of that stands beside nothing else."""
    step = found.step
    if step is None or not step.communication_kernels:
        return ""
    alone_s = step.class_s.get("communication", 0.0)
    waited_s = step.communication_wait_s
    waited = "" if waited_s is None else f", {format_seconds(waited_s)} of it waiting for another GPU"
    whole_s = found.step_s or sum(step.class_s.values())
    return (
        f" Its {format_number(step.communication_kernels)} communication kernels take {format_seconds(step.communication_s)} together{waited}, "
        f"{format_seconds(step.communication_s / step.communication_kernels)} each; {format_share(alone_s / whole_s)} of the step is communication beside "
        "nothing else."
    )


def _weights(twin: Profiled, found: Recorded) -> str:
    """How near the matrix products of a decode step come to the memory's bandwidth: all that they must do is read the weights."""
    floor_s = twin.record.step_floor_s if twin.record else None
    products_s = found.step.class_s.get("gemm", 0.0) if found.step is not None else 0.0
    if not floor_s or not products_s:
        return ""
    return f" The weights alone take {format_seconds(floor_s)} at the memory's bandwidth: matrix products reach {format_share(floor_s / products_s)} of it."
