"""reports/index.html: every study that has a report, with what it found in a line."""

from dataclasses import dataclass

from leverlab.config import ConfigError, Configuration
from leverlab.layout import Layout
from leverlab.report.doubts import doubts_in
from leverlab.report.findings import primary_effects
from leverlab.report.page import environment, last_measured, style
from leverlab.report.sentences import verdict_line
from leverlab.report.source import DamagedTableError, StudyData, read_study


@dataclass(frozen=True, slots=True)
class Entry:
    """One study in the index."""

    href: str
    title: str
    question: str
    simulated: bool
    verdicts: str
    cells: str
    finished: str


def render_index(configuration: Configuration, layout: Layout) -> str:
    """The index as HTML: the studies of config/studies that have tables and a report, the last measured first."""
    entries = []
    for name in [*configuration.study_names(), *configuration.smoke_names()]:
        if not layout.report(name).is_file() or not (layout.study(name) / "cells.parquet").is_file():
            continue
        try:
            entries.append(entry_of(read_study(name, configuration, layout)))
        except (ConfigError, DamagedTableError):
            # A study that is being edited or damaged must not take the others' index away; its own report says what is wrong.
            continue
    entries.sort(key=lambda entry: (entry.finished, entry.title), reverse=True)
    return environment().get_template("index.html.j2").render(style=style(), studies=entries)


def entry_of(data: StudyData) -> Entry:
    """What a list of reports says of one study."""
    measured = int((data.cells["status"] == "measured").sum())
    invalid = measured - len(data.valid)
    return Entry(
        f"{data.name}.html",
        data.title,
        data.study.question,
        data.simulated,
        verdict_line(primary_effects(data), data.telling, doubts_in(data)),
        f"{measured} of {len(data.cells)} cells measured" + (f", {invalid} of them invalid" if invalid else ""),
        last_measured(data),
    )
