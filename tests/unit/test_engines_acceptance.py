"""Which treatments an engine accepts: refusals name file, lever and flag, and nothing is asked twice."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leverlab.config import load
from leverlab.engines import acceptance
from leverlab.engines.acceptance import Acceptance, check_engine
from leverlab.engines.truth import TruthEngine
from leverlab.layout import Layout
from leverlab.matrix.expand import expand
from leverlab.records import Reason

REPOSITORY = Path(__file__).parents[2]
STUDY = "truth-tour"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("config", "envs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    return tmp_path


def check(root: Path) -> Acceptance:
    matrix = expand(load(root, {"study": [STUDY]}), [STUDY])
    return check_engine("truth", matrix, Layout(root))


def misspell(root: Path, file: str, right: str, wrong: str) -> None:
    path = root / "config" / file
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong))


def test_the_configured_treatments_are_accepted_and_asked_about_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = check(root)
    assert (first.reachable, first.refusals, first.asked) == (True, (), first.servers)
    monkeypatch.setattr(TruthEngine, "check_flags", lambda *_: pytest.fail("asked again"))
    assert check(root).asked == 0


def test_a_levers_misspelt_flag_is_named_with_its_lever(root: Path) -> None:
    misspell(
        root, "levers.yaml", 'truth: {flags: {max-num-seqs: "{value}"}}', 'truth: {flags: {max-num-seq: "{value}"}}'
    )
    found = check(root)
    assert found.refusals
    assert all(refusal.where.startswith("config/levers.yaml: max_num_seqs=") for refusal in found.refusals)
    assert all("did you mean 'max-num-seqs'" in str(refusal) for refusal in found.refusals)


def test_an_engines_own_misspelt_flag_is_named_with_its_file(root: Path) -> None:
    misspell(root, "engines.yaml", "{enable-prefix-caching: true", "{enable-prefix-cachin: true")
    assert {refusal.where for refusal in check(root).refusals} == {
        "config/engines.yaml: truth.flags.enable-prefix-cachin"
    }


def test_a_refusal_is_not_remembered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is part of leverlab learns flags without another environment to show for it."""
    refused = Reason(code="unknown_flag", message="there is no flag --ttft")
    with monkeypatch.context() as older:
        older.setattr(TruthEngine, "check_flags", lambda _, __, treatments: [refused] * len(treatments))
        found = check(root)
        assert len(found.refusals) == found.servers
    assert check(root).refusals == ()


def test_a_new_environment_is_asked_anew_and_one_that_cannot_be_reached_is_left_to_the_job(root: Path) -> None:
    assert check(root).asked
    marker = root / ".envs" / "truth" / acceptance.READY_FILE
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({"reachable": True, "packages": {"truth": "2"}}))
    assert check(root).asked
    marker.write_text(json.dumps({"reachable": False, "reason": "no modules here"}))
    assert check(root).reachable is False


def test_the_script_prints_refusals_and_writes_nothing(root: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts/check_flags.py"), "--engine", "truth", "--study", STUDY]
    done = subprocess.run([*command, "--output", "out.json"], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads((root / "out.json").read_text())["refusals"]) == (0, []), done.stderr
    misspell(
        root, "levers.yaml", 'truth: {flags: {max-num-seqs: "{value}"}}', 'truth: {flags: {max-num-seq: "{value}"}}'
    )
    done = subprocess.run([*command, "--output", "no.json"], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, (root / "no.json").exists()) == (1, False)
    assert "config/levers.yaml: max_num_seqs=" in done.stderr
    assert "Traceback" not in done.stderr
