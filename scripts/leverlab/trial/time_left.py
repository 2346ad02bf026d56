"""How long the rest of a trial's phases will take: known at a rate, from other replicates in a burst or a closed loop."""

from collections.abc import Mapping, Sequence

from leverlab.layout import Layout
from leverlab.load.plan import LoadPoint, PlannedRequest
from leverlab.matrix.progress import read_summary
from leverlab.records import PhaseSpecification


class TimeLeft:
    """Estimates for `phases` of one server, in the order in which they are measured."""

    def __init__(
        self,
        layout: Layout,
        server: str,
        phases: Sequence[PhaseSpecification],
        workloads: Mapping[str, Sequence[PlannedRequest]],
    ) -> None:
        self._expected_s = [_expected_s(layout, server, wanted, workloads[wanted.workload_file]) for wanted in phases]

    def seconds(self, position: int, passed_s: float, done: int, of: int) -> float | None:
        """Time left when the phase at `position` has run for `passed_s` and `done` of its `of` requests have ended."""
        rest = self._expected_s[position + 1 :]
        current = self._expected_s[position]
        if current is not None:
            current = max(current - passed_s, 0.0)
        elif done:
            current = passed_s / done * (of - done)
        if current is None or None in rest:
            return None
        return current + sum(seconds for seconds in rest if seconds is not None)


def _expected_s(
    layout: Layout, server: str, wanted: PhaseSpecification, workload: Sequence[PlannedRequest]
) -> float | None:
    load = LoadPoint(**wanted.identity["load"])
    if load.kind == "rate" and load.value:
        return _last_due_s(workload, load.value)
    found = [read_summary(folder) for folder in layout.server(server).glob(f"*/cells/{wanted.phase}")]
    durations = [summary.duration_s for summary in found if summary is not None and summary.status == "measured"]
    return sum(durations) / len(durations) if durations else None


def _last_due_s(workload: Sequence[PlannedRequest], rate: float) -> float:
    """When the last request is due, as if answers took no time; a request waits for one that stands before it in the file."""
    due_s: dict[int, float] = {}
    for request in workload:
        before_s = request.arrival_unit_s / rate if request.after is None else due_s.get(request.after, 0.0)
        due_s[request.index] = before_s + request.pause_s
    return max(due_s.values())
