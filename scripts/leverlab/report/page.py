"""A study's page: every section from the study's data, and the template that prints them."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from leverlab.metrics import METRICS
from leverlab.report.accuracy import accuracy_section
from leverlab.report.asked_alike import asked_alike_sentences
from leverlab.report.beside_theory import left_out, theory_table
from leverlab.report.blocks import curves, heatmaps, side_by_side_parts, timeline_block
from leverlab.report.collected import collected_table
from leverlab.report.doubts import MARK, doubts_in
from leverlab.report.effect import Effect
from leverlab.report.effect_tables import before_after, crossed_table, is_main, treatment_title
from leverlab.report.explained import explained
from leverlab.report.findings import findings, forest_block, limits, noise_floor_sentences, primary_effects
from leverlab.report.in_short import headline, in_short
from leverlab.report.knees import knee_table
from leverlab.report.ledger import cell_table, cells_note, check_tables, command_table, troubles
from leverlab.report.marked import findings as marked_cells
from leverlab.report.overview import believable, glance
from leverlab.report.phrases import joined
from leverlab.report.provenance import provenance
from leverlab.report.questions import questions
from leverlab.report.ranking import ranking, ranking_note, ranking_tables, recommendations
from leverlab.report.readings import readings
from leverlab.report.roofline_block import roofline_parts
from leverlab.report.searches import search_table
from leverlab.report.sentences import correction_sentence
from leverlab.report.source import StudyData
from leverlab.report.stand_in import stand_in_sentences
from leverlab.report.study_card import lever_table, study_facts
from leverlab.report.svg import drawing, styles_once
from leverlab.report.theory_values import theory_values
from leverlab.report.view import Table
from leverlab.report.why import changes_in_short, first_profile_question, why
from leverlab.report.workload_card import workload_cards

_UNIT: Final = re.compile(r"(?<=\d) (?=(?:s|ms|µs|min|h|kB|MB|GB)\b)|(?<=\d) ?(?=%(?!\w))")
"""The space before a unit; that before a percent sign also where it is missing, as in what older cells' checks wrote. (In an address
a percent sign has letters behind it.)"""
_CODE: Final = re.compile(r"`([^`]+)`")
_SILENT_LIMIT: Final = 6
"""Metrics that no cell tells which are named; of more their number says enough."""
_ROWS_LIMIT: Final = 1500
"""Comparisons that a page can hold; of more, only main metrics are printed, and no more than this."""


@cache
def environment() -> Environment:
    """The templates; a name that the page forgot to give is an error, not an empty place."""
    made = Environment(
        loader=PackageLoader("leverlab.report"), autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_typeset,
    )  # fmt: skip
    made.filters["prose"] = prose
    made.filters["stressed"] = stressed
    return made


def prose(text: str) -> str:
    """A sentence for the page: what stands between two backticks is set as code, and a mark (`leverlab.report.doubts.MARK`) smaller.

    What is markup already stays as it is.
    """
    if isinstance(text, Markup):
        return text
    parts = MARK.split(text)
    if len(parts) == 1:
        return _with_code(text)
    return Markup("").join(
        Markup('<span class="mark">{}</span>' if number % 2 else "{}").format(_typeset(_with_code(part)))
        for number, part in enumerate(parts)
    )


def _with_code(text: str) -> str:
    parts = _CODE.split(text)
    if len(parts) == 1:
        return text
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else _typeset(part) for number, part in enumerate(parts)
    )


def stressed(sentence: str, words: str) -> Markup:
    """`sentence` with the first `words` in it in bold."""
    bold = Markup("<strong>{}</strong>").format(_typeset(words))
    return Markup(escape(_typeset(sentence)).replace(escape(_typeset(words)), bold, 1))


def _typeset(value: Any) -> Any:  # noqa: ANN401 - whatever a template prints
    """Text with a number and its short unit kept on one line."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def style() -> Markup:
    """The stylesheet that stands in every page."""
    return Markup((Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8"))


def render_study(data: StudyData) -> str:
    """The study's page as HTML."""
    with drawing():
        sections = _sections(data)
    tables = f"../results/studies/{data.name}" if data.published is None else data.name
    template = environment().get_template("report.html.j2")
    return styles_once(template.render(style=style(), tables=tables, **sections))


def last_measured(data: StudyData) -> str:
    """The day of the last measured cell; empty where there is none."""
    started = data.cells.loc[data.cells["status"] == "measured", "started_at"].dropna().astype(str)
    return started.max()[:10] if len(started) else ""


def _sections(data: StudyData) -> dict[str, Any]:
    found, troubled = marked_cells(data), troubles(data)
    checks_note, checks, ledger = check_tables(data, found)
    effects_note, effects = _effect_parts(data)
    drawn, curves_note = curves(data)
    maps, maps_note = heatmaps(data)
    theory = theory_values(data)
    replicates = "1 replicate" if data.study.replicates == 1 else f"{data.study.replicates} replicates"
    return {
        "title": data.title,
        "study": data.name,
        "question": data.study.question,
        "simulated": data.simulated,
        "stand_in": stand_in_sentences(data),
        "dummy_weights": joined(data.dummy_models),
        "finished": last_measured(data),
        "headline": headline(data.effects, data.telling, doubts_in(data)),
        **_in_short(data),
        "findings": findings(data),
        "correction": correction_sentence(data.effects, data.telling),
        "incomplete": incomplete(data),
        "forest": forest_block(data),
        "noise_floor": noise_floor_sentences(data),
        "replicates": replicates,
        "limits": limits(data),
        "questions": questions(data, theory),
        "why": why(data),
        "explained": explained(data),
        "changes_asked_in": asked.ask if (asked := first_profile_question(data)) else "",
        "readings": readings(data),
        "collected": collected_table(data, theory),
        "card": study_facts(data),
        "asked_alike": list(asked_alike_sentences(data)),
        "levers": lever_table(data),
        "provenance": provenance(data),
        "effects_note": effects_note,
        "effects": effects,
        "crossed": _crossed(data),
        "curves": drawn,
        "curves_note": curves_note,
        "knees": knee_table(data),
        "searches": search_table(data),
        "theory": theory_table(data, theory),
        **_over_all_studies(data),
        "rooflines": roofline_parts(data, theory),
        "theory_left_out": left_out(data, theory),
        "heatmaps": maps,
        "heatmaps_note": maps_note,
        "side_by_side": side_by_side_parts(data),
        "accuracy": accuracy_section(data),
        "timeline": timeline_block(data),
        "workloads": workload_cards(data),
        "believable": believable(data),
        "glance": glance(data, found, troubled),
        "checks_note": checks_note,
        "checks": checks,
        "ledger": ledger,
        "cells": cell_table(data),
        "cells_note": cells_note(data),
        "troubles": troubled,
        "commands": command_table(data),
        "reproduce_note": (
            "Each command starts a fresh server for one cell, measures it and says whether the new value lies where the recorded ones let expect it. "
            "Add --profile slurm on a cluster; raise the number before verdict.html to do it again."
        ),
    }


def _in_short(data: StudyData) -> dict[str, Any]:
    """Lines below the headline: the primary metrics, or, where none of them has a verdict, what the profiles show."""
    primary = primary_effects(data)
    if not any(effect.decided for effect in primary) and (changes := changes_in_short(data)):
        return {"in_short": changes, "in_short_lead": "In the profiles, each of them one run:"}
    return {"in_short": in_short(primary, data.telling, doubts_in(data)), "in_short_lead": ""}


def _over_all_studies(data: StudyData) -> dict[str, Any]:
    """What the study says of all studies, where it ranks them."""
    if data.study.ranks is None:
        return {"rankings": None, "ranking_note": "", "recommendations": []}
    found = ranking(data)
    return {
        "rankings": ranking_tables(found),
        "ranking_note": ranking_note(found),
        "recommendations": recommendations(found),
    }


def incomplete(data: StudyData) -> str:
    """How many cells have no numbers; empty where all have."""
    missing = int((data.cells["status"] != "measured").sum())
    if not missing:
        return ""
    if missing == len(data.cells):
        return "No cell has numbers yet. The cell table says why."
    have = "has" if missing == 1 else "have"
    return f"{missing} of {len(data.cells)} cells {have} no numbers; what is said above rests on the others. The cell table says why."


def _effect_parts(data: StudyData) -> tuple[str, list[dict[str, Any]]]:
    primary = primary_effects(data)
    metrics = {(effect.metric, effect.statistic) for effect in primary}
    order = list(data.treatments)
    known = [effect for effect in data.effects if effect.primary or (effect.metric, effect.statistic) in data.told]
    ranked = sorted(known, key=lambda effect: (order.index(effect.treatment), data.contexts.index(effect.context)))
    brief = len(known) > _ROWS_LIMIT
    parts: list[dict[str, Any]] = []
    rows = 0
    pairs = groupby(ranked, key=lambda effect: (effect.treatment, effect.context))
    for number, (_, found) in enumerate(pairs):
        own = list(found)
        main, others = [e for e in own if is_main(e, metrics)], [e for e in own if not is_main(e, metrics)]
        rows += len(main)
        if rows > _ROWS_LIMIT:
            break
        title = treatment_title(own[0], data.telling)
        parts.append({
            "title": title,
            "tables": _tables(main, data, f"effects-{number}", f"{title}: main metrics", "The primary metric is shaded; every other verdict is exploratory."),
            "more": [] if brief else _tables(others, data, f"more-{number}", f"{title}: further metrics", "All exploratory."),
            "more_title": f"Further metrics, all exploratory ({len(others)} comparisons)",
        })  # fmt: skip
    exploratory = sum(not effect.primary for effect in known)
    corrected = (
        f"A primary verdict is corrected for the number of them, {len(primary)} (Holm); its row shows the wider interval that it rests on. "
        if len(primary) > 1
        else ""
    )
    note = (
        f"{_simulated(data)}Change is treatment ÷ baseline (×) or treatment − baseline (+, −), within each replicate, with its 95 % interval over the replicates. "
        f"{corrected}The other {exploratory} comparisons are exploratory: their intervals are not corrected, about one in twenty excludes no change by chance alone, "
        "and they are reasons to look, not findings."
    )
    silent = [label for name, label in _labels().items() if not any(metric == name for metric, _ in data.told)]
    if silent:
        named = (
            joined(silent)
            if len(silent) <= _SILENT_LIMIT
            else f"{len(silent)} of the {len(_labels())} metrics (docs/metrics.md)"
        )
        note += f" No cell tells {named}."
    if brief:
        note += f" The study compares too much for a page: the main metrics of {len(parts)} treatments are shown; effects.parquet holds all."
    return note, parts


def _crossed(data: StudyData) -> Table | None:
    asked = {(effect.metric, effect.statistic, effect.load) for effect in primary_effects(data)}
    return (
        crossed_table("crossed", data.crossed, asked, data.telling, doubts_in(data)) if data.crossed and asked else None
    )


def _labels() -> dict[str, str]:
    return {name: metric.label for name, metric in METRICS.items()}


def _simulated(data: StudyData) -> str:
    return "Simulated. " if data.simulated else ""


def _tables(effects: Sequence[Effect], data: StudyData, identifier: str, caption: str, note: str) -> list[Table]:
    return [before_after(identifier, effects, data.telling, doubts_in(data), caption, note)] if effects else []
