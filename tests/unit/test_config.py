"""Configuration: everything that people type and mean is accepted; everything else is one line that names the key."""

from pathlib import Path
from typing import Any

import pytest

from leverlab.config import ConfigError, load
from leverlab.config.base import nearest
from leverlab.config.files import read_mapping
from leverlab.load_point import LoadPoint
from leverlab.matrix.expand import expand
from tests.unit.repository import SOURCE, STUDY, Repository

WORKLOAD = STUDY.splitlines()[4].removeprefix("workload: ")
FILE = "config/studies/small.yaml"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository.at(tmp_path_factory.mktemp("repository"))


def refusal(repository: Repository, **settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        repository.matrix(**settings)
    return str(error.value)


def refused_study(repository: Repository, old: str, new: str) -> str:
    assert STUDY.count(old) == 1
    repository.write("changed", STUDY.replace(old, new))
    return refusal(repository, study="changed").replace("changed.yaml", "small.yaml")


BAD_STUDIES = {
    "misspelt key": ("replicates: 2", "replicats: 2", "replicats: there is no key 'replicats'; did you mean 'replicates'?"),
    "misspelt lever": ("max_num_seqs: [64", "max_num_seq: [64", "levers: there is no 'max_num_seq' in config/levers.yaml; did you mean 'max_num_seqs'?"),
    "misspelt level": ("[on, off]", "[on, of]", "levers.prefix_caching: there is no level 'of'; did you mean 'off'?"),
    "level out of range": ("[64, 4]", "[64, 0]", "levers.max_num_seqs: there is no level '0'; known: any integer from 1"),
    "level that is no list": ("[on, off]", "on", "levers.prefix_caching: must be a list, such as [a, b] (it is 'on')"),
    "level twice": ("[64, 4]", "[64, 64.0]", "levers: lever 'max_num_seqs' names a level twice"),
    "empty rates": ("[8, inf]", "[]", "load: no load point: give `rates: [1, 4, inf]`"),
    "negative rate": ("[8, inf]", "[8, -1]", "load.rates.1: must be greater than 0 (it is -1)"),
    "zero rate": ("[8, inf]", "[0]", "load.rates.0: must be greater than 0 (it is 0)"),
    "rate that is no number": ("[8, inf]", "[8, .nan]", "load.rates.1: must be greater than 0 (it is nan)"),
    "rate with a unit": ("[8, inf]", "[8 req/s]", "load.rates.0: must be a number"),
    "rate twice": ("[8, inf]", "[8, inf, .inf]", "load: rates has a value twice"),
    "search without objectives": ("{rates: [8, inf]}", "search", "load.search: it finds the highest rate that meets `objectives`"),
    "duration without a rate": ("{rates: [8, inf]}", "{rates: [inf], concurrencies: [4], minimum_duration: 5 s}", "load: minimum_duration: it has requests come for longer at finite rates, and there is none"),
    "duration of a search": ("{rates: [8, inf]}", "{search: {}, minimum_duration: 5 s}", "load: minimum_duration: it has requests come for longer at finite rates, and there is none"),
    "negative duration": ("[8, inf]}", "[8, inf], minimum_duration: -5 s}", "load.minimum_duration: must be greater than 0"),
    "endless duration": ("[8, inf]}", "[8, inf], minimum_duration: .inf}", "load.minimum_duration: must be a finite number"),
    "duration that is none": ("[8, inf]}", "[8, inf], minimum_duration: 5 requests}", "load.minimum_duration: '5 requests' is not a quantity of time"),
    "requests of no load point": ("[8, inf]}", "[8, inf], requests: {rate 4: 8}}", "load: requests: rate 4 is not a load point of the study: rate 8, burst"),
    "requests twice": ("[8, inf]}", "[8, inf], requests: {burst: 8, inf: 9}}", "load: requests: burst and inf are one load point"),
    "requests of a search": ("{rates: [8, inf]}", "{search: {}, requests: {search: 8}}", "load: requests: a search sends the workload's `requests` at every rate that it tries"),
    "misspelt duration": ("[8, inf]}", "[8, inf], minimal_duration: 5 s}", "load.minimal_duration: there is no key 'minimal_duration'; did you mean 'minimum_duration'?"),
    "nothing to stop at": ("replicates: 2", "replicates: 2\nstop_after_saturation: true", "stop_after_saturation: there is nothing to leave out: give two finite rates"),
    "unknown quantity of theory": ("replicates: 2", "replicates: 2\ncollects: {Floor: 'theory: decode_flor_s'}", "collects.Floor: there is no quantity of theory 'decode_flor_s'; did you mean 'decode_floor_s'?"),
    "no load": ("{rates: [8, inf]}", "{}", "load: no load point"),
    "load that is no mapping": ("{rates: [8, inf]}", "[8]", "load: must be a mapping of keys to values (it is [8])"),
    "no baseline": ("baseline: {prefix_caching: on, max_num_seqs: 64}\n", "", "baseline: this key is required and missing"),
    "empty baseline": ("baseline: {prefix_caching: on, max_num_seqs: 64}", "baseline:", "baseline: must be a mapping of keys to values (it is empty)"),
    "baseline lacks a lever": (", max_num_seqs: 64}", "}", "baseline: lever 'max_num_seqs' has none: add it"),
    "baseline names another": (", max_num_seqs: 64}", ", max_num_seqs: 64, chunking: on}", "baseline: 'chunking' is not one of the study's levers"),
    "baseline's level": (", max_num_seqs: 64}", ", max_num_seqs: 6}", "baseline.max_num_seqs: '6' is not among its levels; did you mean '64'?"),
    "unknown engine": ("[truth]", "[trooth]", "engines: there is no 'trooth' in config/engines.yaml; did you mean 'truth'?"),
    "engine twice": ("[truth]", "[truth, truth]", "engines: an entry stands twice"),
    "unknown model": ("[tiny-llama]", "[tiny-lama]", "models: there is no 'tiny-lama' in config/models.yaml; did you mean 'tiny-llama'?"),
    "unknown gpu": ("[cpu]", "[h1000]", "gpus: there is no 'h1000' in config/gpus.yaml; did you mean 'h100'?"),
    "gpu count": ("[cpu]", "['h100:two']", "gpus.0: write a GPU as `h100`, or `h100:2` for two a server"),
    "several cpus": ("[cpu]", "['cpu:2']", "gpus: cpu is no GPU, so there is one of it: write `cpu`"),
    "engine on another device": ("[truth]", "[vllm]", "engine 'vllm' computes on 'cuda' and gpu 'cpu' is a 'cpu' device"),
    "unknown workload": (WORKLOAD, "shared-sytem-prompt", "workload: there is no 'shared-sytem-prompt' in config/workloads.yaml; did you mean 'shared-system-prompt'?"),
    "workload's kind": ("kind: shared-prefix", "kind: shared-prefx", "workload: there is no kind 'shared-prefx'; did you mean 'shared-prefix'?"),
    "workload's key": ("groups: 3", "group: 3", "workload.group: there is no key 'group'; did you mean 'groups'?"),
    "workload's value": ("groups: 3", "groups: -3", "workload.groups: must be greater than or equal to 1 (it is -3)"),
    "workload without kind": ("kind: shared-prefix, ", "", "workload: the key `kind` is required and missing"),
    "sharegpt without file": (WORKLOAD, "{kind: sharegpt, requests: 4}", "workload: kind sharegpt reads a file that you have: give `--config sharegpt_path=FILE`"),
    "replicates": ("replicates: 2", "replicates: 0", "replicates: must be greater than or equal to 1 (it is 0)"),
    "metric": ("ttft_s p50 at", "ttfs_s p50 at", "primary.prefix_caching: there is no metric 'ttfs_s'; did you mean 'ttft_s'?"),
    "statistic": ("ttft_s p50 at", "ttft_s p51 at", "primary.prefix_caching: 'ttft_s p51 at rate 8': ttft_s takes one of mean, p50, p95, p99 after it"),
    "load point of primary": ("p50 at rate 8", "p50 at rate 9", "primary.prefix_caching: rate 9 is not a load point of the study: rate 8, burst"),
    "no load point of primary": ("p50 at rate 8", "p50", "primary.prefix_caching: say at which load point"),
    "goodput without objectives": ("throughput at burst", "goodput at burst", "primary.max_num_seqs: goodput counts requests that meet `objectives`"),
    "design": ("replicates: 2", "replicates: 2\ndesign: one-at-time", "design: there is no 'one-at-time' here; did you mean 'one-at-a-time'?"),
    "design's key": ("replicates: 2", "replicates: 2\ndesign: {factorail: [a]}", "design.factorail: there is no key 'factorail'; did you mean 'factorial'?"),
    "design's lever": ("replicates: 2", "replicates: 2\ndesign: {factorial: [prefix]}", "design: 'prefix' is not one of the study's levers; did you mean 'prefix_caching'?"),
    "design's level": ("replicates: 2", "replicates: 2\ndesign: {list: [{max_num_seqs: 5}]}", "design: max_num_seqs: '5' is not among its levels"),
    "objective": ("replicates: 2", "replicates: 2\nobjectives: {ttft_p96: 1 s}", "objectives: objective 'ttft_p96': write ttft, tpot or e2e"),
    "quantity": ("replicates: 2", "replicates: 2\nrequest_timeout: 5 parsecs", "request_timeout: '5 parsecs' is not a quantity of time"),
    "endless time": ("replicates: 2", "replicates: 2\nrequest_timeout: .inf", "request_timeout: must be a finite number"),
    "key twice": ("replicates: 2", "replicates: 2\nreplicates: 3", "'replicates' stands twice, on line 14 and line 15"),
    "broken yaml": ("replicates: 2", "replicates: 2: 3", "line 14: not valid YAML: mapping values are not allowed"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BAD_STUDIES.values(), ids=BAD_STUDIES)
def test_a_bad_study_is_one_line_that_names_file_key_and_neighbour(
    repository: Repository, old: str, new: str, message: str
) -> None:
    said = refused_study(repository, old, new)
    assert said.startswith(f"{FILE}: ")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be a mapping of keys to values, and is a list"),
        ("", "must be a mapping of keys to values, and is empty"),
        ("words\n", "must be a mapping of keys to values, and is a str"),
        ("{[a]: 1}", "line 1: a key must be a word"),
        ("a: b: c", "line 1: not valid YAML"),
        ("\ta: 1", "line 1: not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_line(repository: Repository, text: str, message: str) -> None:
    repository.write("changed", text)
    said = refusal(repository, study="changed")
    assert said.startswith(f"config/studies/changed.yaml: {message}") and "\n" not in said


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"title: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"^latin: is not text in UTF-8$"):
        read_mapping(tmp_path / "latin.yaml", "latin")
    with pytest.raises(ConfigError, match=r"^absent: cannot be read: No such file or directory$"):
        read_mapping(tmp_path / "absent.yaml", "absent")


def overlaid(file: str, entry_name: str, /, **entry: Any) -> dict[str, Any]:
    return {file: {entry_name: entry}}


BAD_ENTRIES = {
    "flag with underscores": (overlaid("engines", "truth", flags={"max_num_seqs": 4}), "engines.truth.flags.max_num_seqs: flag 'max_num_seqs': write a flag by its long name, without `--` and with hyphens: `max-num-seqs`"),
    "flag with dashes": (overlaid("engines", "truth", flags={"--seed": 4}), "with hyphens: `seed`"),
    "negated flag": (overlaid("engines", "truth", flags={"no-cache": True}), "engines.truth.flags: flag 'no-cache': write `cache: false`"),
    "endless flag": (overlaid("engines", "truth", flags={"ttft": float("inf")}), "engines.truth.flags: flag 'ttft': inf cannot be written: numbers must be finite"),
    "flag with keys of two kinds": (overlaid("engines", "truth", flags={"x": {"a": {"b": 1, 2: 1}}}), "flag 'x': {'a': {'b': 1, 2: 1}} cannot be written"),
    "flag without value": (overlaid("engines", "truth", flags={"seed": None}), "engines.truth.flags.seed: must be true or false or a whole number"),
    "kind of engine": (overlaid("engines", "truth", kind="trth"), "engines.truth.kind: there is no 'trth' here; did you mean 'truth'?"),
    "kind of launch": (overlaid("engines", "truth", launch={"kind": "pyton"}), "engines.truth.launch: there is no kind 'pyton'; did you mean 'python'?"),
    "no versions": (overlaid("engines", "truth", launch={"kind": "python", "python": "x"}, versions={}), "must declare `versions`"),
    "version as number": (overlaid("engines", "truth", versions={"truth": 0.3}), "engines.truth.versions.truth: must be text: write it in quotes"),
    "environment as switch": (overlaid("engines", "truth", environment={"A": True}), "engines.truth.environment.A: must be text: write it in quotes"),
    "lock that is not there": (overlaid("engines", "truth", launch={"kind": "lock", "lock": "envs/nope.txt"}), "truth.launch.lock: there is no file envs/nope.txt"),
    "package not in lock": (overlaid("engines", "truth", launch={"kind": "lock", "lock": "envs/vllm-cpu.txt"}, identity_packages=["nope"]), "truth.identity_packages: 'nope' is not in envs/vllm-cpu.txt"),
    "kind of engine in a lever": (overlaid("levers", "prefix_caching", levels={"on": {"trth": {}}}), "there is no 'trth' here; did you mean 'truth'?"),
    "level that says nothing": (overlaid("levers", "prefix_caching", levels={"on": {"vllm": {}}, "off": {"vllm": {}}}), "levers.prefix_caching: config/levers.yaml does not say what level 'on' sets on an engine of kind 'truth'"),
    "levels that are equal": (overlaid("levers", "prefix_caching", levels={"on": {"truth": {"flags": {"gap": 0.01}}}, "off": {"truth": {"flags": {"gap": 0.01}}}}), "`baseline on truth` and `prefix_caching=off on truth` start the same server"),
    "level twice": (overlaid("levers", "prefix_caching", levels={True: {}, "on": {}}), "levers.prefix_caching.levels: level 'on' stands twice"),
    "expectation of no level": (overlaid("levers", "max_num_seqs", values={"minimum": 8, "engines": {"truth": {}}}), "the expectation speaks of level '4'"),
    "model's folder": (overlaid("models", "tiny-llama", source={"kind": "path", "path": "no/such", "revision": "1"}), "config/models.yaml: tiny-llama.source.path: there is no folder no/such"),
    "model's files": (overlaid("models", "tiny-llama", source={"kind": "path", "path": "config", "revision": "1"}), "tiny-llama.source.path: config holds no config.json"),
    "model's revision": (overlaid("models", "tiny-llama", source={"kind": "hub", "id": "a/b", "revision": "main"}), "models.tiny-llama.source.revision: must be like"),
    "size": (overlaid("gpus", "cpu", memory="80 GIB"), "gpus.cpu.memory: '80 GIB' is not a quantity of bytes"),
    "key of a part": (overlaid("gpus", "cpu", slurm={"cpu": 1}), "gpus.cpu.slurm.cpu: there is no key 'cpu'; did you mean 'cpus'?"),
    "name": (overlaid("gpus", "two words", title="x"), "'two words' cannot be a name"),
    "entry": ({"gpus": {"cpu": 3}}, "gpus.cpu must be a mapping of keys to values, and is 3"),
    "workload": (overlaid("workloads", "x", kind="random", requests=0, prompt_tokens=1, output_tokens=1), "workloads.x.requests: must be greater than or equal to 1 (it is 0)"),
    "setting": ({"studdy": "small"}, "studdy: there is no key 'studdy'; did you mean 'study'?"),
    "study": ({"study": "smal"}, "study: there is no config/studies/smal.yaml; did you mean 'small'?"),
    "study twice": ({"study": "small,small"}, "study: a name stands twice: small, small"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_setting_is_one_line_that_says_where_it_came_from(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    said = refusal(Repository.at(tmp_path), **settings)
    assert message in said
    assert said.startswith(("config/", "--config", "study:"))
    assert "\n" not in said


def test_sharegpt_names_a_file_that_is_not_there(repository: Repository) -> None:
    repository.write("real", STUDY.replace(WORKLOAD, "{kind: sharegpt, requests: 4}"))
    assert refusal(repository, study="real", sharegpt_path="no.json") == "sharegpt_path: there is no file no.json"
    (repository.root / "yes.json").write_text("[]")
    assert repository.study(study="real", sharegpt_path="yes.json").cells


@pytest.mark.parametrize(
    "levels", ["[on, off]", "[true, false]", "[yes, no]", "[On, OFF]", '["on", "off"]', "[True, FALSE]"]
)
def test_switches_as_people_type_them(repository: Repository, levels: str) -> None:
    repository.write(
        "typed",
        STUDY.replace("[on, off]", levels).replace(
            "{prefix_caching: on", "{prefix_caching: " + levels[1:].split(",")[0]
        ),
    )
    assert repository.configuration().study("typed").levers["prefix_caching"] == ["on", "off"]
    assert [entry.cell.id for entry in repository.study(study="typed").cells] == [
        entry.cell.id for entry in repository.study().cells
    ]


@pytest.mark.parametrize("levels", ["[64, 4]", "['64', '4']", "[64.0, 4.0]", "[6.4e1, 4]", "[+64, '4.0']"])
def test_numbers_as_people_type_them(repository: Repository, levels: str) -> None:
    repository.write("typed", STUDY.replace("[64, 4]", levels))
    assert repository.configuration().study("typed").levers["max_num_seqs"] == ["64", "4"]


@pytest.mark.parametrize("rates", ["[8, inf]", "[8, .inf]", "[8.0, Inf]", "[inf, 8]", "['8', infinity]", "[8e0, .INF]"])
def test_rates_as_people_type_them(repository: Repository, rates: str) -> None:
    repository.write("typed", STUDY.replace("[8, inf]", rates))
    assert repository.configuration().study("typed").load.points() == [LoadPoint("rate", 8.0), LoadPoint("burst")]
    assert [entry.cell.id for entry in repository.study(study="typed").cells] == [
        entry.cell.id for entry in repository.study().cells
    ]


def test_a_configfile_read_by_another_yaml_reader_means_the_same(repository: Repository) -> None:
    """Snakemake reads --configfile itself, and takes a bare `on` for true."""
    engines = {"truth": {"flags": {"enable-prefix-caching": True}}}
    settings = overlaid(
        "levers",
        "prefix_caching",
        levels={True: engines, False: {"truth": {"flags": {"enable-prefix-caching": False}}}},
        expectation={"direction": "decreases", "of": True, "against": False, "because": "x"},
    )
    assert [entry.cell.id for entry in repository.study(**settings).cells] == [
        entry.cell.id for entry in repository.study().cells
    ]


def test_an_entry_laid_over_replaces_key_by_key(repository: Repository) -> None:
    laid = repository.configuration(
        engines={
            "truth": {"start_timeout": "2 min"},
            "mine": {"kind": "truth", "device": "cpu", "launch": {"kind": "pipeline"}},
        }
    )
    assert laid.engines["truth"].start_timeout == 120
    assert laid.engines["truth"].flags == repository.configuration().engines["truth"].flags
    assert laid.engines["mine"].flags == {}


def test_a_level_is_a_finite_number(repository: Repository) -> None:
    numbers = {"values": {"type": "number", "engines": {"truth": {"flags": {"max-num-seqs": "{value}"}}}}}
    repository.write("endless", STUDY.replace("[64, 4]", "[64, 1e999]"))
    said = refusal(repository, study="endless", levers={"max_num_seqs": numbers})
    assert "levers.max_num_seqs: there is no level 'inf'" in said


def test_numbers_in_an_environment_are_text(repository: Repository) -> None:
    laid = repository.configuration(engines={"truth": {"environment": {"SPACE": 2}}})
    assert laid.engines["truth"].environment == {"SPACE": "2"}


def test_the_files_of_the_repository_are_sound() -> None:
    configuration = load(SOURCE, {"study": "all"})
    matrix = expand(configuration, configuration.selected_studies())
    assert {"first-look", "truth-tour"} <= {study.name for study in matrix.studies}


def test_dates_stay_text_and_exponents_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("day: 2026-11-21\nsmall: 1e-5\nword: on\nswitch: true\n")
    assert read_mapping(tmp_path / "x.yaml") == {"day": "2026-11-21", "small": 1e-5, "word": "on", "switch": True}


def test_nearest_names_at_most_twenty() -> None:
    assert nearest("abc", []) == "; known: none"
    assert nearest("name7x", [f"name{number}" for number in range(30)]).startswith("; did you mean 'name7'? Known: ")
    assert nearest("zzz", [f"name{number}" for number in range(30)]).endswith(", …")


SEARCH = """\
question: How many requests a second?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 24, prompt_tokens: 16, output_tokens: 4}
load: search
levers: {max_num_seqs: [64, 4]}
baseline: {max_num_seqs: 64}
objectives: {ttft_p95: 500 ms, error_ratio: 1 %}
replicates: 1
"""


def test_a_study_may_search_for_its_rate(repository: Repository) -> None:
    repository.write("searching", SEARCH)
    [study] = repository.matrix(study="searching").studies
    assert [str(entry.load) for entry in study.cells] == ["search", "search"]
    phase = study.cells[0].cell.phase
    assert phase.identity["search"] == {"precision": 0.05, "objectives": {"ttft_p95": 0.5, "error_ratio": 0.01}}
    assert [str(reference) for _, reference in study.primary] == ["highest_rate at search"]
    repository.write("searching", SEARCH.replace("load: search", "load: {rates: [2], search: {limit: 10 min}}"))
    [study] = repository.matrix(study="searching").studies
    searched = [entry.cell.phase for entry in study.cells if entry.load == LoadPoint("search")]
    assert [found.search_limit_s for found in searched] == [600.0, 600.0]
    assert searched[0].id == phase.id, "the time that it is given is no part of the question"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ttft_p95", "ttft_p99", "objectives.ttft_p99: it takes 100 requests to tell, and the workload has 24"),
        ("1 %", "1", "objective error_ratio: a share of requests below 1, such as 1 %"),
        ("load: search", "load: {search: {lowest: 4, highest: 2}}", "lowest (4) must be below highest (2)"),
        ("replicates", "primary: {max_num_seqs: ttft_s p50 at search}\nreplicates", "write `highest_rate at search`"),
    ],
)
def test_a_search_that_cannot_be_is_refused(repository: Repository, old: str, new: str, expected: str) -> None:
    repository.write("searching", SEARCH.replace(old, new))
    assert expected in refusal(repository, study="searching")
