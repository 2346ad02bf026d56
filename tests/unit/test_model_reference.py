"""A second model that a level refers to: in flags, in identities, among what a job is told, and where a server is started."""

import json
from pathlib import Path
from typing import Any

import pytest

from leverlab.config import ConfigError
from leverlab.config.model_reference import named_models, own_models, with_folders, with_own
from leverlab.engines.base import Launch
from leverlab.engines.vllm import VllmEngine
from leverlab.matrix.jobs import job_specification
from leverlab.matrix.servers import Server
from leverlab.reproduce.recorded import server_of
from tests.unit.repository import Repository

SPECULATING = {"method": "draft_model", "model": "{draft}", "num_speculative_tokens": 5}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository.at(tmp_path)
    found.change("engines: [truth]", "engines: [vllm-cpu]")
    found.change("prefix_caching: [on, off]", "speculation: [off, draft]")
    found.change("{prefix_caching: on, ", "{speculation: off, ")
    found.change("  prefix_caching: ttft_s", "  speculation: ttft_s")
    return found


def servers(repository: Repository, **settings: Any) -> dict[str, Server]:
    return {entry.treatment.name: entry.cell.server for entry in repository.study(**settings).cells}


def test_references_are_found_wherever_they_stand() -> None:
    flags = {"a": {"model": "{draft}"}, "b": ["x", "{model:one}/tokenizer"], "c": 5, "d": "{model:two} {model:one}"}
    assert own_models(flags) == ["draft"] and own_models({"b": ["draft", 1], "c": None}) == []
    assert own_models({"a": "{eagle}", "b": ["{draft}", "{eagle}"]}) == ["eagle", "draft"]
    named = with_own(flags, "draft", "three")
    assert named == {**flags, "a": {"model": "{model:three}"}}
    assert named_models(named) == ["three", "one", "two"]
    filled = with_folders({"flags": named, "gpu": 1}, {"one": "/m/1", "two": "/m/2", "three": "results/3"})
    assert filled == {
        "flags": {"a": {"model": "results/3"}, "b": ["x", "/m/1/tokenizer"], "c": 5, "d": "/m/2 /m/1"},
        "gpu": 1,
    }


def test_the_draft_model_is_part_of_the_identity_of_the_server_that_drafts_and_of_no_other(
    repository: Repository,
) -> None:
    before = servers(repository)
    drafting, plain = before["speculation=draft"], before["baseline"]
    assert drafting.identity["flags"]["speculative-config"]["model"] == "{model:tiny-llama-draft}"
    assert drafting.identity["models"]["tiny-llama-draft"]["kind"] == "synthetic"
    assert drafting.other_models == ("tiny-llama-draft",)
    assert "models" not in plain.identity and plain.other_models == ()
    assert server_of("vllm-cpu", drafting.identity).other_models == ("tiny-llama-draft",)
    shape = repository.configuration().models["tiny-llama-draft"].model_dump()
    shape["source"]["shape"]["num_hidden_layers"] = 3
    deeper = servers(repository, models={"tiny-llama-draft": shape})
    assert {name for name in before if before[name].id != deeper[name].id} == {"speculation=draft"}


def test_a_job_is_told_the_folder_and_the_server_is_started_with_it(repository: Repository) -> None:
    matrix = repository.matrix()
    told = {
        job.server.id: job_specification(job, matrix.configuration, repository.layout)
        for job in matrix.jobs
        if job.server == servers(repository)["speculation=draft"]
    }
    [specification] = {json.dumps(each.other_model_folders): each for each in told.values()}.values()
    folder = str(repository.layout.model("tiny-llama-draft"))
    assert specification.other_model_folders == {"tiny-llama-draft": folder}
    assert specification.identity["flags"]["speculative-config"]["model"] == "{model:tiny-llama-draft}"
    launched = with_folders(specification.identity, specification.other_model_folders)
    words = VllmEngine().command(Launch(["python"], Path("m"), launched, "127.0.0.1", 1, "key", [], Path()))
    given = json.loads(words[words.index("--speculative-config") + 1])
    assert given == {**SPECULATING, "model": folder}
    effective = {"settings": {"speculative_config": given, "arguments": {}}}
    keys = [item.key for item in VllmEngine().differences(launched, effective)]
    assert "speculative-config" not in keys
    other = {"settings": {"speculative_config": {**given, "model": "another"}, "arguments": {}}}
    assert "speculative-config" in [item.key for item in VllmEngine().differences(launched, other)]


def test_a_model_without_a_draft_model_is_told_where_one_is_asked_for(repository: Repository) -> None:
    repository.change("[tiny-llama]", "[tiny-mixtral]")
    with pytest.raises(
        ConfigError, match=r"config/models.yaml: tiny-mixtral: .* asks for its draft model.* add `draft:`"
    ):
        repository.study()


def test_a_misspelt_model_names_its_neighbour(repository: Repository) -> None:
    entry = repository.configuration().models["tiny-llama"].model_dump()
    with pytest.raises(
        ConfigError, match=r"models.yaml: tiny-llama.draft: there is no model 'tiny-lama-draft'; did you mean"
    ):
        repository.study(models={"tiny-llama": {**entry, "draft": "tiny-lama-draft"}})
    repository.change(
        'speculative-config: {method: draft_model, model: "{draft}", num_speculative_tokens: 5}',
        'speculative-config: {method: draft_model, model: "{model:tiny-lama}", num_speculative_tokens: 5}',
        "config/levers.yaml",
    )
    with pytest.raises(
        ConfigError, match=r"config/levers.yaml: there is no model 'tiny-lama'; did you mean 'tiny-llama'"
    ):
        repository.study()


def test_synthetic_acceptance_yields_what_the_levels_say(repository: Repository) -> None:
    levers = repository.configuration().levers

    def drafting(lever: str, level: str) -> dict[str, Any]:
        effect = levers[lever].effect(level, "vllm")
        assert effect is not None
        told = effect.flags["speculative-config"]
        assert isinstance(told, dict) and len(told["synthetic_acceptance_rates"]) == told["num_speculative_tokens"]
        return told

    for tokens in (2, 4):
        assert 1 + sum(drafting("speculation", f"synthetic-{tokens}")["synthetic_acceptance_rates"]) == pytest.approx(
            tokens
        )
    for tokens in (1, 3, 5, 7):
        rates = drafting("speculative_tokens", str(tokens))["synthetic_acceptance_rates"]
        assert rates == pytest.approx([0.8**position for position in range(1, tokens + 1)], rel=1e-5)


def test_an_eagle_head_is_named_by_the_model_that_it_drafts_for(repository: Repository) -> None:
    repository.change("speculation: [off, draft]", "speculation: [off, eagle3]")
    server = servers(repository)["speculation=eagle3"]
    assert server.identity["flags"]["speculative-config"]["model"] == "{model:tiny-llama-eagle3}"
    assert server.other_models == ("tiny-llama-eagle3",)
    repository.change("  eagle: tiny-llama-eagle3\n", "", "config/models.yaml")
    with pytest.raises(
        ConfigError, match=r"tiny-llama: a level of config/levers.yaml asks for its EAGLE head.*add `eagle:`"
    ):
        servers(repository)
