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
from tests.unit.matrices import phases, servers
from tests.unit.repository import Repository

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


def test_a_server_that_is_split_in_two_ways_takes_the_product_of_the_gpus(repository: Repository) -> None:
    repository.change("engines: [truth]", "engines: [vllm]")
    repository.change("gpus: [cpu]", "gpus: [h100]")
    repository.change("  max_num_seqs: [64, 4]", "  tensor_parallel: [1, 2]\n  pipeline_parallel: [1, 2]")
    repository.change("max_num_seqs: 64}", "tensor_parallel: 1, pipeline_parallel: 1}")
    repository.change("  max_num_seqs: throughput at burst", "  tensor_parallel: throughput at burst")
    repository.change("replicates: 2", "replicates: 2\ndesign: {factorial: [tensor_parallel, pipeline_parallel]}")
    taken = {entry.treatment.name: entry.cell.server.gpu_count for entry in repository.study().cells}
    assert sorted(taken.values()) == [1, 2, 2, 4] and taken["tensor_parallel=2, pipeline_parallel=2"] == 4


def test_identities_are_kept_in_the_form_that_is_hashed(repository: Repository) -> None:
    cell = repository.study().cells[0].cell
    for each in (cell.server, cell.phase, cell.phase.workload):
        assert each.identity == canonical(each.identity)
        assert each.id.endswith(content_hash(each.identity))
    assert replace(cell.phase, request_timeout_s=1).id == cell.phase.id
