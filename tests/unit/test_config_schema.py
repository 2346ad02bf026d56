"""What is generated from the configuration's models: up to date, complete, and true of the repository's own files."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import RootModel

from leverlab.config import Settings, load
from leverlab.config.files import read_mapping
from leverlab.config.schema import ENTRIES, SchemaError, _reachable, generated, tables
from leverlab.config.study import Study
from tests.unit.repository import SOURCE, STUDY


def test_nothing_has_drifted() -> None:
    for file, content in generated(SOURCE).items():
        assert (SOURCE / file).read_text(encoding="utf-8") == content, f"run `python -m leverlab.config.schema`: {file}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(SOURCE / "config", tmp_path / "config")
    return tmp_path


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leverlab.config.schema", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_finds_drift_and_mends_it(copy: Path) -> None:
    assert command(copy, "--check").returncode == 0
    schema, readme = copy / "config" / "schema" / "study.json", copy / "config" / "README.md"
    schema.write_text(schema.read_text().replace("replicates", "repetitions"))
    readme.write_text(readme.read_text().replace("| `replicates` |", "| `repetitions` |"))
    found = command(copy, "--check")
    assert found.returncode == 1 and "config/schema/study.json, config/README.md" in found.stderr
    assert "repetitions" in schema.read_text(), "--check writes nothing"
    assert command(copy).returncode == 0 and command(copy, "--check").returncode == 0
    assert "| `replicates` |" in readme.read_text()


def test_a_new_lever_appears_in_the_table(copy: Path) -> None:
    levers = copy / "config" / "levers.yaml"
    levers.write_text(levers.read_text().replace("max_num_seqs:\n", "slots:\n", 1))
    assert command(copy, "--check").returncode == 1
    assert command(copy).returncode == 0
    assert "| `slots` | any integer from 1 |" in (copy / "config" / "README.md").read_text()


def test_a_readme_without_a_place_for_a_table_is_refused(copy: Path) -> None:
    readme = copy / "config" / "README.md"
    readme.write_text(readme.read_text().replace("<!-- generated: gpus -->", ""))
    with pytest.raises(SchemaError, match="the marked places are"):
        generated(copy)


def test_every_key_is_explained() -> None:
    for model in {each for top in (Settings, Study, *ENTRIES.values()) for each in _reachable(top)}:
        if not issubclass(model, RootModel):
            unexplained = [
                name for name, field in model.model_fields.items() if not field.description and name != "kind"
            ]
            assert not unexplained, f"{model.__name__}: {unexplained}"
            assert model.__doc__


def test_tables_say_how_values_are_written() -> None:
    text = tables(load(SOURCE, {"study": []}))["study"]
    assert "| `request_timeout` | a duration: `500 ms`, `10 min` | `600 s` |" in text
    assert "| `memory` | a size: `80 GiB` | `64 GiB` |" in tables(load(SOURCE, {"study": []}))["gpus"]


@cache
def schema_of(name: str) -> jsonschema.Draft202012Validator:
    """The schema, itself checked; that once, because it takes longer than to hold a file against it."""
    found = json.loads((SOURCE / "config" / "schema" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize("name", [*ENTRIES, "config"])
def test_the_repositorys_files_satisfy_their_schemas(name: str) -> None:
    schema_of(name).validate(read_mapping(SOURCE / "config" / f"{name}.yaml"))


@pytest.mark.parametrize("path", sorted((SOURCE / "config" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_satisfy_their_schema_however_an_editor_reads_on(path: Path) -> None:
    schema_of("study").validate(read_mapping(path))
    schema_of("study").validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("old", "new"), [("replicates", "replicats"), ("[8, inf]", "[-8]"), ("groups: 3", "group: 3"), ("[cpu]", "cpu")]
)
def test_the_schema_refuses_what_the_program_refuses(old: str, new: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        schema_of("study").validate(yaml.safe_load(STUDY.replace(old, new)))


def test_each_file_names_its_schema() -> None:
    for path in (SOURCE / "config").rglob("*.yaml"):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=")
        assert (path.parent / first.partition("=")[2]).is_file()
