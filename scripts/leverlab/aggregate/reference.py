"""Generates the tables of docs/metrics.md, docs/statistics.md and docs/theory.md: metrics, checks, quantities of theory, and the
columns of a study's tables.

`python -m leverlab.aggregate.reference` writes them; with `--check` it writes nothing and exits 1 where they have drifted.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from leverlab.aggregate.schema import (
    accuracy_schema,
    cells_schema,
    effects_schema,
    metric_keys,
    requests_schema,
    saturation_schema,
)
from leverlab.checks import CHECKS
from leverlab.metrics import METRICS
from leverlab.quantities import DERIVED, QUANTITIES
from leverlab.records import write_bytes

PAGES: Final = (Path("docs/metrics.md"), Path("docs/statistics.md"), Path("docs/theory.md"), Path("docs/accuracy.md"))
_MARKED: Final = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Name of a marked place → the Markdown that belongs there."""
    metric_columns = {f"{name}_{statistic}" if statistic else name for name, statistic in metric_keys()}
    return {
        "metrics": _metrics(),
        "quantities": _quantities(),
        "checks": _table(("Code", "Question"), [(f"`{check.code}`", check.question) for check in CHECKS]),
        "requests-columns": _columns(requests_schema([])),
        "cells-columns": _columns(
            field
            for field in cells_schema([])
            if field.name not in metric_columns and "order-statistic" not in _text(field)
        ),
        "effects-columns": _columns(effects_schema()),
        "saturation-columns": _columns(saturation_schema()),
        "accuracy-columns": _columns(accuracy_schema()),
    }


def generated(page: str) -> str:
    """`page` with every marked place filled. Raises KeyError for a place that has no table."""
    made = tables()
    return _MARKED.sub(lambda found: f"{found[1]}{made[found['name']]}\n{found[3]}", page)


def _metrics() -> str:
    better = {"lower": "lower", "higher": "higher", "neither": "–"}
    rows = [
        (
            f"`{metric.name}`",
            metric.label,
            "–" if metric.unit == "1" else metric.unit,
            metric.definition,
            ", ".join(metric.statistics) or "one value a cell",
            better[metric.better],
            metric.comparison,
        )
        for metric in METRICS.values()
    ]
    return _table(("Name", "What", "Unit", "Definition", "Statistics", "Better", "Compared by"), rows)


def _quantities() -> str:
    rows = [
        (
            f"`{quantity.name}`",
            quantity.label,
            "–" if quantity.unit == "1" else quantity.unit,
            quantity.definition,
            "–" if quantity.sense == "property" else quantity.sense,
            "worked out" if quantity.beside == DERIVED else f"`{quantity.beside}`" if quantity.beside else "–",
            quantity.source,
        )
        for quantity in QUANTITIES.values()
    ]
    return _table(("Name", "What", "Unit", "Definition", "What it is", "Measured beside it", "Source"), rows)


def _columns(fields: Iterable[pa.Field]) -> str:
    rows = [
        (f"`{field.name}`", str(field.type), field.metadata[b"unit"].decode() or "–", _text(field)) for field in fields
    ]
    return _table(("Column", "Type", "Unit", "Definition"), rows)


def _text(field: pa.Field) -> str:
    return str(field.metadata[b"definition"].decode())


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Write the pages, or with `--check` say which of them have drifted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page has drifted")
    arguments = parser.parse_args()
    drifted = [
        page for page in PAGES if generated(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")
    ]
    for page in drifted:
        if not arguments.check:
            write_bytes(page, generated(page.read_text(encoding="utf-8")).encode())
        print(
            f"{page}: {'has drifted: run `python -m leverlab.aggregate.reference`' if arguments.check else 'written'}"
        )
    return 1 if drifted and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
