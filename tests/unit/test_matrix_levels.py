"""What a lever's level may name and set besides flags: clients, caches, workloads, engines, fields of the request."""

from pathlib import Path
from typing import Any

import pytest

from leverlab.config import ConfigError
from tests.unit.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.at(tmp_path)


def test_a_client_that_cannot_wait_is_refused_for_conversations(repository: Repository) -> None:
    old = "{kind: shared-prefix, requests: 24, groups: 3, prefix_tokens: 256, suffix_tokens: 16, output_tokens: 16}"
    new = "{kind: multi-turn, requests: 24, turns: 4, system_tokens: 64, message_tokens: 16, output_tokens: 16}"
    repository.change(old, new)
    assert {entry.cell.phase.client for entry in repository.study().cells} == {"replay"}
    repository.change("replicates: 2", "replicates: 2\nclient: vllm-bench")
    with pytest.raises(
        ConfigError, match=r"small\.yaml: the client 'vllm-bench' cannot wait for an answer.*multi-turn"
    ):
        repository.study()


def test_a_lever_whose_levels_name_clients_asks_one_server_by_each_of_them(repository: Repository) -> None:
    repository.change("prefix_caching: [on, off]", "client: [replay, vllm-bench]")
    repository.change("{prefix_caching: on, ", "{client: replay, ")
    repository.change("  prefix_caching: ttft_s", "  client: ttft_s")
    repository.change("[64, 4]", "[64]")
    study = repository.study()
    assert len({entry.cell.server.id for entry in study.cells}) == 1
    assert [(entry.treatment.name, entry.cell.phase.client) for entry in study.cells[::2]] == [
        ("baseline", "replay"),
        ("client=vllm-bench", "vllm-bench"),
    ]
    assert len({entry.cell.id for entry in study.cells}) == 4


def test_a_lever_whose_levels_name_states_of_the_caches_asks_one_server_from_each_of_them(
    repository: Repository,
) -> None:
    plain = {entry.load: entry.cell.phase.id for entry in repository.study().cells if entry.treatment.is_baseline}
    repository.change("prefix_caching: [on, off]", "cache_state: [cold, warm, tier, restarted]")
    repository.change("{prefix_caching: on, ", "{cache_state: cold, ")
    repository.change("  prefix_caching: ttft_s", "  cache_state: ttft_s")
    repository.change("[64, 4]", "[64]")
    study = repository.study()
    assert len({entry.cell.server.id for entry in study.cells}) == 1
    assert [entry.cell.phase.cache for entry in study.cells[::2]] == ["cold", "warm", "tier", "restarted"]
    assert {entry.load: entry.cell.phase.id for entry in study.cells if entry.treatment.is_baseline} == plain


def test_levers_that_set_one_flag_to_different_values_are_refused(repository: Repository) -> None:
    clash = {"levels": {"on": {"truth": {"flags": {"max-num-seqs": 1}}}, "off": {"truth": {}}}}
    with pytest.raises(
        ConfigError, match="max_num_seqs=64 and prefix_caching=on both set max-num-seqs, to different values"
    ):
        repository.study(levers={"prefix_caching": clash})


NAMED = "levers:\n  scenario: [chatbot, retrieval]\n  max_num_seqs: [64, 4]\nbaseline: {scenario: chatbot, max_num_seqs: 64}"


def with_scenarios(repository: Repository) -> None:
    old = "levers:\n  prefix_caching: [on, off]\n  max_num_seqs: [64, 4]\nbaseline: {prefix_caching: on, max_num_seqs: 64}"
    repository.change(old, NAMED)
    repository.change("  prefix_caching: ttft_s p50 at rate 8", "  scenario: ttft_s p50 at rate 8")


def asked(repository: Repository) -> dict[str, dict[str, Any]]:
    """Treatment → the workload that it is asked."""
    return {entry.treatment.name: entry.cell.phase.workload.identity["workload"] for entry in repository.study().cells}


def test_a_level_may_name_the_workload_that_is_asked(repository: Repository) -> None:
    with_scenarios(repository)
    found = asked(repository)
    assert found["baseline"]["kind"] == "shared-prefix" and found["baseline"]["groups"] == 8
    assert found["scenario=retrieval"]["kind"] == "retrieval"
    study = repository.study()
    assert len({entry.cell.server.id for entry in study.cells if "max_num_seqs" not in entry.treatment.name}) == 1


def test_a_studys_own_workload_goes_before_the_one_of_that_name(repository: Repository) -> None:
    with_scenarios(repository)
    before = asked(repository)
    own = "workloads:\n  retrieval: {kind: random, requests: 20, prompt_tokens: 64, output_tokens: 8}\n"
    repository.change("replicates: 2", own + "replicates: 2")
    after = asked(repository)
    assert changed_names(before, after) == {"scenario=retrieval"} and after["scenario=retrieval"]["kind"] == "random"
    repository.change(
        "workload: {kind: shared-prefix, requests: 24, groups: 3, prefix_tokens: 256, suffix_tokens: 16, output_tokens: 16}",
        "workload: own",
    )
    with pytest.raises(ConfigError, match=r"workload: there is no 'own' in config/workloads\.yaml"):
        repository.study()
    repository.change("  retrieval: {kind", "  own: {kind")
    assert asked(repository)["baseline"]["kind"] == "shared-prefix", "the level names another one"


