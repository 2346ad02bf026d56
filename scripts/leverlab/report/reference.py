"""A reference: measured studies that a repository keeps, each with the tables that its page was made from."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from leverlab.config import Configuration
from leverlab.layout import TWIN_FILE, Layout
from leverlab.profile.tables import FILES
from leverlab.records import write_bytes
from leverlab.report.index import entry_of
from leverlab.report.page import environment, render_study, style
from leverlab.report.phrases import joined
from leverlab.report.provenance import provenance
from leverlab.report.ranking import ranking_note, ranking_of, ranking_sentences, ranking_tables, recommendations
from leverlab.report.source import StudyData, read_study
from leverlab.report.view import Table, plain_table

_TABLES: Final = "*.parquet"
_OF_A_TWIN: Final = (TWIN_FILE, "requests.parquet", *(f"{name}.parquet" for name in FILES))
_LARGEST: Final = 3
"""Levers that the list names first; its heading says how many."""
_TOLD: Final = ("GPU", "CPU", "Versions", "Source", "Measured")
"""What the list says of where a study was measured; its page says all."""


def publish(study: str, configuration: Configuration, layout: Layout, folder: Path) -> None:
    """Copy the tables of `study` and of its twins to `folder`/<study>/, and write its page beside them: `folder`/<study>.html.

    The page's own records (logs, cards) are read from results/, so it is made where the study was aggregated. What a profiler
    wrote itself stays there: it is ten times as large as the tables. Raises FileNotFoundError where the study has no tables.
    """
    data = read_study(study, configuration, layout)
    travels = {table: folder / study / table.name for table in sorted(layout.study(study).glob(_TABLES))}
    for twin in data.profiles:
        for name in _OF_A_TWIN:
            path = twin.folder / name
            if path.is_file():
                travels[path] = folder / study / path.relative_to(layout.results)
    for path, target in travels.items():
        write_bytes(target, path.read_bytes())
    page = render_study(replace(data, published=folder / study))
    write_bytes(folder / f"{study}.html", page.encode())


def render_reference(name: str, configuration: Configuration, layout: Layout, folder: Path) -> str:
    """The list of what is in `folder` as HTML, made from the tables there, with the levers of all its studies ranked as a capstone's
    page ranks them. Studies with questions that are not there are said to be not run.
    """
    found = [
        read_study(study, configuration, layout, folder / study)
        for study in configuration.study_names()
        if (folder / study / "cells.parquet").is_file() and (folder / f"{study}.html").is_file()
    ]
    there = {data.name for data in found}
    others = {study: configuration.study(study) for study in configuration.study_names() if study not in there}
    not_run = [study.title or name for name, study in others.items() if study.questions or study.week is not None]
    ranked = ranking_of(found)
    gpus = sorted({str(gpu) for data in found for gpu in data.cells["gpu"].unique()})
    page = environment().get_template("reference.html.j2")
    return page.render(
        style=style(),
        name=name,
        devices=joined([configuration.gpus[gpu].title for gpu in gpus if gpu in configuration.gpus]) or "nothing yet",
        measured=[entry_of(data) for data in found],
        largest=list(ranking_sentences(ranked, _LARGEST)),
        rankings=ranking_tables(ranked),
        ranking_note=ranking_note(ranked),
        recommendations=recommendations(ranked),
        not_run=not_run,
        provenance=_provenance_table(found),
        simulated=False,
    )


def _provenance_table(found: list[StudyData]) -> Table:
    rows = []
    for data in found:
        facts = dict(provenance(data).facts)
        rows.append([data.title, *(facts.get(heading, "differs: see its page") for heading in _TOLD)])
    return plain_table("provenance-table", "The same in all cells of a study", ("Study", *_TOLD), rows)
