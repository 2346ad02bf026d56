"""What is held against a twin: that it was broken off, or recorded under other conditions than another twin, or a measured cell.

A twin is one run: no spread of replicates holds what another machine, driver or version does to it.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from leverlab.aggregate.conditions import differing_conditions, named_conditions
from leverlab.records import Reason
from leverlab.report.marked import words
from leverlab.report.phrases import joined
from leverlab.report.profiled import Profiled
from leverlab.report.source import StudyData
from leverlab.report.view import Mark

OTHER_CONDITIONS: Final = Mark("!", "other conditions", "caution")
IN_PART: Final = Mark("!", "recorded in part", "caution")
BOTH: Final = Mark("!", "other conditions, recorded in part", "caution")


def between_twins(baseline: Profiled, treatment: Profiled) -> str:
    """The conditions in which the recordings of two twins differ, for a sentence; empty where they do not."""
    return _named(differing_conditions([baseline.taken], [treatment.taken]))


def in_part(partial: Reason | None) -> list[str]:
    """Why there is a part alone, as a clause for a mark; none where all is there."""
    return [] if partial is None else [f"recorded in part: {words(partial.code)}"]


def parts_of_twins(baseline: Profiled, treatment: Profiled) -> Iterator[str]:
    """Clauses for a mark behind what two twins say together, of which one or both are a part."""
    old, new = in_part(baseline.partial), in_part(treatment.partial)
    if old and old == new:
        yield f"both twins were {old[0]}"
        return
    yield from (
        f"the {name}'s twin was {said}" for name, own in (("baseline", old), ("treatment", new)) for said in own
    )


def from_its_cell(twin: Profiled) -> str:
    """The same of a twin and the measured cell beside it; empty where that tells nothing that the twin is held against."""
    if twin.measured_tpot_s is None and twin.measured_gap_s is None:
        return ""
    return _named(differing_conditions([twin.cell], [twin.taken]))


def doubts_beside_cells(baseline: Profiled, treatment: Profiled) -> Iterator[str]:
    """What is held against measured values that stand beside two twins: clauses for a mark."""
    if cells := _named(differing_conditions([baseline.cell], [treatment.cell])):
        yield f"its cells were not measured under the same conditions: {cells}"
    apart = {
        name: found
        for name, twin in (("baseline", baseline), ("treatment", treatment))
        if (found := from_its_cell(twin))
    }
    if len(set(apart.values())) == 1 < len(apart):
        yield f"not measured under the conditions of the twins: {next(iter(apart.values()))}"
        return
    yield from (f"not measured under the conditions of the {name}'s twin: {found}" for name, found in apart.items())


def baseline_of(data: StudyData, twins: Iterable[Profiled]) -> Profiled | None:
    """The baseline's twin among those of one place; of several engine servers the first, as all were recorded together."""
    first = next(iter(data.treatments))
    return next((twin for twin in twins if twin.treatment == first), None)


def figure_mark(baseline: Profiled | None, twins: Iterable[tuple[str, Profiled]]) -> str:
    """For the end of a caption: which of the (label, twin) that it shows were recorded otherwise than the baseline's; empty where none was."""
    found: dict[str, list[str]] = {}
    for label, twin in twins:
        if baseline is not None and (conditions := between_twins(baseline, twin)):
            found.setdefault(conditions, []).append(label)
    if not found:
        return ""
    whose = "; ".join(f"{joined(labels)} ({conditions})" for conditions, labels in found.items())
    return f" Marked: recorded under other conditions than the baseline's: {whose}. What differs may come from these and not from the lever."


def parts_mark(twins: Iterable[tuple[str, Profiled]]) -> str:
    """For the end of a caption: which of the (label, twin) that it shows are a part, and why; empty where all are whole."""
    told = [f"{label} ({words(twin.partial.code)})" for label, twin in twins if twin.partial is not None]
    return f" Marked: recorded in part: {joined(told)}." if told else ""


def _named(differing: Iterator[str]) -> str:
    return named_conditions(dict.fromkeys(differing, ""))
