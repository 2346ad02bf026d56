"""What is held against a twin: that it was broken off, or recorded under other conditions than another twin, or a measured cell.

A twin is one run: no spread of replicates holds what another machine, driver or version does to it, or another GPU.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from leverlab.aggregate.conditions import another_gpu, differing_conditions, named_conditions
from leverlab.aggregate.pairing import CellRow
from leverlab.records import Reason
from leverlab.report.marked import words
from leverlab.report.phrases import joined
from leverlab.report.profiled import Profiled
from leverlab.report.source import StudyData
from leverlab.report.view import Mark

IN_PART: Final = "recorded in part"


@dataclass(frozen=True, slots=True)
class Apart:
    """In what two runs differ besides what is compared; false where they do not, as far as is known."""

    conditions: str = ""
    """For a sentence; empty where none differs."""
    gpu: str = ""
    """`another GPU of the same host`, which says less; empty where it was the same, or another machine's."""

    def __bool__(self) -> bool:
        return bool(self.conditions or self.gpu)

    @property
    def named(self) -> str:
        """All of it."""
        return ", ".join(part for part in (self.conditions, self.gpu) if part)

    @property
    def word(self) -> str:
        """For a mark in a table; empty where nothing differs."""
        return "other conditions" if self.conditions else "another GPU" if self.gpu else ""


def caution(*words: str) -> Mark | None:
    """A mark of those words that are none empty."""
    told = ", ".join(word for word in words if word)
    return Mark("!", told, "caution") if told else None


def between_twins(baseline: Profiled, treatment: Profiled) -> Apart:
    """In what the recordings of two twins differ."""
    return _apart(baseline.taken, treatment.taken)


def doubts_of_twins(baseline: Profiled, treatment: Profiled, *, in_short: bool = False) -> Iterator[str]:
    """Clauses for a mark behind what two twins say together; `in_short` without the names of the conditions."""
    apart = between_twins(baseline, treatment)
    if apart.conditions:
        yield (
            "its twins were recorded under other conditions"
            if in_short
            else f"the twins were not recorded under the same conditions: {apart.named}"
        )
    elif apart.gpu:
        yield f"one of {'its' if in_short else 'the'} twins ran on {apart.gpu}"
    yield from parts_of_twins(baseline, treatment)


def in_part(partial: Reason | None) -> list[str]:
    """Why there is a part alone, as a clause for a mark; none where all is there."""
    return [] if partial is None else [f"{IN_PART}: {words(partial.code)}"]


def parts_of_twins(baseline: Profiled, treatment: Profiled) -> Iterator[str]:
    """Clauses for a mark behind what two twins say together, of which one or both are a part."""
    old, new = in_part(baseline.partial), in_part(treatment.partial)
    if old and old == new:
        yield f"both twins were {old[0]}"
        return
    yield from (
        f"the {name}'s twin was {said}" for name, own in (("baseline", old), ("treatment", new)) for said in own
    )


def from_its_cell(twin: Profiled) -> Apart:
    """In what a twin and the measured cell beside it differ; nothing where that tells nothing that the twin is held against."""
    if twin.measured_tpot_s is None and twin.measured_gap_s is None:
        return Apart()
    return _apart(twin.cell, twin.taken)


def doubts_beside_cells(baseline: Profiled, treatment: Profiled) -> Iterator[str]:
    """What is held against measured values that stand beside two twins: clauses for a mark."""
    cells = _apart(baseline.cell, treatment.cell)
    if cells.conditions:
        yield f"its cells were not measured under the same conditions: {cells.named}"
    elif cells.gpu:
        yield f"one of its cells was measured on {cells.gpu}"
    apart = {
        name: found
        for name, twin in (("baseline", baseline), ("treatment", treatment))
        if (found := from_its_cell(twin))
    }
    if len(set(apart.values())) == 1 < len(apart):
        yield _beside(next(iter(apart.values())), "the twins")
        return
    yield from (_beside(found, f"the {name}'s twin") for name, found in apart.items())


def _beside(found: Apart, whose: str) -> str:
    if found.conditions:
        return f"not measured under the conditions of {whose}: {found.named}"
    return f"measured on {found.gpu} than {whose}"


def baseline_of(data: StudyData, twins: Iterable[Profiled]) -> Profiled | None:
    """The baseline's twin among those of one place; of several engine servers the first, as all were recorded together."""
    first = next(iter(data.treatments))
    return next((twin for twin in twins if twin.treatment == first), None)


def figure_marks(baseline: Profiled | None, twins: Iterable[tuple[str, Profiled]]) -> tuple[str, str]:
    """For the end of a caption: which of the (label, twin) that it shows were recorded otherwise than the baseline's, and that some were,
    where the table says which; both empty where none was."""
    found: dict[Apart, list[str]] = {}
    for label, twin in twins:
        if baseline is not None and (apart := between_twins(baseline, twin)):
            found.setdefault(apart, []).append(label)
    if not found:
        return "", ""
    conditions = [f"{joined(labels)} ({apart.named})" for apart, labels in found.items() if apart.conditions]
    told = [f"recorded under other conditions than the baseline's: {'; '.join(conditions)}"] if conditions else []
    told += [
        f"recorded on {apart.gpu} than the baseline's: {joined(labels)}"
        for apart, labels in found.items()
        if not apart.conditions
    ]
    from_these = f"What differs may come from {'these' if conditions else 'that'} and not from the lever."
    not_alike = "under the same conditions" if conditions else "on the same GPU"
    return (
        f" Marked: {'; '.join(told)}. {from_these}",
        f" Marked: not all of them were recorded {not_alike}, as the table below says.",
    )


def parts_mark(twins: Iterable[tuple[str, Profiled]]) -> str:
    """For the end of a caption: which of the (label, twin) that it shows are a part, and why; empty where all are whole."""
    told = [f"{label} ({words(twin.partial.code)})" for label, twin in twins if twin.partial is not None]
    return f" Marked: recorded in part: {joined(told)}." if told else ""


def _apart(one: CellRow, other: CellRow) -> Apart:
    differing = dict.fromkeys(differing_conditions([one], [other]), "")
    return Apart(named_conditions(differing), another_gpu(one, other))
