"""reports/index.html: every study that has a report, with what it found in a line."""

from collections.abc import Sequence
from dataclasses import dataclass

from leverlab.config import ConfigError, Configuration
from leverlab.layout import Layout
from leverlab.report.doubts import doubts_in
from leverlab.report.effect import Doubts, Effect
from leverlab.report.findings import primary_effects
from leverlab.report.page import environment, last_measured, style
from leverlab.report.phrases import levels_phrase, metric_phrase
from leverlab.report.sentences import Telling, row_sentence
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


def verdict_line(effects: Sequence[Effect], telling: Telling, doubts: Doubts) -> str:
    """All primary verdicts in a line: `Prefix caching off instead of on: worsens, marked, median TTFT ×5.12`."""
    parts = [
        f"{levels_phrase(effect.changed, telling.titles)}: {effect.verdict}{', marked' if doubts(effect) else ''}, {metric_phrase(effect.metric, effect.statistic).removeprefix('the ')} {row_sentence(effect)}"
        for effect in effects
        if effect.primary
    ]
    return "; ".join(parts) or "no primary effect yet"
