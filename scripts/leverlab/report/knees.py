"""Where each treatment stops to keep up with the rate that is offered."""

from collections.abc import Mapping
from typing import Any, Final

from leverlab.report.marked import codes_of
from leverlab.report.phrases import context_phrase, value_phrase
from leverlab.report.source import StudyData, rows_of
from leverlab.report.view import Cell, Column, Group, Row, Table

_WHERE: Final = {
    "above": "above {low}, the highest that was offered",
    "below": "below {high}, the lowest that was offered",
    "within": "between {low} and {high}",
}

_ALL_KEPT: Final = "some replicates kept up with all that was offered"
_NONE_KEPT: Final = "some replicates kept up with nothing that was offered"

_SATURATED: Final = "saturated"

_WHY_NOT: Final = "requests wait for one another"


def knee_table(data: StudyData) -> Table | None:
    """A row a treatment; None where the study has fewer than two finite rates."""
    rates = {row["load"] for _, row in data.cells.iterrows() if row["load_kind"] == "rate"}
    if len(rates) < 2 or not (data.saturation or not_judged(data)):
        return None
    groups = []
    for context in data.contexts:
        own = [row for row in data.saturation if context_of(row) == context]
        title = context_phrase(*context) if len(data.contexts) > 1 else ""
        rows = [_row(data, row) for row in own]
        rows += [_not_judged_row(data, treatment) for *place, treatment in not_judged(data) if tuple(place) == context]
        groups.append(Group(tuple(rows), title))
    columns = (
        Column("Treatment"),
        Column("Keeps up until", "prose"),
        Column("Capacity (95 % interval)", "number"),
        Column("÷ baseline", "number"),
        Column("Replicates", "number"),
    )
    note = (
        "A rate is beyond the knee where less than nine tenths of what arrives is finished and those who come last wait for it, or where both the "
        "queue and the waiting grow for as long as requests come. Rates are those that arrived, which differ by replicate. The capacity is what was "
        "finished a second beyond the knee."
    )
    return Table("knees", "Where each treatment stops to keep up", columns, tuple(groups), note)


def otherwise_marked(data: StudyData) -> str:
    """What is said of valid cells whose check `saturated`, made when they were measured, tells other than today's rule; else empty."""
    known = [row for row in rows_of(data.cells) if row["beyond_knee"] in (True, False) and row["checks"] != "invalid"]
    count = sum((_SATURATED in codes_of(row)) != bool(row["beyond_knee"]) for row in known)
    if not count:
        return ""
    return (
        f"In {count} {'cell' if count == 1 else 'cells'} the check `{_SATURATED}` says other than today's rule: it was made when they were measured, "
        "by the rule of that day. Where this page says up to which rate a server keeps up, it goes by today's."
    )


def knee_sentence(data: StudyData, row: Mapping[str, Any]) -> str:
    """The same of one treatment as a sentence."""
    where = f" ({context_phrase(*context_of(row))})" if len(data.contexts) > 1 else ""
    replicates = "1 replicate" if row["replicates"] == 1 else f"{row['replicates']} replicates"
    capacity = ""
    if row["capacity"] is not None:
        shown = _with_interval(
            value_phrase("achieved_rate", row["capacity"]), row["capacity_low"], row["capacity_high"]
        )
        capacity = f" Beyond that it finishes {shown}."
    return f"{data.label(row['treatment'])}{where}: keeps up until {_until(row)}, in {replicates}.{capacity}"


def _until(row: Mapping[str, Any]) -> str:
    """Between which rates, of those that were offered, the knee lies in all replicates."""
    low, high = (value_phrase("achieved_rate", row[name]) for name in ("low", "high"))
    if row["place"] != "mixed":
        return _WHERE[row["place"]].format(low=low, high=high)
    if row["low"] is not None:
        return f"above {low}, and {_ALL_KEPT}"
    if row["high"] is not None:
        return f"below {high}, and {_NONE_KEPT}"
    return f"no rate that holds for all: {_ALL_KEPT}, others with nothing"


def not_judged_sentence(data: StudyData, place: tuple[str, str, str, int, str]) -> str:
    """What is said of a treatment (a context and its name) whose load does not let it be judged."""
    where = f" ({context_phrase(*place[:4])})" if len(data.contexts) > 1 else ""
    return f"Not answered for {data.label(place[4])}{where}: {_WHY_NOT}, so that a slow server is asked less."


def not_judged(data: StudyData) -> list[tuple[str, str, str, int, str]]:
    """Context and treatment of cells at a rate of which it cannot be judged whether the server keeps up, each once."""
    marked = (row for row in rows_of(data.cells) if "saturation_not_judged" in codes_of(row))
    return list(dict.fromkeys((*context_of(row), row["treatment"]) for row in marked))


def _row(data: StudyData, row: Mapping[str, Any]) -> Row:
    return Row(
        (
            Cell(data.label(row["treatment"])),
            Cell(_until(row)),
            Cell(
                _with_interval(
                    value_phrase("achieved_rate", row["capacity"]), row["capacity_low"], row["capacity_high"]
                )
            ),
            Cell(
                _with_interval(
                    "–" if row["ratio"] is None else f"×{row['ratio']:.2f}", row["ratio_low"], row["ratio_high"]
                )
            ),
            Cell(str(row["replicates"])),
        )
    )


def _not_judged_row(data: StudyData, treatment: str) -> Row:
    return Row((Cell(data.label(treatment)), Cell(f"not judged: {_WHY_NOT}"), Cell("–"), Cell("–"), Cell("–")))


def _with_interval(text: str, low: float | None, high: float | None) -> str:
    return text if low is None or high is None else f"{text} ({low:.3g} to {high:.3g})"


def context_of(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """Engine, model, GPU and number of GPUs of a row of saturation.parquet."""
    return (row["engine"], row["model"], row["gpu"], row["gpu_count"])
