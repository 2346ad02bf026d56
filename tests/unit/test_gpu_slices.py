"""A slice of a GPU as docs/topologies.md enters it: a GPU type of its own, which theory and the scheduler know."""

import re
from pathlib import Path

import pytest

from leverlab.theory.configured import server_of
from leverlab.theory.expected import expected
from leverlab.theory.occasion import Occasion
from tests.unit.repository import SOURCE, STUDY, Repository


def test_the_entry_in_the_docs_is_planned_like_any_gpu(tmp_path: Path) -> None:
    (entry,) = re.findall(r"```yaml\n(h100-3g-40gb:.*?)```", (SOURCE / "docs/topologies.md").read_text(), re.DOTALL)
    repository = Repository.at(tmp_path)
    gpus = tmp_path / "config/gpus.yaml"
    gpus.write_text(f"{gpus.read_text()}\n{entry}")
    repository.write("small", STUDY.replace("[truth]", "[vllm]").replace("[cpu]", "[h100-3g-40gb, h100]"))
    matrix = repository.matrix()
    assert {server.gpu for server in matrix.servers.values()} == {"h100-3g-40gb", "h100"}
    configuration = repository.configuration()
    assert configuration.gpus["h100-3g-40gb"].slurm.gpu_model == "3g.40gb"
    occasion = Occasion(prompts=(256,), outputs=(16,), running=1.0)
    floor = {
        server.gpu: expected("decode_floor_s", server_of(server.identity, configuration), occasion)
        for server in matrix.servers.values()
    }
    assert floor["h100-3g-40gb"] == pytest.approx(2 * floor["h100"], rel=0.01), "half of the bandwidth"
