"""What a profile's file says is what takes effect, to the last entry: nothing overrides it, nothing is misspelt."""

import contextlib
import io
from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_args
from snakemake.utils import available_cpu_count

ROOT = Path(__file__).parents[2]
PROFILES = ("slurm", "profiles/local")


def effective(monkeypatch, *arguments):
    """Snakemake's settings for a command line given at the root, and what it says about where they came from."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        _, settings = parse_args([*arguments])
    return vars(settings), said.getvalue()


def entries(profile):
    return yaml.safe_load((ROOT / profile / "config.yaml").read_text())


def as_number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def comparable(setting):
    """Settings that are objects have no equality of their own."""
    return vars(setting) if hasattr(setting, "__dict__") else setting


def differences(settings, profile):
    """The profile's entries that have not taken effect as they stand in its file."""
    wrong = {}
    for key, wanted in entries(profile).items():
        found = settings[key.replace("-", "_")]
        if key == "cores":
            wanted = {"all": available_cpu_count()}.get(wanted, wanted)
        if key == "default-resources":
            found = {name: found[name].value if name in found else None for name in wanted}
        if as_number(found) != as_number(wanted):
            wrong[key] = (wanted, found)
    return wrong


def test_link_leads_to_the_profile():
    assert (ROOT / "slurm").is_symlink()
    assert (ROOT / "slurm").readlink() == Path("profiles/slurm")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_entry_takes_effect(monkeypatch, profile):
    settings, said = effective(monkeypatch, "--profile", profile)
    assert differences(settings, profile) == {}
    assert "workflow specific profile" not in said


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_else_changes(monkeypatch, profile):
    plain, _ = effective(monkeypatch)
    settings, _ = effective(monkeypatch, "--profile", profile)
    changed = {key for key in settings if comparable(settings[key]) != comparable(plain[key])} - {"profile"}
    assert changed <= {key.replace("-", "_") for key in entries(profile)}


def test_the_command_line_of_the_readme_changes_nothing_else(monkeypatch):
    settings, _ = effective(monkeypatch, "--profile", "slurm", "--config", "study=first-look")
    assert differences(settings, "slurm") == {}
    assert settings["config"] == ["study=first-look"]


def test_no_profile_is_taken_unasked(monkeypatch):
    settings, said = effective(monkeypatch, "--cores", "1")
    assert said == ""
    assert settings["executor"] is None
    assert not (ROOT / "profiles" / "default").exists()


def test_an_overriding_workflow_profile_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "config.yaml").write_text("retries: 0\ndefault-resources:\n  mem_mb: 1\n")
    settings, said = effective(monkeypatch, "--profile", "slurm", "--workflow-profile", str(tmp_path))
    assert set(differences(settings, "slurm")) == {"retries", "default-resources"}
    assert "workflow specific profile" in said


def test_an_unknown_entry_is_refused(monkeypatch, tmp_path):
    text = (ROOT / "slurm" / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("slurm-status-attempts", "slurm-status-atempts"))
    with pytest.raises(SystemExit) as exit_:
        effective(monkeypatch, "--profile", str(tmp_path))
    assert exit_.value.code == 2


@pytest.mark.parametrize("profile", PROFILES)
def test_every_entry_has_its_reason(profile):
    paragraphs = (ROOT / profile / "config.yaml").read_text().strip().split("\n\n")
    assert [paragraph for paragraph in paragraphs if "#" not in paragraph] == []
