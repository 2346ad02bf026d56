"""Theory beside measurement: a table, the sentences of an answer, and what could not be computed."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import median
from typing import Final

from leverlab.config.course import TheoryAnswer, theory_names
from leverlab.metrics import parse_metric_reference
from leverlab.quantities import DERIVED, Quantity, QuantityReference, parse_quantity_reference
from leverlab.report.doubts import marked_cells
from leverlab.report.phrases import context_phrase, joined, load_heading, load_phrase, metric_phrase, value_phrase
from leverlab.report.source import StudyData
from leverlab.report.theory_values import Beside, Missing, TheoryValues
from leverlab.report.view import Cell, Column, Group, Mark, Row, Table
from leverlab.theory.shown import shown
from leverlab.units import format_number

_LIMIT: Final = 240
"""Rows of the table; of more, those that the study asks for come first and the rest is left out."""

_WORKED_OUT: Final = {
    "decode_roof_flop_per_s": "arithmetic that decoding reached",
    "decode_bandwidth_bytes_per_s": "bandwidth that decoding reached",
    "speculative_speedup": "TPOT without speculation / TPOT",
    "gpu_cost_per_million_tokens": "price at the measured throughput",
    "energy_cost_per_million_tokens": "price of the measured energy",
}
"""What stands beside a quantity that no metric is like."""

_NAMED: Final = 3
"""Treatments of which the same is said that are named one by one; of more it is said of every other."""

BEYOND: Final = Mark("✕", "beyond its bound", "bad")
"""Of a measured value that no measurement can have: it is wrong, or what theory is told."""


def asked(data: StudyData) -> list[QuantityReference]:
    """The quantities that the study names, in its questions and in what it collects."""
    answers = [answer for question in data.study.questions for answer in question.answers]
    named = [name for answer in answers if isinstance(answer, TheoryAnswer) for name in answer.quantities]
    return [parse_quantity_reference(name) for name in dict.fromkeys([*named, *theory_names(data.study.collects)])]


def theory_table(data: StudyData, values: TheoryValues) -> Table | None:
    """A group a quantity, a row a treatment and load point: of those with something measured beside them, and those asked for."""
    wanted = {reference.quantity.name for reference in asked(data)}
    own = [value for value in values.values if value.quantity.beside or value.quantity.name in wanted]
    own.sort(key=lambda value: value.quantity.name not in wanted)
    groups, rows = [], 0
    for (_, context), of_quantity in groupby(own, key=lambda value: (value.quantity.name, value.context)):
        found = list(of_quantity)
        shown_rows = _rows(data, found)
        rows += len(shown_rows)
        if rows > _LIMIT:
            break
        where = f", {context_phrase(*context)}" if len(data.contexts) > 1 else ""
        label = found[0].quantity.label
        beside = f"; beside it: {beside_phrase(found[0])}" if found[0].measured is not None else ""
        groups.append(Group(tuple(shown_rows), f"{label[:1].upper()}{label[1:]}{where}{beside}"))
    if not groups:
        return None
    columns = (
        Column("Treatment"),
        Column("Load", "short"),
        Column("Theory", "number"),
        Column("Measured", "number"),
        Column("Measured ÷ theory", "number"),
        Column("What it is", "short"),
    )
    left_out = f" Of more than {_LIMIT} rows the first are shown, those that the study asks for before all." * (
        rows > _LIMIT
    )
    note = (
        "Medians over the replicates of valid cells. A measured value is never below a floor nor above a ceiling, and about equal to what is expected; "
        f"a property is no bound. docs/theory.md has the formulas and their sources.{left_out}"
    )
    return Table("theory-table", "What was measured, and what theory says", columns, tuple(groups), note)


def _rows(data: StudyData, values: Sequence[Beside]) -> list[Row]:
    """A row a treatment and load point, of one quantity and context; fewer where several read the same."""
    rows = []
    for value, whose, every_load in _distinct(data, values):
        wanted, measured, ratio = _texts(value)
        mark = BEYOND if value.impossible else None
        sense = value.quantity.sense
        cells = (whose, "every load point" if every_load else load_heading(value.load), wanted, measured)
        rows.append(Row((*map(Cell, cells), Cell(ratio, mark=mark), Cell("–" if sense == "property" else sense))))
    return rows


def _distinct(data: StudyData, values: Sequence[Beside]) -> Iterator[tuple[Beside, str, bool]]:
    """(value, whose, whether it is that of every load point) of one quantity and context: once where all read the same."""
    treatments = {value.treatment for value in values}
    if len(treatments) > 1 and len({_texts(value) for value in values}) == 1:
        known = {name for name, treatment in data.treatments.items() if not treatment.copy}
        whose = "Every treatment" if known <= treatments else "Every treatment that was measured"
        yield values[0], whose, len({value.load for value in values}) > 1
        return
    for treatment, found in groupby(values, key=lambda value: value.treatment):
        own = list(found)
        alike = len(own) > 1 and len({_texts(value) for value in own}) == 1
        for value in own[:1] if alike else own:
            yield value, data.label(treatment), alike


def _together(data: StudyData, values: Sequence[Beside]) -> Iterator[tuple[Beside, str, bool]]:
    """As `_distinct`, with the treatments of which the same is said in one place: several by name, most of all as the others."""
    found = list(_distinct(data, values))
    alike: dict[tuple[object, ...], list[tuple[Beside, str, bool]]] = {}
    for value, whose, every_load in found:
        where = None if every_load else value.load
        alike.setdefault((where, _texts(value), value.replicates), []).append((value, whose, every_load))
    many = [own for own in alike.values() if len(own) > _NAMED]
    others = many[0] if len(many) == 1 and _covers(data, many[0], found) else None
    for own in sorted(alike.values(), key=lambda own: own is others):
        value, whose, every_load = own[0]
        # Labels hold "and" themselves.
        whose = "; ".join(each for _, each, _ in own)
        yield value, "Every other treatment" if own is others else whose, every_load


def _covers(
    data: StudyData, own: Sequence[tuple[Beside, str, bool]], found: Sequence[tuple[Beside, str, bool]]
) -> bool:
    """Whether `own` and what else is told at its load point are all treatments, so that `own` are the others."""
    (value, _, every_load), *_ = own
    told = {
        other.treatment
        for other, _, everywhere in found
        if everywhere == every_load and (every_load or other.load == value.load)
    }
    known = {name for name, treatment in data.treatments.items() if not treatment.copy}
    return known <= told and len(own) < len(told)


def _texts(value: Beside) -> tuple[str, str, str]:
    return shown(value.quantity, value.expected), measured_text(value), _ratio_text(value) or "–"


def measured_text(value: Beside) -> str:
    """What was measured, with its unit; – where nothing was."""
    if value.measured is None:
        return "–"
    if value.quantity.beside == DERIVED or value.quantity.beside is None:
        return shown(value.quantity, value.measured)
    return value_phrase(parse_metric_reference(value.quantity.beside).metric, value.measured)


def _ratio_text(value: Beside) -> str:
    """`1.6`, with the range over the replicates where they differ; empty where nothing can be divided."""
    if not value.ratios:
        return ""
    ordered = sorted(value.ratios)
    low, middle, high = (format_number(ratio) for ratio in (ordered[0], median(ordered), ordered[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"


def beside_phrase(value: Beside) -> str:
    """What was measured beside a quantity: `median time per output token`; empty where it is nothing with a name."""
    if value.quantity.beside in (None, DERIVED):
        return _WORKED_OUT.get(value.quantity.name, "")
    reference = parse_metric_reference(str(value.quantity.beside))
    return metric_phrase(reference.metric, reference.statistic).removeprefix("the ")


def theory_sentences(answer: TheoryAnswer, data: StudyData, values: TheoryValues) -> Iterator[str]:
    """A sentence for each quantity, treatment and load point; where there is none, why."""
    for reference in map(parse_quantity_reference, answer.quantities):
        own = [
            value
            for value in values.values
            if value.quantity is reference.quantity and (reference.load is None or value.load == str(reference.load))
        ]
        said = [
            sentence
            for _, of_context in groupby(own, key=lambda value: value.context)
            for sentence in _over_loads(data, list(of_context))
        ]
        missing = [each for each in values.missing if each.quantity is reference.quantity]
        yield from said
        if said:
            yield from _not_computed(
                data,
                reference.quantity,
                [each for each in missing if each.applies and each.treatment not in {value.treatment for value in own}],
            )
        else:
            why = "; ".join(dict.fromkeys(each.reason for each in missing)) or "no valid cell tells it"
            yield f"Not computed: {reference.quantity.label}: {why}."


def _over_loads(data: StudyData, values: Sequence[Beside]) -> Iterator[str]:
    """A sentence for each whose value is told, of all its load points; what lies beyond its bound stands alone."""
    for (whose, alone), found in groupby(
        _together(data, values), key=lambda each: (each[1], each[2] or each[0].impossible)
    ):
        own = list(found)
        if alone or len(own) == 1:
            yield from (f"{_sentence(data, *each)}{_marked(data, values, [each[0]], each[2])}" for each in own)
        else:
            together = [value for value, _, _ in own]
            yield f"{_together_over_loads(data, together, whose)}{_marked(data, values, together, every_load=False)}"


def _marked(data: StudyData, values: Sequence[Beside], told: Sequence[Beside], every_load: bool) -> str:
    """What is held against the cells whose measured values are `told`, those of treatments and loads that read the same too."""
    read = {(_texts(value), "" if every_load else value.load) for value in told if value.measured is not None}
    places = {
        (value.treatment, value.load) for value in values if (_texts(value), "" if every_load else value.load) in read
    }
    cells = data.of_context(told[0].context)
    return marked_cells(cells[[place in places for place in zip(cells["treatment"], cells["load"], strict=True)]])


def _together_over_loads(data: StudyData, values: Sequence[Beside], whose: str) -> str:
    first = values[0]
    where = f" ({context_phrase(*first.context)})" if len(data.contexts) > 1 else ""
    start = f"{'Simulated: ' if data.simulated else ''}{whose}{where}: {first.quantity.label}"
    if all(value.measured is None for value in values):
        return f"{start}, by theory: {joined([f'{_texts(value)[0]} {load_phrase(value.load)}' for value in values])}."
    alike = len({value.replicates for value in values}) == 1
    parts = []
    for value in values:
        wanted, measured, ratio = _texts(value)
        compared = f", {times_that(ratio)}" if value.ratios else ""
        count = "" if alike else f", {_replicates(value)}"
        parts.append(f"{load_phrase(value.load)} {wanted} beside {measured}{compared}{count}")
    ending = f", each {_replicates(first)}" if alike else ""
    return f"{start} ({_SENSES[first.quantity.sense]}) beside {beside_phrase(first)} (measured): {'; '.join(parts)}{ending}."


def _replicates(value: Beside) -> str:
    """What the values are: other answers tell means, which are none of these."""
    return "in 1 replicate" if value.replicates == 1 else f"the median of {value.replicates} replicates"


def _not_computed(data: StudyData, quantity: Quantity, missing: Sequence[Missing]) -> Iterator[str]:
    """What theory does not know of single treatments, a sentence a reason."""
    whose: dict[str, list[str]] = {}
    for each in missing:
        if each.treatment is not None:
            whose.setdefault(each.reason, []).append(data.label(each.treatment))
    for reason, labels in whose.items():
        yield f"Not computed for {'; '.join(labels)}: {quantity.label}: {reason}."


def is_measured(answer: TheoryAnswer, values: TheoryValues) -> bool:
    """Whether something was measured beside a quantity that `answer` names."""
    named = {reference.quantity.name for reference in map(parse_quantity_reference, answer.quantities)}
    return any(value.quantity.name in named and value.measured is not None for value in values.values)


def _sentence(data: StudyData, value: Beside, whose: str, every_load: bool) -> str:
    load = "at every load point" if every_load else load_phrase(value.load)
    where = f" ({context_phrase(*value.context)})" if len(data.contexts) > 1 else ""
    start = f"{'Simulated: ' if data.simulated else ''}{whose}{where}, {load}"
    wanted, measured, ratio = _texts(value)
    if value.measured is None:
        return f"{start}: {value.quantity.label} {wanted}, by theory."
    compared = f", {times_that(ratio)}" if value.ratios else ""
    beyond = (
        " It lies beyond its bound: what was measured is wrong, or what theory is told." if value.impossible else ""
    )
    return (
        f"{start}: {value.quantity.label} {wanted} ({_SENSES[value.quantity.sense]}); {beside_phrase(value)} {measured} (measured)"
        f"{compared}, {_replicates(value)}.{beyond}"
    )


def times_that(ratio: str) -> str:
    """`0.97 (0.95 to 0.99) times that`, `the same`, `the same (0.99 to 1.01 times that)`."""
    middle, _, spread = ratio.partition(" ")
    if middle != "1":
        return f"{ratio} times that"
    return f"the same ({spread.strip('()')} times that)" if spread else "the same"


_SENSES: Final = {"floor": "floor", "ceiling": "ceiling", "expected": "expected", "property": "theory"}


def left_out(data: StudyData, values: TheoryValues) -> list[str]:
    """A sentence for each quantity that the study asks for, or could have, and that is left out everywhere, with its reason."""
    wanted = {reference.quantity.name for reference in asked(data)}
    computed = {value.quantity.name for value in values.values}
    reasons: dict[str, list[str]] = {}
    for missing in values.missing:
        quantity = missing.quantity
        if quantity.name not in computed and (quantity.name in wanted or (quantity.beside and missing.applies)):
            reasons.setdefault(missing.reason, []).append(quantity.label)
    return [f"Left out: {', '.join(dict.fromkeys(labels))}: {reason}." for reason, labels in reasons.items()]
