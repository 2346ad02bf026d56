"""The generated tables of the documentation are those of the code."""

import re

import pytest

from leverlab.aggregate.reference import PAGES, generated, tables
from leverlab.checks import CHECKS
from leverlab.metrics import METRICS
from tests.unit.repository import SOURCE


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_has_not_drifted(page: object) -> None:
    text = (SOURCE / str(page)).read_text(encoding="utf-8")
    assert generated(text) == text, "run `python -m leverlab.aggregate.reference`"


def test_every_table_has_its_place() -> None:
    places = [
        name for page in PAGES for name in re.findall(r"<!-- generated: ([a-z-]+) -->", (SOURCE / page).read_text())
    ]
    assert sorted(places) == sorted(tables())


def test_a_changed_definition_is_a_drift() -> None:
    page = "<!-- generated: checks -->\nstale words\n<!-- end -->"
    assert "stale words" not in generated(page)
    assert all(f"`{check.code}`" in generated(page) for check in CHECKS)
    assert all(f"`{name}`" in tables()["metrics"] for name in METRICS)
