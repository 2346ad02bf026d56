"""A workload's card as the report prints it; `leverlab.workloads.card` says what is in one."""

from dataclasses import dataclass
from typing import Any, Final

from leverlab.report.figures.lengths import length_histogram
from leverlab.report.phrases import joined, load_phrase
from leverlab.report.source import StudyData
from leverlab.report.view import Cell, Column, FigureBlock, Group, Row, Table
from leverlab.units import format_number, format_percent

_QUANTILES: Final = ("minimum", "p5", "p25", "p50", "p75", "p95", "p99", "maximum")


@dataclass(frozen=True, slots=True)
class WorkloadCard:
    """One workload, drawn anew for each replicate."""

    title: str
    facts: list[tuple[str, str]]
    lengths: Table
    histograms: FigureBlock


def workload_cards(data: StudyData) -> list[WorkloadCard]:
    """The cards of the study's workloads, those of all replicates of a workload together."""
    by_workload: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for workload, replicate, card in data.workload_cards():
        by_workload.setdefault(workload, []).append((replicate, card))
    offered = _offered(data)
    return [
        _card(workload, number, cards, offered.get(workload, ""))
        for number, (workload, cards) in enumerate(by_workload.items())
    ]


def _offered(data: StudyData) -> dict[str, str]:
    """Workload → the load points at which it is offered; empty where each is offered at all of them."""
    asked = data.cells.dropna(subset=["workload"])
    loads = {str(workload): tuple(dict.fromkeys(own)) for workload, own in asked.groupby("workload")["load"]}
    if len(set(loads.values())) < 2:
        return {}
    return {workload: joined([load_phrase(str(load)) for load in own]) for workload, own in loads.items()}


def _card(workload: str, number: int, cards: list[tuple[str, dict[str, Any]]], offered: str) -> WorkloadCard:
    replicate, first = cards[0]
    declared = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in first["workload"].items() if key != "kind"
    )
    facts = [
        ("Workload", f"{first['workload']['kind']}: {declared}"),
        ("Tokenizer", str(first["tokenizer"])),
        ("Requests", f"{first['requests']:,} a phase, {first['total_tokens']:,} tokens in all ({replicate})"),
        *([("Offered", offered)] if offered else []),
        ("Sharing", _sharing(first)),
        ("Expected prefix-cache hits", _hits(cards)),
        ("Arrivals", f"{first['arrivals']['process']}. {_arrivals(cards)}"),
        ("Seeds", "; ".join(f"{name}: {card['seed']}" for name, card in cards)),
        ("Identifier", workload),
    ]
    columns = (
        Column("Tokens"),
        Column("Mean", "number"),
        *(Column("median" if key == "p50" else key, "number") for key in _QUANTILES),
    )
    rows = []
    for key, title in (("prompt_tokens", "Prompt"), ("output_tokens", "Output")):
        alike = all(card[key] == first[key] for _, card in cards)
        for name, card in cards[:1] if alike else cards:
            values = [Cell(f"{card[key][quantile]:,}") for quantile in _QUANTILES]
            heading = f"{title}, every replicate" if alike else f"{title}, {name}"
            rows.append(Row((Cell(heading), Cell(format_number(card[key]["mean"])), *values)))
    lengths = Table(
        f"lengths-{number}",
        f"Lengths of {workload}",
        columns,
        (Group(tuple(rows)),),
        "All servers of a replicate replay the same requests.",
    )
    drawn = [
        length_histogram(first[key], title, place, f"w{number}-{key}")
        for place, (key, title) in enumerate(
            (("prompt_tokens", "Prompt lengths"), ("output_tokens", "Output lengths")), start=1
        )
    ]
    histograms = FigureBlock(
        tuple(panel for panel in drawn if panel is not None),
        f"whether the lengths are those that you serve: levers act differently on short and long ones. Drawn for replicate {replicate}.",
        "what the texts say: an engine's speed hardly depends on it, but speculation and caches do.",
        "All prompts have the same length, and all outputs too.",
    )
    return WorkloadCard(workload, facts, lengths, histograms)


def _sharing(card: dict[str, Any]) -> str:
    if "sharing" in card:
        return str(card["sharing"])
    sizes = list(card["groups"].values())
    if not sizes:
        return "no prompt was made to begin like another one"
    spread = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    return f"{len(sizes)} groups of {spread} requests begin alike"


def _hits(cards: list[tuple[str, dict[str, Any]]]) -> str:
    """The expected ratio for each block size, a range where the replicates differ."""
    said = []
    for size in cards[0][1]["expected_prefix_hit_ratio"]:
        values = sorted({f"{100 * card['expected_prefix_hit_ratio'][size]:.1f}" for _, card in cards}, key=float)
        told = values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
        said.append(f"{format_percent(told)} with blocks of {size}")
    return f"{joined(said)} tokens, in an infinite cache that is empty at first"


def _arrivals(cards: list[tuple[str, dict[str, Any]]]) -> str:
    return "; ".join(
        f"{name}: mean gap {format_number(card['arrivals']['mean_gap_s'])} s, variation {format_number(card['arrivals']['variation_of_gaps'])}"
        for name, card in cards
    )