def changed_names(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_levels_that_name_what_is_no_workload_or_two_of_them_are_refused(repository: Repository) -> None:
    with_scenarios(repository)
    lever = {"title": "T", "mechanism": "M", "indicator": {"metric": "ttft_s p50", "load": "burst"}}
    named = {"levels": {"64": {"truth": {"workload": "chat"}}, "4": {"truth": {"workload": "chatt"}}}, "values": None}
    with pytest.raises(ConfigError, match="two levers name a workload, chatbot and chat: only one can be asked"):
        repository.study(levers={"max_num_seqs": {**lever, **named}})
    plain = {level: {"truth": {}} for level in ("chatbot", "retrieval")}
    with pytest.raises(ConfigError, match="a level names the workload 'chatt', which is none; did you mean 'chat'"):
        repository.study(
            levers={"max_num_seqs": {**lever, **named}, "scenario": {**lever, "levels": plain, "expectation": None}}
        )


SERVING = {
    "title": "Batching",
    "mechanism": "Another server.",
    "indicator": {"metric": "throughput", "load": "burst"},
    "levels": {
        "here": {"vllm": {}},
        "there": {"vllm": {"engine": {"cpu": "static-cpu", "cuda": "static"}}},
        "strict": {"vllm": {"request": {"grammar": {"regex": "[a-z]+"}}}},
        "stricter": {"vllm": {"request": {"grammar": {"regex": "[a]+"}}}},
    },
}


OTHER = """\
question: What does another engine do?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 8, prompt_tokens: 16, output_tokens: 4}
load: {rates: [inf]}
levers: {serving: [here, there]}
baseline: {serving: here}
replicates: 1
"""


def test_a_level_may_name_an_engine_for_each_device(repository: Repository) -> None:
    repository.write("other", OTHER)
    levers = {"serving": SERVING}
    assert {server.engine for server in repository.matrix(study="other", levers=levers).servers.values()} == {
        "vllm-cpu",
        "static-cpu",
    }
    repository.write("other", OTHER.replace("[vllm-cpu]", "[vllm]").replace("[cpu]", "[h100]"))
    assert {server.engine for server in repository.matrix(study="other", levers=levers).servers.values()} == {
        "vllm",
        "static",
    }


def test_fields_of_the_request_are_of_the_phase_and_leave_the_server_alone(repository: Repository) -> None:
    repository.write("other", OTHER.replace("[here, there]", "[here, strict]"))
    matrix = repository.matrix(study="other", levers={"serving": SERVING})
    assert len(matrix.servers) == 1
    phases = [entry.cell.phase for entry in matrix.studies[0].cells]
    assert [phase.identity.get("request") for phase in phases] == [None, {"grammar": {"regex": "[a-z]+"}}]
    assert "request" not in phases[0].identity, "what adds nothing keeps its id"


def test_two_levels_that_set_a_field_to_different_values_are_refused(repository: Repository) -> None:
    again = {**SERVING, "levels": {"strict": SERVING["levels"]["stricter"]}}  # type: ignore[index]
    text = OTHER.replace("{serving: [here, there]}", "{serving: [strict], again: [strict]}")
    repository.write("other", text.replace("{serving: here}", "{serving: strict, again: strict}"))
    with pytest.raises(ConfigError, match="set 'grammar' of a request, to different values"):
        repository.matrix(study="other", levers={"serving": SERVING, "again": again})


def test_a_number_in_a_variable_of_the_environment_is_text(repository: Repository) -> None:
    values = {
        "minimum": 1,
        "engines": {"truth": {"environment": {"CHUNK": "{value}"}, "flags": {"max-num-seqs": "{value}"}}},
    }
    matrix = repository.matrix(levers={"max_num_seqs": {"values": values}})
    told = {
        (server.identity["environment"]["CHUNK"], server.identity["flags"]["max-num-seqs"])
        for server in matrix.servers.values()
    }
    assert told == {("64", 64), ("4", 4)}


CLASSES = (
    "kind: interactive-batch, requests: 24, interactive_share: 0.5, interactive_prompt_tokens: 8, interactive_output_tokens: 4, "
    "batch_prompt_tokens: 64, batch_output_tokens: 16"
)


def test_priorities_are_refused_where_nobody_sends_them_or_they_mean_the_opposite(repository: Repository) -> None:
    repository.change(
        "kind: shared-prefix, requests: 24, groups: 3, prefix_tokens: 256, suffix_tokens: 16, output_tokens: 16",
        CLASSES,
    )
    assert repository.study().cells
    repository.change("replicates: 2", "replicates: 2\nclient: vllm-bench")
    with pytest.raises(ConfigError, match="the client 'vllm-bench' sends no priorities"):
        repository.study()
    repository.change("\nclient: vllm-bench", "")
    repository.change("engines: [truth]", "engines: [sglang]")
    repository.change("gpus: [cpu]", "gpus: [h100]")
    with pytest.raises(ConfigError, match="SGLang serves the larger priority first"):
        repository.study()
