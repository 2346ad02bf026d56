"""A form of the weights is claimed of dummy weights alone; a checkpoint is a model of its own, as docs/accuracy.md shows."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from leverlab.config import ConfigError
from tests.unit.repository import SOURCE, Repository

MINE, STUDY = re.findall(
    r"```yaml\n(.*?)```", (SOURCE / "docs/accuracy.md").read_text().partition("<!-- checkpoints -->")[2], re.DOTALL
)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository.at(tmp_path)
    repository.write("my-checkpoints", STUDY)
    return repository


@pytest.fixture
def mine(tmp_path: Path) -> dict[str, Any]:
    """What the page lays over the configuration, of folders that are there."""
    for name in ("mine", "mine-awq"):
        folder = tmp_path / "weights" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_text("{}")
    return dict(yaml.safe_load(MINE.replace("/models/", f"{tmp_path}/weights/")))


def test_two_checkpoints_are_two_servers(repository: Repository, mine: dict[str, Any]) -> None:
    matrix = repository.matrix(study="my-checkpoints", **mine)
    assert {server.model for server in matrix.servers.values()} == {"mine", "mine-awq"}


@pytest.mark.parametrize("level", ["awq", "gptq", "fp8-checkpoint"])
def test_a_form_is_not_claimed_of_weights_that_are_there(
    repository: Repository, mine: dict[str, Any], level: str
) -> None:
    text = STUDY.replace("model: [mine, mine-awq]", f"quantization: [none, {level}]")
    text = text.replace("{model: mine,", "{quantization: none,").replace("{model: tpot", "{quantization: tpot")
    repository.write("my-checkpoints", text)
    with pytest.raises(ConfigError, match=rf"quantization={level} says in which form the weights of mine are"):
        repository.matrix(study="my-checkpoints", **mine)
    repository.write("my-checkpoints", text.replace("[mine]", "[llama-3.1-8b-shape]"))
    assert len(repository.matrix(study="my-checkpoints").servers) == 2
