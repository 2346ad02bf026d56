"""What the documents show as YAML is YAML that the program takes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from leverlab.config import load
from leverlab.matrix.expand import expand
from tests.unit.repository import SOURCE, Repository

PAGES = [
    "config/README.md",
    "docs/adding-a-lever.md",
    "docs/adding-a-gpu.md",
    "docs/adding-an-engine.md",
    "docs/tutorial.md",
    "README.md",
]


def blocks(page: str) -> list[dict[str, Any]]:
    found = re.findall(r"```yaml\n(.*?)```", (SOURCE / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return [yaml.safe_load(block) for block in found]


def settings_of(block: dict[str, Any]) -> dict[str, Any]:
    """A block as settings: it shows settings, entries of a lever, a GPU or an engine, or a part of a lever."""
    if set(block) <= {"engines", "models", "gpus"}:
        return block
    entries = {"mechanism": "levers", "slurm": "gpus", "launch": "engines"}
    for key, kind in entries.items():
        if all(key in entry for entry in block.values()):
            return {kind: block}
    assert set(block) == {"values"}, f"the test does not know what {block} shows"
    return {"levers": {"max_num_seqs": block}}


@pytest.mark.parametrize("page", PAGES)
def test_examples_are_accepted(page: str, tmp_path: Path) -> None:
    shown = blocks(page)
    assert shown
    repository = Repository.at(tmp_path)
    levers: dict[str, Any] = {}
    for block in shown:
        if "question" in block:
            # It may ask for a lever that the page has shown before.
            repository.write("shown", yaml.safe_dump(block))
            assert expand(load(tmp_path, {"study": "shown", "levers": levers}), ["shown"]).jobs
        else:
            settings = settings_of(block)
            load(tmp_path, {"study": [], **settings})
            levers |= {} if set(block) == {"values"} else settings.get("levers", {})
