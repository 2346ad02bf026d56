"""Rows of saturation.parquet: up to which rate each treatment keeps up, from the rows of cells.parquet."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leverlab.aggregate.pairing import CONTEXT, CellRow
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.treatments import BASELINE
from leverlab.stats.knee import Knee, Point, knee, saturation
from leverlab.stats.paired import paired_change


def saturation_rows(cells: Sequence[CellRow]) -> Iterator[dict[str, Any]]:
    """A row a context and treatment, in the order of the cells; `ratio` pairs the capacities of the same replicates."""
    sweeps: dict[tuple[Any, ...], dict[str, list[Point]]] = {}
    for row in cells:
        if row["load_kind"] != "rate" or row["status"] != "measured" or row["checks"] == "invalid":
            continue
        if row["beyond_knee"] is None or not row["offered_rate"] or not row["achieved_rate"]:
            continue
        place = (*(row[name] for name in CONTEXT), row["treatment"])
        replicate = ReplicateKey.parse(row["replicate"]).seed_key
        point = Point(row["offered_rate"], row["achieved_rate"], row["beyond_knee"])
        sweeps.setdefault(place, {}).setdefault(replicate, []).append(point)
    knees = {
        place: {replicate: found for replicate, points in own.items() if (found := knee(points)) is not None}
        for place, own in sweeps.items()
    }
    for place, own in knees.items():
        together = saturation(list(own.values()))
        if together is None:
            continue
        interval = together.interval
        yield {
            **dict(zip((*CONTEXT, "treatment"), place, strict=True)),
            "place": together.place,
            "low": together.low,
            "high": together.high,
            "capacity": together.capacity,
            "capacity_low": interval.low if interval else None,
            "capacity_high": interval.high if interval else None,
            "replicates": together.replicates,
            **_ratio(knees.get((*place[:-1], BASELINE), {}), own, place[-1]),
        }


def _ratio(baseline: Mapping[str, Knee], treatment: Mapping[str, Knee], name: str) -> dict[str, float | None]:
    pairs = [
        (before, after)
        for replicate, knee_after in treatment.items()
        if replicate in baseline
        and (before := baseline[replicate].capacity) is not None
        and (after := knee_after.capacity) is not None
    ]
    if name == BASELINE or not pairs:
        return {}
    change = paired_change([before for before, _ in pairs], [after for _, after in pairs], "ratio")
    interval = change.interval()
    return {
        "ratio": change.estimate,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
    }
