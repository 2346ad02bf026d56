"""The verdict as a page and as JSON: the sentence first, then the numbers that it rests on."""

from dataclasses import asdict
from typing import Any

from leverlab.aggregate.cell_metrics import Key
from leverlab.report.page import environment, style
from leverlab.report.phrases import context_phrase, joined, load_phrase, metric_heading, metric_phrase, value_phrase
from leverlab.report.view import Cell, Column, Group, Mark, Row, Table, plain_table
from leverlab.reproduce.comparison import MAIN, Compared, Outcome
from leverlab.reproduce.evidence import Evidence, Replicate
from leverlab.reproduce.recorded import server_of

_MARKS = {
    "holds": Mark("✓", "holds", "ok"),
    "does not hold": Mark("✕", "does not hold", "bad"),
    "inside": Mark("✓", "inside", "ok"),
    "outside": Mark("✕", "outside", "bad"),
    "not judgeable": Mark("?", "not judgeable", "caution"),
}


def headline(outcome: Outcome) -> str:
    """The verdict in a sentence, with the numbers."""
    if outcome.verdict == "not judgeable":
        return f"Not judgeable: {outcome.why}."
    judged = [found for found in outcome.main if found.judgement != "not judgeable"]
    outside = [found for found in judged if found.judgement == "outside"]
    count = max(len(found.recorded) for found in judged)
    told = joined([_placed(found) for found in outside or judged])
    sentence = f"by the 95 % prediction interval of {count} replicates, {told}."
    if not outside:
        return f"The number holds: {sentence}"
    inside = len(judged) - len(outside)
    rest = (
        ""
        if inside == 0
        else f" The other {'main metric lies' if inside == 1 else f'{inside} main metrics lie'} inside."
    )
    return f"The number does not hold: {sentence}{rest}"


def _placed(found: Compared) -> str:
    assert found.expected is not None
    low, high = (value_phrase(found.metric, end) for end in (found.expected.low, found.expected.high))
    here = value_phrase(found.metric, found.new)
    return f"{metric_phrase(found.metric, found.statistic)} is {here} (expected {low} to {high})"


def render(evidence: Evidence, number: int, new: Replicate, outcome: Outcome) -> str:
    """The page as HTML, with no outside link."""
    server = server_of(evidence.engine, evidence.specification["server"])
    context = context_phrase(server.engine, server.model, server.gpu, server.gpu_count)
    main = [found for found in outcome.metrics if found.key in MAIN]
    others = [found for found in outcome.metrics if found.key not in MAIN]
    return environment().get_template("verdict.html.j2").render(
        style=style(),
        cell=evidence.cell,
        number=number,
        simulated=evidence.specification["server"]["engine"]["kind"] == "truth",
        context=f"{context}, {load_phrase(str(evidence.load))}, cache {evidence.specification['phase']['cache']}",
        mark=_MARKS[outcome.verdict],
        headline=headline(outcome),
        facts=_facts(evidence, new),
        main=_metric_table("main", "What the verdict rests on", main),
        others=_metric_table("others", "Every other metric", others),
        differences=_difference_table(outcome),
    )  # fmt: skip


def as_mapping(evidence: Evidence, number: int, new: Replicate, outcome: Outcome) -> dict[str, Any]:
    """verdict.json: the same for programs."""
    return {
        "cell": evidence.cell,
        "number": number,
        "verdict": outcome.verdict,
        "sentence": headline(outcome),
        "main": [_name(found.key) for found in outcome.main],
        "replicates": [replicate.name for replicate in evidence.valid],
        "excluded": {one.name: list(one.invalid) for one in evidence.replicates if one.invalid},
        "invalid": list(new.invalid),
        "cautions": list(new.cautions),
        "metrics": {
            _name(found.key): {
                "recorded": list(found.recorded),
                "new": found.new,
                "expected": None if found.expected is None else asdict(found.expected),
                "judgement": found.judgement,
                "reason": found.reason,
            }
            for found in outcome.metrics
        },
        "differences": [asdict(difference) for difference in outcome.differences],
    }


def _name(key: Key) -> str:
    return " ".join(part for part in key if part)


def _facts(evidence: Evidence, new: Replicate) -> list[tuple[str, str]]:
    valid = ", ".join(replicate.name for replicate in evidence.valid) or "none"
    excluded = "; ".join(f"{one.name}: {', '.join(one.invalid)}" for one in evidence.replicates if one.invalid)
    facts = [
        ("Cell", evidence.cell),
        ("Recorded in", evidence.source),
        ("Replicates compared with", valid),
    ]
    if excluded:
        facts.append(("Left out as invalid", excluded))
    if new.invalid:
        facts.append(("Checks that the new cell failed", ", ".join(new.invalid)))
    if new.cautions:
        facts.append(("Cautions of the new cell", ", ".join(new.cautions)))
    return facts


def _metric_table(identifier: str, caption: str, found: list[Compared]) -> Table | None:
    if not found:
        return None
    rows = tuple(
        Row(
            (
                Cell(metric_heading(one.metric, one.statistic)),
                Cell(", ".join(value_phrase(one.metric, value) for value in one.recorded) or "–"),
                Cell(_interval(one)),
                Cell(value_phrase(one.metric, one.new)),
                Cell(mark=_MARKS[one.judgement], note=one.reason),
            )
        )
        for one in found
    )
    columns = (
        Column("Metric"),
        Column("Recorded", "number"),
        Column("Expected (95 %)", "number"),
        Column("Here", "number"),
        Column("New value", "short"),
    )
    return Table(identifier, caption, columns, (Group(rows),))


def _interval(found: Compared) -> str:
    if found.expected is None:
        return "–"
    return f"{value_phrase(found.metric, found.expected.low)} to {value_phrase(found.metric, found.expected.high)}"


def _difference_table(outcome: Outcome) -> Table | None:
    rows = [
        (one.key.replace(".", " ").replace("_", " "), "; ".join(one.recorded) or "not recorded", one.here)
        for one in outcome.differences
    ]
    if not rows:
        return None
    note = "Keys of the fingerprint whose value here is none of the recorded ones."
    return plain_table(
        "differences", "What differs from where it was recorded", ("What", "Recorded", "Here"), rows, note
    )
