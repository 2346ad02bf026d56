"""The folder in which a twin is kept: what stands there, and what takes its place."""

import shutil
from pathlib import Path

from leverlab.layout import TWIN_FILE
from leverlab.records import TwinRecord, read_json


def read_twin(folder: Path) -> TwinRecord | None:
    """The record of the twin kept in `folder`; None where there is none that can be read."""
    try:
        return TwinRecord.model_validate(read_json(folder / TWIN_FILE))
    except (OSError, ValueError):
        return None


def worth(record: TwinRecord) -> int:
    """How much a twin holds, to be compared: nothing, a part, or all that it was to record."""
    return 0 if record.outcome != "recorded" else 1 if record.partial else 2


def take_place(part: Path, folder: Path, record: TwinRecord) -> None:
    """Let `part` be `folder`, unless what stands there holds more: a whole recording gives way to a whole one alone, a part to either.

    What stood there is removed last: it comes back where `part` cannot take its place, by `settle` also after a kill.
    """
    there = read_twin(folder)
    if there is not None and worth(there) > worth(record):
        return
    try:
        if folder.exists():
            folder.rename(_aside(folder))
        part.rename(folder)
    finally:
        settle(folder)


def settle(folder: Path) -> None:
    """Bring back what was put aside for another to take its place in `folder`, where none did; else remove it."""
    aside = _aside(folder)
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():
        aside.rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before")
