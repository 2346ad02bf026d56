"""What becomes of the record of a trial that was killed."""

import os
from pathlib import Path

import pytest

from leverlab.layout import Layout
from leverlab.records import TrialRecord, read_json, write_json
from leverlab.trial.abandoned import close_abandoned_trials

BEGUN = "2026-03-01T10:00:00.000+00:00"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def trial(layout: Layout, number: int, outcome: str) -> Path:
    folder = layout.trial("s", "r1", number)
    folder.mkdir(parents=True)
    record = TrialRecord(server="s", replicate="r1", trial=number, outcome=outcome, started_at=BEGUN, phases=["p"])
    write_json(folder / "trial.json", record)
    return folder


def read(folder: Path) -> TrialRecord:
    return TrialRecord.model_validate(read_json(folder / "trial.json"))


def close(layout: Layout) -> list[int]:
    return [record.trial for record in close_abandoned_trials(layout, "s", "r1")]


def test_a_trial_that_still_runs_by_its_record_was_killed(layout: Layout) -> None:
    folder = trial(layout, 10, "running")
    (folder / "events.jsonl").write_text("")
    (folder / "server.log").write_text("")
    for name, seconds in (("trial.json", 1), ("events.jsonl", 1_772_359_260), ("server.log", 1_900_000_000)):
        os.utime(folder / name, (seconds, seconds))
    assert close(layout) == [10]
    closed = read(folder)
    assert (closed.outcome, closed.phases, closed.ended_at) == ("killed", ["p"], "2026-03-01T10:01:00.000+00:00")
    assert closed.reason is not None and closed.reason.code == "killed" and closed.ended_at in closed.reason.message
    assert close(layout) == []


def test_of_a_trial_that_crashed_the_record_says_where_the_stacks_are(layout: Layout) -> None:
    crashed, killed = trial(layout, 5, "running"), trial(layout, 6, "running")
    (crashed / "client.log").write_text("serving\nFatal Python error: Segmentation fault\n\nThread 0x01:\n")
    (killed / "client.log").write_text("serving\n")
    assert close(layout) == [5, 6]
    reasons = [read(folder).reason for folder in (crashed, killed)]
    assert [reason.code for reason in reasons if reason] == ["crashed", "killed"]
    assert reasons[0] is not None and "(Segmentation fault)" in reasons[0].message
    assert f"in {crashed / 'client.log'}." in reasons[0].message
    assert reasons[1] is not None and "without a word" in reasons[1].message


def test_trials_that_ended_and_records_that_cannot_be_read_are_left_alone(layout: Layout) -> None:
    ended, damaged = trial(layout, 2, "finished"), trial(layout, 3, "running")
    (damaged / "trial.json").write_text("{")
    layout.trial("s", "r1", 4).mkdir(parents=True)
    other = trial(layout, 11, "running")
    before = (ended / "trial.json").read_text()
    assert close(layout) == [11]
    assert (ended / "trial.json").read_text() == before
    assert (damaged / "trial.json").read_text() == "{"
    assert read(other).outcome == "killed"


def test_a_server_without_trials_has_none(layout: Layout) -> None:
    assert close(layout) == []
