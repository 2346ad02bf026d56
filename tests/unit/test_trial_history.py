"""What earlier starts of a server tell a later one."""

from pathlib import Path

from leverlab.layout import Layout
from leverlab.records import TrialRecord, write_json
from leverlab.trial.history import has_served


def trial(layout: Layout, server: str, replicate: str, **known: object) -> Path:
    folder = layout.trial(server, replicate, 1)
    folder.mkdir(parents=True)
    begun = "2026-03-01T10:00:00.000+00:00"
    record = TrialRecord(server=server, replicate=replicate, trial=1, outcome="finished", started_at=begun)
    write_json(folder / "trial.json", record.model_copy(update=known))
    return folder / "trial.json"


def test_a_server_has_served_once_a_trial_of_any_replicate_told_its_configuration(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert not has_served("a", layout)
    trial(layout, "a", "r1", outcome="infeasible")
    assert not has_served("a", layout)
    trial(layout, "a", "r2", effective={"version": "1"})
    assert has_served("a", layout)
    assert not has_served("b", layout)


def test_a_record_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    trial(layout, "a", "r1", effective={"version": "1"}).write_text("{")
    assert not has_served("a", layout)
