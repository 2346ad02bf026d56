"""The five tables of a study, written from the cells and the answers that there are."""

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from leverlab.aggregate.accuracy import accuracy_rows
from leverlab.aggregate.answers import Beginnings, beginnings, compare_answers
from leverlab.aggregate.cells import study_rows, with_factors
from leverlab.aggregate.effects import effect_rows
from leverlab.aggregate.saturation import saturation_rows
from leverlab.aggregate.schema import (
    accuracy_schema,
    cells_schema,
    effects_schema,
    requests_schema,
    saturation_schema,
    table_of,
    write_tables,
)
from leverlab.config import Configuration
from leverlab.layout import Layout
from leverlab.matrix.expand import StudyMatrix

_ROW_GROUP: Final = 65_536
"""Requests that are kept in memory until they are written together."""


def write_study(matrix: StudyMatrix, layout: Layout) -> list[dict[str, Any]]:
    """Write requests, cells, effects and saturation.parquet of a study, whole or not; returns the rows of its cells."""
    folder, levers = layout.study(matrix.name), list(matrix.study.levers)
    rows: list[dict[str, Any]] = []
    said: list[Beginnings | None] = []
    schema = requests_schema(levers)
    write_tables(folder / "requests.parquet", schema, _grouped(_requests(matrix, layout, schema, rows, said), schema))
    compare_answers(matrix, rows, said)
    cells, effects = cells_schema(levers), effects_schema()
    write_tables(folder / "cells.parquet", cells, iter([table_of(rows, cells)]))
    write_tables(folder / "effects.parquet", effects, iter([table_of(effect_rows(matrix, rows), effects)]))
    sweep = saturation_schema()
    write_tables(folder / "saturation.parquet", sweep, iter([table_of(saturation_rows(rows), sweep)]))
    return rows


def write_accuracy(matrix: StudyMatrix, configuration: Configuration, layout: Layout) -> list[dict[str, Any]]:
    """Write accuracy.parquet of a study, empty where it asks nothing; returns its rows."""
    rows, schema = accuracy_rows(matrix, configuration, layout), accuracy_schema()
    write_tables(layout.study(matrix.name) / "accuracy.parquet", schema, iter([table_of(rows, schema)]))
    return rows


def _requests(
    matrix: StudyMatrix, layout: Layout, schema: pa.Schema, rows: list[dict[str, Any]], said: list[Beginnings | None]
) -> Iterator[pa.Table]:
    """The requests of each measured cell; every cell's row is left in `rows` on the way, and in `said` what it answered, so that files are
    read once."""
    for found in study_rows(matrix, layout):
        rows.append(found.row)
        said.append(None if found.requests is None else beginnings(found.entry, found.requests))
        if found.requests is not None:
            yield with_factors(found, schema)


def _grouped(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= _ROW_GROUP:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    yield pa.concat_tables([schema.empty_table(), *waiting]).combine_chunks()
