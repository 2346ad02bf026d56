"""What the course and its other documents want collected: the rows of their tables, listed once."""

from pathlib import Path
from typing import Final

from pydantic import Field, model_validator

from leverlab.config.base import StrictModel, checked_name, validated
from leverlab.config.course import Collected
from leverlab.config.files import read_mapping

COURSE_FILE: Final = "config/course.yaml"


class CourseEntry(StrictModel):
    """A week of the course, whose metrics a study of that week collects, or another document, whose metrics every study has."""

    title: str = Field(description="what it is about")
    week: int | None = Field(default=None, ge=1, le=16, description="the week, whose studies collect `metrics`")
    metrics: list[str] = Field(
        default=[], description="rows of the week's table, as the course names them: keys of a study's `collects`"
    )
    not_measured: dict[str, str] = Field(
        default={}, description="a document's own names of what no study measures → why, as it stands after *because*"
    )
    studies: list[str] = Field(default=[], description="studies of no week that ask what it states")
    everywhere: Collected = Field(default={}, description="a document's own names → metrics that every study measures")

    @model_validator(mode="after")
    def _week_or_document(self) -> "CourseEntry":
        if (self.week is None) == bool(self.metrics) or bool(self.metrics) == bool(self.everywhere):
            raise ValueError("give `week` and `metrics`, or `everywhere`")
        if both := sorted(self.not_measured.keys() & {*self.metrics, *self.everywhere}):
            raise ValueError(f"not_measured: {both[0]!r} is measured: it stands among the others too")
        return self


def read_course(root: Path) -> dict[str, CourseEntry]:
    """The entries of config/course.yaml, in its order. Raises ConfigError naming the key that is wrong."""
    entries = read_mapping(root / COURSE_FILE, COURSE_FILE)
    return {
        checked_name(name, COURSE_FILE): validated(CourseEntry, entry, COURSE_FILE, name)
        for name, entry in entries.items()
    }
