"""What a report is made from: a study's tables, its configuration, and the records below results/ where they are there."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow.parquet as pq

from leverlab.aggregate import pairing
from leverlab.aggregate.cautions import Caution
from leverlab.aggregate.comparisons import contrasts
from leverlab.aggregate.measured import stored_checks
from leverlab.aggregate.schema import metric_column, metric_keys
from leverlab.config import Configuration
from leverlab.config.model import SyntheticSource
from leverlab.config.study import Study
from leverlab.layout import Layout
from leverlab.matrix.treatments import Treatment, treatments
from leverlab.records import CellRecord, CheckResult, read_json
from leverlab.report.effect import Effect
from leverlab.report.looks import SERIES_LIMIT
from leverlab.report.phrases import levels_phrase
from leverlab.report.profiled import Profiled, read_profiles
from leverlab.report.sentences import Telling
from leverlab.trial.cell_files import read_cell

CONTEXT = [*pairing.CONTEXT]
_NEEDED: Final = [
    *CONTEXT,
    "server",
    "phase",
    "replicate",
    "treatment",
    "load",
    "workload",
    "status",
    "checks",
    "check_codes",
    "specification",
]
"""Columns of cells.parquet without which nothing can be told of a study."""


class DamagedTableError(ValueError):
    """There is a table of a study, and it cannot be read or is another. The message names the file and the remedy."""


@dataclass(frozen=True)
class StudyData:
    """A study as the report reads it. `cells` has a row a cell and replicate, whatever its status."""

    name: str
    study: Study
    configuration: Configuration
    layout: Layout
    cells: pd.DataFrame
    effects: tuple[Effect, ...]
    """The treatments against the baseline."""
    copies: tuple[Effect, ...]
    """The baseline's copy against the baseline: the noise floor. Empty where the study does not ask for it."""
    saturation: tuple[Mapping[str, Any], ...]
    """Rows of saturation.parquet: where each treatment stops to keep up."""
    crossed: tuple[Effect, ...]
    """Main effects and interactions of levers whose every combination was measured."""
    simple: tuple[Effect, ...]
    """What a lever does at a level of another one, where a question asks for it."""
    accuracy: tuple[Mapping[str, Any], ...] = ()
    """Rows of accuracy.parquet: what answers were worth. Empty where the study asks nothing."""
    published: Path | None = None
    """The folder of the study's name that travels with its page, where that does not stand beside results/."""

    @cached_property
    def treatments(self) -> dict[str, Treatment]:
        """The study's treatments by name, baseline first."""
        return {treatment.name: treatment for treatment in treatments(self.study)}

    @property
    def title(self) -> str:
        """The study's title, or its name."""
        return self.study.title or self.name

    @cached_property
    def titles(self) -> dict[str, str]:
        """Lever → its title."""
        return {name: self.configuration.levers[name].title for name in self.study.levers}

    @cached_property
    def valid(self) -> pd.DataFrame:
        """Cells whose numbers may be drawn: measured, and no check says invalid."""
        return self.cells[(self.cells["status"] == "measured") & (self.cells["checks"] != "invalid")]

    @cached_property
    def simulated(self) -> bool:
        """See `leverlab.config.Configuration.simulated`."""
        return self.configuration.simulated(self.study)

    @cached_property
    def dummy_models(self) -> list[str]:
        """Models that a real engine served with dummy weights, in the shape that the configuration declares."""
        served = [] if self.simulated else sorted(self.cells["model"].dropna().astype(str).unique())
        known = self.configuration.models
        return [name for name in served if name in known and isinstance(known[name].source, SyntheticSource)]

    @cached_property
    def contexts(self) -> list[tuple[str, str, str, int]]:
        """Engine, model, GPU and count, in the table's order."""
        rows = self.cells[CONTEXT].drop_duplicates().itertuples(index=False, name=None)
        return [(str(engine), str(model), str(gpu), int(count)) for engine, model, gpu, count in rows]

    @cached_property
    def telling(self) -> Telling:
        """What all sentences depend on."""
        family = sum(effect.primary for effect in self.effects)
        asked = frozenset(lever for lever in self.study.levers if self._is_of_the_load(lever))
        return Telling(self.titles, len(self.contexts) > 1, self.simulated, family, asked)

    def _is_of_the_load(self, lever: str) -> bool:
        """Whether a level of the lever changes who asks, or what is asked."""
        kinds = [self.configuration.engines[engine].kind for engine in self.study.engines]
        declared = self.configuration.levers[lever]
        sets = [declared.effect(level, kind) for level in self.study.levers[lever] for kind in kinds]
        return any(each and (each.workload or (each.client and not each.topology)) for each in sets)

    @cached_property
    def told(self) -> set[tuple[str, str | None]]:
        """Metrics and statistics that at least one cell tells: a machine without a GPU tells no energy."""
        return {key for key in metric_keys() if self.cells[metric_column(*key)].notna().any()}

    @cached_property
    def profiles(self) -> tuple[Profiled, ...]:
        """The twins that the study asks for, those that are not there too."""
        asked = self.study.profile
        if asked is None:
            return ()
        names = [name for name, treatment in self.treatments.items() if not treatment.copy]
        wanted = [name for name in names if not asked.treatments or name in asked.treatments]
        return read_profiles(self.layout, self.cells, list(asked.at), wanted)

    @cached_property
    def explaining(self) -> "tuple[StudyData, ...]":
        """The studies of `explained_by` whose twins recorded something here, each as if it asked for no others than those of levers
        that this study varies too, and the baseline's."""
        return tuple(found for found in self._explaining.values() if isinstance(found, StudyData))

    @cached_property
    def unreadable(self) -> Mapping[str, str]:
        """Studies of `explained_by` of which a table cannot be read, and why."""
        return {name: str(found) for name, found in self._explaining.items() if isinstance(found, DamagedTableError)}

    @cached_property
    def _explaining(self) -> "Mapping[str, StudyData | DamagedTableError | None]":
        return {name: _explaining(self, name) for name in self.study.explained_by}

    def page_of(self, other: "StudyData") -> str | None:
        """Where this page leads to the page of `other`; None where that did not travel with it."""
        page = f"{other.name}.html"
        return page if self.published is None or self.published.with_name(page).is_file() else None

    @property
    def requests(self) -> Path | None:
        """The study's requests.parquet, below results/ or where it travels with the page; None where it is in neither place."""
        folders = [self.layout.study(self.name), *([] if self.published is None else [self.published])]
        return next((path for folder in folders if (path := folder / "requests.parquet").is_file()), None)

    def address(self, path: Path) -> str | None:
        """Where a page leads to a file below results/; None where the file is not there, or did not travel with the page."""
        below = path.relative_to(self.layout.results)
        if self.published is None:
            return f"../{path.relative_to(self.layout.root).as_posix()}" if path.is_file() else None
        return f"{self.name}/{below.as_posix()}" if (self.published / below).is_file() else None

    def label(self, treatment: str) -> str:
        """A treatment for a legend or a row: `Baseline: Prefix caching on, …`, or what it changes."""
        found = self.treatments[treatment]
        if not found.changed:
            return "Baseline again" if found.copy else "Baseline"
        return levels_phrase(changed_levels(found, self.study), self.titles)

    def of_context(self, context: tuple[str, str, str, int]) -> pd.DataFrame:
        """The valid cells of one engine, model and GPU."""
        return in_context(self.valid, context)

    def sides_of(self, effect: Effect) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The valid cells of the two sides of the comparison that the effect is about; of a treatment the baseline's and its own."""
        own = self.of_context(effect.context)
        own = own[own["load"] == effect.load]
        before, after = self._sides.get((effect.kind, effect.treatment), ((), ()))
        return own[own["treatment"].isin(before)], own[own["treatment"].isin(after)]

    @cached_property
    def _sides(self) -> dict[tuple[str, str], tuple[list[str], list[str]]]:
        """Kind and name of a comparison → names of the treatments on each of its sides."""
        return {
            (one.kind, one.name): ([each.name for each, _ in one.baseline], [each.name for each, _ in one.treatment])
            for one in contrasts(self.study, [*self.treatments.values()])
        }

    def cell_folder(self, row: Mapping[str, Any]) -> Path:
        """Where a cell's files are, whether or not it was measured."""
        return self.layout.cell(str(row["server"]), str(row["replicate"]), str(row["phase"]))

    def checks_of(self, row: Mapping[str, Any]) -> list[CheckResult]:
        """The cell's checks, as they lie there now; empty where its record is not on this machine."""
        record = self.record_of(row)
        if record is None:
            return []
        return list(stored_checks(self.cell_folder(row), record, hashed="files_changed" in str(row["check_codes"])))

    def record_of(self, row: Mapping[str, Any]) -> CellRecord | None:
        """The cell's record; None where it is not on this machine, or cannot be read."""
        try:
            return read_cell(self.cell_folder(row))
        except ValueError:
            return None

    @cached_property
    def checks(self) -> list[tuple[dict[str, Any], CheckResult]]:
        """(row of `cells`, check) of every measured cell whose record is on this machine."""
        measured = rows_of(self.cells[self.cells["status"] == "measured"])
        return [(row, check) for row in measured for check in self.checks_of(row)]

    def workload_cards(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(workload, replicate, card) of every card that is there."""
        found = self.cells["workload"].dropna().unique()
        for workload in sorted(found):
            for replicate in sorted(self.cells["replicate"].unique()):
                path = self.layout.workload(workload, replicate) / "card.json"
                if path.is_file():
                    yield workload, replicate, read_json(path)

    def series_sets(self, present: set[str]) -> list[tuple[str, list[str]]]:
        """Treatments that are drawn together, baseline first, and what is said of them in a title.

        All of them, or a lever at a time where they are too many; treatments that change several levers are then left to
        the heatmap and the tables.
        """
        names = [name for name, treatment in self.treatments.items() if name in present and not treatment.copy]
        if len(names) <= SERIES_LIMIT:
            return [("", names)] if names else []
        sets: list[tuple[str, list[str]]] = []
        for lever, title in self.titles.items():
            own = [name for name in names if [key for key, _ in self.treatments[name].changed] == [lever]]
            room = SERIES_LIMIT - 1
            for start in range(0, len(own), room):
                part = f", {start // room + 1}" if len(own) > room else ""
                sets.append((f": {title}{part}", [*names[:1], *own[start : start + room]]))
        return sets


def _explaining(data: StudyData, name: str) -> StudyData | DamagedTableError | None:
    """The study `name` as it explains `data`; None where it has no tables, or its twins recorded nothing."""
    try:
        other = read_study(name, data.configuration, data.layout)
    except FileNotFoundError:
        return None
    except DamagedTableError as error:
        return error
    varied = {lever for lever, levels in data.study.levers.items() if len(levels) > 1}
    wanted = [
        treatment.name
        for treatment in other.treatments.values()
        if not treatment.copy and {lever for lever, _ in treatment.changed} <= varied
    ]
    asked = other.study.profile
    if asked is None:
        return None
    kept = [treatment for treatment in wanted if not asked.treatments or treatment in asked.treatments]
    study = other.study.model_copy(update={"profile": asked.model_copy(update={"treatments": kept})})
    published = None if data.published is None else data.published.with_name(name)
    narrowed = replace(other, study=study, published=published)
    told = any(twin.recorded is not None or twin.counters is not None for twin in narrowed.profiles)
    return narrowed if kept and told else None


def changed_levels(treatment: Treatment, study: Study) -> dict[str, tuple[str, str]]:
    """Lever → (level, baseline's level)."""
    return {lever: (level, study.baseline[lever]) for lever, level in treatment.changed}


def in_context(cells: pd.DataFrame, context: tuple[str, str, str, int]) -> pd.DataFrame:
    """The rows of one engine, model, GPU and number of GPUs."""
    return cells[(cells[CONTEXT] == list(context)).all(axis="columns")]


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table's rows as mappings by column."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def text_of(value: Any) -> str:  # noqa: ANN401 - a table's value, which may be missing
    """A table's value as text; empty where there is none."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return value if isinstance(value, str) else ", ".join(map(str, value))


def read_study(name: str, configuration: Configuration, layout: Layout, tables: Path | None = None) -> StudyData:
    """The study `name` from its parquet files. Raises FileNotFoundError naming what makes them, or DamagedTableError.

    `tables`: the folder that holds them, where that is another than results/studies/<name>.
    """
    study = configuration.study(name)
    folder = tables or layout.study(name)
    for table in ("cells", "effects", "saturation"):
        if not (folder / f"{table}.parquet").is_file():
            raise FileNotFoundError(
                f"{folder / table}.parquet is missing: run `snakemake -c1 partial --config study={name}`"
            )
    known = {treatment.name: treatment for treatment in treatments(study)}
    with _reading(folder / "cells.parquet", name) as path:
        cells = _with_every_metric(pq.read_table(path).to_pandas())
        cells[_NEEDED]
    with _reading(folder / "effects.parquet", name) as path:
        effects = [_effect(row) for row in pq.read_table(path).to_pylist()]
    with _reading(folder / "saturation.parquet", name) as path:
        saturation = tuple(row for row in pq.read_table(path).to_pylist() if row["treatment"] in known)
    with _reading(folder / "accuracy.parquet", name) as path:
        accuracy = _accuracy(path, known)
    return StudyData(
        name,
        study,
        configuration,
        layout,
        cells[cells["treatment"].isin(list(known))],
        tuple(effect for effect in effects if effect.kind == "treatment" and effect.treatment in known),
        tuple(effect for effect in effects if effect.kind == "noise floor" and effect.treatment in known),
        saturation,
        tuple(effect for effect in effects if effect.kind in ("main effect", "interaction")),
        tuple(effect for effect in effects if effect.kind == "simple effect"),
        accuracy,
    )


@contextmanager
def _reading(path: Path, study: str) -> Iterator[Path]:
    """`path`; what goes wrong in reading it is a DamagedTableError."""
    remedy = f"delete it and run `snakemake -c1 partial --config study={study}`"
    try:
        yield path
    except (OSError, ValueError) as error:
        raise DamagedTableError(f"{path} cannot be read ({error}): {remedy}") from error
    except KeyError as error:
        raise DamagedTableError(f"{path} is another table, which lacks {error}: {remedy}") from error


def _with_every_metric(cells: pd.DataFrame) -> pd.DataFrame:
    """The table with a column for each metric, null for those that are newer than it: kept tables stay readable."""
    lacking = [column for key in metric_keys() if (column := metric_column(*key)) not in cells]
    return cells.reindex(columns=[*cells.columns, *lacking])


def _accuracy(path: Path, known: Mapping[str, Treatment]) -> tuple[Mapping[str, Any], ...]:
    """The rows of the study's treatments; none where the table is of a time before there was one."""
    if not path.is_file():
        return ()
    return tuple(row for row in pq.read_table(path).to_pylist() if row["treatment"] in known)


def _effect(row: Mapping[str, Any]) -> Effect:
    return Effect(
        kind=row["kind"],
        engine=row["engine"],
        model=row["model"],
        gpu=row["gpu"],
        gpu_count=row["gpu_count"],
        treatment=row["treatment"],
        changed={lever: (level, base) for lever, level, base in json.loads(row["changed"])},
        lever=row["lever"],
        load=row["load"],
        metric=row["metric"],
        statistic=row["statistic"],
        baseline=row["baseline_value"],
        value=row["treatment_value"],
        estimate=row["estimate"],
        low=row["verdict_low"],
        high=row["verdict_high"],
        level=row["verdict_level"],
        alone=None if row["interval_low"] is None else (row["interval_low"], row["interval_high"]),
        pairs=row["pairs"],
        primary=row["primary"],
        verdict=row["verdict"],
        reason=row["reason"] or "",
        minimum_detectable=row["minimum_detectable"],
        noise_floor=row["noise_floor"],
        cautions=tuple(Caution(**caution) for caution in json.loads(row["cautions"])),
    )
