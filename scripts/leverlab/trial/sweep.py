"""A sweep of rates that stops when the server is saturated: from the lowest up, and none above the first that is too much."""

from collections.abc import Sequence

from leverlab.checks import read_checks
from leverlab.identity import canonical_json
from leverlab.layout import Layout
from leverlab.load_point import LoadPoint
from leverlab.records import JobSpecification, PhaseSpecification, Reason
from leverlab.trial.cell_files import CHECKS_FILE

SATURATED = "saturated"
"""The check that says that a server does not keep up with a rate."""


def ascending(drawn: Sequence[PhaseSpecification]) -> list[PhaseSpecification]:
    """`drawn` with the rates of each sweep that stops when saturated in ascending order, in the places that they have."""
    sweeps: dict[str, list[PhaseSpecification]] = {}
    for wanted in drawn:
        if wanted.stop_after_saturation:
            sweeps.setdefault(_sweep(wanted), []).append(wanted)
    following = {name: iter(sorted(members, key=_rate)) for name, members in sweeps.items()}
    return [next(following[_sweep(wanted)]) if wanted.stop_after_saturation else wanted for wanted in drawn]


def too_much(wanted: PhaseSpecification, specification: JobSpecification, layout: Layout) -> Reason | None:
    """Why `wanted` is left out: the server did not keep up with a lower rate of its sweep. None where it is to be measured."""
    if not wanted.stop_after_saturation:
        return None
    lower = (
        other
        for other in specification.cells
        if other.stop_after_saturation and _sweep(other) == _sweep(wanted) and _rate(other) < _rate(wanted)
    )
    for other in sorted(lower, key=_rate):
        path = layout.cell(specification.server, specification.replicate, other.phase) / CHECKS_FILE
        try:
            checks = read_checks(path).checks
        except (OSError, ValueError):
            continue  # not measured, or damaged: it says nothing of the server
        if any(check.code == SATURATED and check.severity != "ok" for check in checks):
            return Reason(
                code="beyond_knee",
                message=f"left out: the server did not keep up with {LoadPoint(**other.identity['load'])}, and the study stops "
                "after saturation",
            )
    return None


def _sweep(wanted: PhaseSpecification) -> str:
    """What the phases of a sweep have in common: all but the load, and how many requests it takes to offer that for long enough."""
    identity = {key: value for key, value in wanted.identity.items() if key != "load"}
    drawn = {key: value for key, value in identity["workload"].items() if key != "id"}
    drawn["workload"] = {key: value for key, value in drawn["workload"].items() if key != "requests"}
    return canonical_json({**identity, "workload": drawn})


def _rate(wanted: PhaseSpecification) -> float:
    return float(wanted.identity["load"]["value"])
