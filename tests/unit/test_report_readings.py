"""Which version's sources a page links: that of the engine whose numbers it shows."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from leverlab.config.course import Source
from leverlab.report.readings import readings
from leverlab.report.source import StudyData
from tests.unit.report_studies import ROOFED
from tests.unit.report_study import make_study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    read = make_study(tmp_path_factory.mktemp("roofed"), ROOFED, records=False).read()
    source = Source(package="lmcache", path="lmcache/v1/token_database.py", why="how a prompt is cut into chunks")
    return replace(read, study=read.study.model_copy(update={"reads": [source]}))


def linked(data: StudyData, versions: Sequence[str | None], status: str = "measured") -> str:
    """The address of the file, had the study's cells been made with LMCache of `versions`, in turn; None: without it."""
    cells = data.cells.copy()
    specifications = [json.loads(text) for text in cells["specification"]]
    for index, specification in enumerate(specifications):
        own = specification["server"].setdefault("engine", {}).setdefault("versions", {})
        version = versions[index % len(versions)]
        own.pop("lmcache", None)
        own.update({"lmcache": version} if version else {})
    cells["specification"] = [json.dumps(each) for each in specifications]
    cells["status"] = status
    (reading,) = readings(replace(data, cells=cells))
    assert reading.link.text == "lmcache/v1/token_database.py"
    return reading.link.href


@pytest.mark.parametrize(
    ("versions", "tag"),
    [
        (["0.5.3"], "v0.5.3"),
        (["0.5.3", None], "v0.5.3"),
        (["0.5.3+cu129"], "v0.5.3"),
        (["0.5.3", "0.5.4"], "v0.5.6"),
        (["0.5.7.dev3"], "v0.5.6"),
        ([None], "v0.5.6"),
    ],
)
def test_the_version_that_was_measured_is_linked(data: StudyData, versions: list[str | None], tag: str) -> None:
    href = linked(data, versions)
    assert href == f"https://github.com/LMCache/LMCache/blob/{tag}/lmcache/v1/token_database.py"


def test_what_was_not_measured_tells_no_version(data: StudyData) -> None:
    assert "/blob/v0.5.6/" in linked(data, ["0.5.3"], status="missing")
