"""Where a study ran: what all of its cells have in common, and what differs between them."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median
from typing import Any, Final

import pandas as pd

from leverlab.records import SamplingCost, cards_of, flattened_provenance, short_name
from leverlab.report.phrases import joined
from leverlab.report.source import StudyData, rows_of
from leverlab.report.view import Cell, Column, Group, Row, Table, plain_table
from leverlab.units import format_number, format_seconds, format_share

_UNKNOWN: Final = "unknown"
_DIFFERENCES: Final = 40
_MOST_NAMED: Final = 8

_MOMENTARY: Final = ("gpu.*.temperature_c", "gpu.*.sm_clock_hz", "gpu.*.memory_clock_hz", "gpu.*.throttle")
"""What a GPU was doing at the moment in which it was asked; what it did while it was measured is in gpu.parquet and the checks."""

_SAMPLED: Final = {"gpu": "GPUs (NVML)", "host": "the host", "server_metrics": "the server's counters"}

_FACTS: Final[tuple[tuple[str, str, Callable[[str, str], str]], ...]] = (
    ("Machine", "node.hostname", lambda _, value: value),
    ("Machine", "node.system", lambda _, value: value),
    ("Machine", "node.kernel", lambda _, value: f"kernel {value}"),
    ("Machine", "node.container", lambda _, value: "" if value == "none" else f"in {value}"),
    ("CPU", "cpu.model", lambda _, value: value),
    ("CPU", "cpu.logical", lambda _, value: f"{value} logical cores"),
    ("CPU", "memory.total_bytes", lambda _, value: f"{format_number(float(value) / 2**30)} GiB of memory"),
    ("CPU", "cpu.governor", lambda _, value: f"governor {value}"),
    ("GPU", "gpu.*.name", lambda _, value: value),
    ("GPU", "gpu.*.memory_bytes", lambda _, value: f"{format_number(float(value) / 2**30)} GiB"),
    ("GPU", "gpu.*.power_limit_w", lambda _, value: f"limit {format_number(float(value))} W"),
    ("GPU", "gpu.*.sm_clock_most_hz", lambda _, value: f"at most {format_number(float(value) / 1e6)} MHz"),
    ("GPU", "gpu.*.mig", lambda _, value: "MIG on" if value == "True" else "no MIG"),
    ("GPU", "gpu.driver", lambda _, value: f"driver {value}"),
    ("Slurm", "slurm.", lambda key, value: f"{key} {value}"),
    ("Versions", "versions.", lambda key, value: f"{key} {value}"),
    ("Source", "git.commit", lambda _, value: f"commit {value[:12]}"),
    ("Source", "git.dirty", lambda _, value: "with uncommitted changes" if value == "True" else "nothing uncommitted"),
    ("Source", "leverlab.version", lambda _, value: f"leverlab {value}"),
    ("Source", "leverlab.measurement_version", lambda _, value: f"measurement version {value}"),
)
"""Heading, key of the fingerprint (a pattern; all keys below it, where it ends in a dot), and how the value is told."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """`facts` are the same in every cell; `differences` are not; `rest` is all that was recorded besides."""

    facts: list[tuple[str, str]]
    agreement: str
    differences: Table | None
    rest: Table | None


def provenance(data: StudyData) -> Provenance:
    """What the measured cells recorded of the nodes they ran on (`leverlab.trial.fingerprint`)."""
    measured = data.cells[(data.cells["status"] == "measured") & data.cells["provenance"].notna()]
    recorded = [(row, flattened_provenance(json.loads(row["provenance"]))) for row in rows_of(measured)]
    if not recorded:
        return Provenance([], "", None, None)
    values: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    keys = dict.fromkeys(key for _, flat in recorded for key in flat)
    for row, flat in recorded:
        for key in keys:
            values[key][flat.get(key, _UNKNOWN)].append(row)
    same = {key: next(iter(found)) for key, found in values.items() if len(found) == 1}
    differing = {
        key: found
        for key, found in values.items()
        if len(found) > 1 and not _by_nature(len(found), len(recorded)) and not _is_momentary(key)
    }
    facts, shown = _facts(same)
    if places := _places([flat for _, flat in recorded]):
        facts.append(("Ran on", places))
    facts.append(("Measured", _dates(sorted(row["started_at"] for row, _ in recorded if row["started_at"]))))
    if sampled := _sampling(data, [row for row, _ in recorded]):
        facts.append(("Sampling", sampled))
    unknown = [_name(key) for key, value in same.items() if value == _UNKNOWN]
    if unknown:
        facts.append(("Not known", joined(unknown)))
    rest = [(_name(key), value) for key, value in same.items() if key not in shown and value != _UNKNOWN]
    agreement = (
        "Nothing that was recorded differs between the cells, temperature, clocks and throttling of the moment left out."
        if len(recorded) > 1
        else "One cell was measured: nothing can differ."
    )
    return Provenance(
        facts, agreement, _difference_table(differing),
        plain_table("provenance-rest", "Recorded in every cell alike", ("What", "Value"), rest) if rest else None,
    )  # fmt: skip


def _places(recorded: Sequence[Mapping[str, str]]) -> str:
    """On which machines and GPUs the cells ran, and how many on each; empty for one machine without GPUs.

    Machines that share a name are told apart by their boots, GPUs by the first digits of their UUIDs.
    """
    machines: dict[tuple[str, str], list[list[str]]] = {}
    for flat in recorded:
        machines.setdefault(_machine(flat), []).append([short_name(card) for card in cards_of(flat)])
    boots = Counter(hostname for hostname, _ in machines)
    said = []
    for (hostname, boot), cells in machines.items():
        told = "not recorded" if boot == _UNKNOWN else boot[:8]
        # Cells of one name without a boot may be of several machines.
        name = f"{hostname} (boot {told})" if boots[hostname] > 1 or boot == _UNKNOWN else hostname
        cards = Counter(card for cell in cells for card in cell)
        if cards:
            counts = [f"{card} in {_cells(count)}" for card, count in cards.most_common()]
            said.append(f"{name}: GPU {', '.join(_first(counts))}")
        elif len(machines) > 1:
            said.append(f"{name} in {_cells(len(cells))}")
    return "; ".join(_first(said))


def machines_phrase(cells: pd.DataFrame) -> str:
    """On how many machines `cells` ran, with a space in front: ` on one machine`, ` over 2 machines`; empty where none tells.

    Two boots of one name may be one machine that was started anew, and cells of one name without a boot may be of several machines.
    """
    told = [json.loads(provenance) for provenance in cells["provenance"].dropna()]
    machines = {_machine(flattened_provenance(one)) for one in told}
    boots = Counter(hostname for hostname, boot in machines if boot != _UNKNOWN)
    unknown = {hostname for hostname, boot in machines if boot == _UNKNOWN}
    least = len({hostname for hostname, _ in machines})
    if not machines or _UNKNOWN in unknown:
        return ""
    if unknown:
        return " on one machine or several of one name" if least == 1 else f" over {least} machines or more"
    if len(machines) == 1:
        return " on one machine"
    return f" over {len(machines)} machines{', or starts of one' if max(boots.values()) > 1 else ''}"


def _machine(flat: Mapping[str, str]) -> tuple[str, str]:
    """Name and boot."""
    return flat.get("node.hostname", _UNKNOWN), flat.get("node.boot_id", _UNKNOWN)


def _first(said: Sequence[str]) -> list[str]:
    """As many as a line holds, and how many there are besides."""
    more = [f"and {len(said) - _MOST_NAMED} more"] if len(said) > _MOST_NAMED else []
    return [*said[:_MOST_NAMED], *more]


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"


def _sampling(data: StudyData, rows: Sequence[Mapping[str, Any]]) -> str:
    """How often what stands beside the measurement looked at GPUs, host and counters, and what that took; empty where no record tells."""
    costs: dict[str, list[SamplingCost]] = {}
    for row in rows:
        record = data.record_of(row)
        for name, cost in (record.sampling if record else {}).items():
            costs.setdefault(name, []).append(cost)
    said = []
    for name, words in _SAMPLED.items():
        own = costs.get(name, [])
        rates = [cost.rate for cost in own if cost.rate is not None]
        shares = [cost.cpu_share for cost in own if cost.cpu_share is not None]
        if own:
            often = f"{format_number(median(rates))} times a second, " if rates else ""
            most = f", {format_share(max(shares), 1)} of a core at most" if shares else ""
            said.append(
                f"{words} {often}{format_seconds(median(cost.look_s_p50 for cost in own))} each (medians), "
                f"{format_seconds(max(cost.look_s_max for cost in own))} at most{most}"
            )
    return "; ".join(said)


def _facts(same: Mapping[str, str]) -> tuple[list[tuple[str, str]], set[str]]:
    said: dict[str, list[str]] = {}
    shown: set[str] = set()
    for heading, wanted, tell in _FACTS:
        for key in same:
            if same[key] != _UNKNOWN and (key.startswith(wanted) if wanted.endswith(".") else fnmatchcase(key, wanted)):
                shown.add(key)
                said.setdefault(heading, []).append(tell(_name(key.removeprefix(wanted)), same[key]))
    return [(heading, ", ".join(filter(None, parts))) for heading, parts in said.items()], shown


def _difference_table(differing: Mapping[str, Mapping[str, list[Mapping[str, Any]]]]) -> Table | None:
    rows = []
    for key, found in list(differing.items())[:_DIFFERENCES]:
        for value, cells in found.items():
            replicates = sorted({str(row["replicate"]) for row in cells})
            rows.append(
                Row(
                    (
                        Cell(_name(key)),
                        Cell(value),
                        Cell(f"{_cells(len(cells))}, {', '.join(replicates)}"),
                    )
                )
            )
    if not rows:
        return None
    columns = (Column("What"), Column("Value", "prose"), Column("Where"))
    note = (
        "A difference that goes with a treatment is part of what was compared; one between replicates widens the intervals. "
        "Temperature, clocks and throttling of the moment are left out."
    )
    return Table("provenance-differences", "What differs between cells", columns, (Group(tuple(rows)),), note)


def _is_momentary(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in _MOMENTARY)


def _by_nature(values: int, cells: int) -> bool:
    """Whether a value differs in most cells, as job numbers do: it says nothing about the cells."""
    return cells > 4 and values > cells / 2


def _name(key: str) -> str:
    return key.replace(".", " ").replace("_", " ")


def _dates(instants: list[str]) -> str:
    ends = dict.fromkeys(f"{instant[:16].replace('T', ' ')} UTC" for instant in (instants[0], instants[-1]))
    return " to ".join(ends)
