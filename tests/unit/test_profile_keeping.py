"""How a twin takes its place: what holds more stays, and at no moment is there neither what was there nor what comes."""

from pathlib import Path

import pytest

from leverlab.profile.keeping import read_twin, settle, take_place, worth
from leverlab.records import Reason, TwinRecord, write_json

WHOLE = TwinRecord(
    twin="t", server="s", phase="p", cell="c", replicate="r1", tool="nsys", outcome="recorded", started_at="2026-01-01T00:00:00Z",
)  # fmt: skip
PART = WHOLE.model_copy(update={"partial": Reason(code="interrupted", message="told to end")})
FAILED = WHOLE.model_copy(update={"outcome": "failed"})


def made(folder: Path, record: TwinRecord) -> Path:
    folder.mkdir()
    write_json(folder / "twin.json", record)
    return folder


@pytest.mark.parametrize(
    ("there", "new", "stays"),
    [(WHOLE, WHOLE, False), (WHOLE, PART, True), (PART, FAILED, True), (PART, PART, False), (FAILED, PART, False)],
)
def test_what_holds_more_stays(tmp_path: Path, there: TwinRecord, new: TwinRecord, stays: bool) -> None:
    made(tmp_path / "nsys", there)
    new = new.model_copy(update={"cell": "new"})
    take_place(made(tmp_path / ".nsys.1.part", new), tmp_path / "nsys", new)
    assert read_twin(tmp_path / "nsys") == (there if stays else new)
    assert stays or [path.name for path in tmp_path.iterdir()] == ["nsys"]


def test_worth_is_in_the_order_of_what_is_there() -> None:
    assert worth(FAILED) < worth(PART) < worth(WHOLE)


def test_what_was_there_comes_back_where_nothing_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, part = made(tmp_path / "nsys", WHOLE), made(tmp_path / ".nsys.1.part", WHOLE)
    (folder / "kernels.parquet").write_text("recorded before")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path == part:
            raise OSError("no space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="no space"):
        take_place(part, folder, WHOLE)
    assert (folder / "kernels.parquet").read_text() == "recorded before"


def test_a_process_that_is_killed_between_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs any more after a kill: what was put aside is found by the next run, which lets it be what it was."""
    folder, part = made(tmp_path / "nsys", PART), made(tmp_path / ".nsys.1.part", WHOLE)
    aside: list[Path] = []
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        assert path.exists() and (folder.exists() or any(each.exists() for each in aside))
        if path == part:
            raise KeyboardInterrupt
        aside.append(Path(target))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        patched.setattr("leverlab.profile.keeping.settle", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            take_place(part, folder, WHOLE)
    assert not folder.exists() and len(aside) == 1
    settle(folder)
    assert read_twin(folder) == PART and not aside[0].exists()
    folder.rename(aside[0])
    made(folder, WHOLE)
    settle(folder)
    assert read_twin(folder) == WHOLE and not aside[0].exists(), "the new one had taken its place by then"
