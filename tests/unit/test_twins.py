"""Which cells get a twin, what of that is due, and that nothing measured knows of it."""

from pathlib import Path
from typing import Any

import pytest

from leverlab.config import ConfigError
from leverlab.config.kernel_classes import kernel_class_rules
from leverlab.matrix.twins import (
    Twin,
    all_twins,
    due_twins,
    jobs_before,
    profiler_missing,
    profiler_program,
    twins_by_study,
    write_twin_specifications,
)
from leverlab.plan import render_plan
from leverlab.records import TwinSpecification, read_json, write_json
from tests.unit.repository import SOURCE, STUDY, Repository

CPU = STUDY.replace("engines: [truth]", "engines: [vllm-cpu]")
ASKED = "profile: {at: [rate 8], window: 500 ms}\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.at(tmp_path)
    made.write("small", CPU + ASKED)
    return made


def twins(repository: Repository, **settings: Any) -> list[Twin]:
    return list(all_twins(twins_by_study(repository.matrix(**settings))).values())


def test_each_treatment_gets_one_of_the_first_replicate(repository: Repository) -> None:
    found = twins(repository)
    assert len(found) == 3 and {str(twin.replicate) for twin in found} == {"r1"}
    assert {str(twin.cell.phase.load) for twin in found} == {"rate 8"}
    assert {(twin.tool, twin.window_s) for twin in found} == {("torch", 0.5)}


def test_asking_for_it_changes_no_identity(repository: Repository) -> None:
    asked = repository.matrix()
    repository.write("small", CPU)
    assert [job.hash for job in repository.matrix().jobs] == [job.hash for job in asked.jobs]
    assert twins(repository) == []


def test_only_the_named_treatments(repository: Repository) -> None:
    repository.write("small", CPU + "profile: {at: [burst], treatments: [baseline, prefix_caching=off]}\n")
    assert len(twins(repository)) == 2


def test_a_setting_leaves_them_out(repository: Repository) -> None:
    assert twins(repository, profiles=False) == []


def test_studies_that_share_one_get_the_longest_window(repository: Repository) -> None:
    repository.write("other", CPU + "profile: {at: [rate 8], treatments: [baseline], window: 2 s}\n")
    found = twins(repository, study=["small", "other"])
    assert sorted(twin.window_s for twin in found) == [0.5, 0.5, 2.0]


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("{at: [rate 9]}", "profile.at: rate 9 is not a load point of the study: rate 8, burst"),
        ("{at: [search]}", "no load point that a twin could repeat"),
        ("{at: []}", "profile.at: must not be empty"),
        ("{at: [burst], treatment: [baseline]}", "there is no key 'treatment'; did you mean 'treatments'?"),
        ("{at: [burst], treatments: [prefix_caching=of]}", "did you mean 'prefix_caching=off'?"),
        ("{at: [burst], tool: nsight}", "profile.tool: there is no 'nsight' here"),
        ("{at: [burst]}\ncache: restarted", "a twin is started once"),
        ("{at: [burst], tool: nsys}", "nsys looks at GPUs, and vllm-cpu computes on a CPU"),
        ("{at: [burst], window: 0}", "profile.window"),
    ],
)
def test_a_mistake_is_named(repository: Repository, profile: str, said: str) -> None:
    repository.write("small", CPU + f"profile: {profile}\n")
    with pytest.raises(ConfigError) as error:
        twins(repository)
    assert "config/studies/small.yaml: profile" in str(error.value) and said in str(error.value)


def test_an_engine_without_a_profiler_is_refused(repository: Repository) -> None:
    repository.write("small", STUDY + ASKED)
    with pytest.raises(ConfigError, match="an engine of kind 'truth' has no profiler"):
        twins(repository)


def test_due_until_it_is_kept_and_its_record_comes_back(repository: Repository) -> None:
    first, second, third = twins(repository)
    layout = repository.layout
    write_json(first.folder(layout) / "twin.json", {"outcome": "recorded"})
    write_json(second.folder(layout) / "twin.json", {"outcome": "failed"})
    assert due_twins([first, second, third], layout, retry_failed=False) == {third.id}
    assert read_json(first.record(layout)) == {"outcome": "recorded"}
    kept = first.folder(layout) / "twin.json"
    assert first.record(layout).stat().st_mtime_ns == kept.stat().st_mtime_ns
    assert due_twins([first, second, third], layout, retry_failed=True) == {second.id, third.id}
    assert not second.record(layout).exists() and first.record(layout).exists()


def test_a_twin_waits_for_its_own_cell_and_for_no_other_of_that_job(repository: Repository) -> None:
    """A job that failed for another cell's sake keeps it from nothing."""
    twin, *_ = twins(repository)
    jobs, layout = repository.matrix().jobs, repository.layout
    own = [job for job in jobs if (job.server.id, job.replicate) == (twin.cell.server.id, twin.replicate)]
    assert len(own) == 1 and len(own[0].cells) > 1
    others = [cell.phase.id for cell in own[0].cells if cell.phase.id != twin.cell.phase.id]
    repository.measure(own[0], others)
    assert jobs_before(twin, jobs, layout, retry_failed=False) == own
    repository.measure(own[0], others, status="failed")
    repository.measure(own[0], [twin.cell.phase.id])
    assert jobs_before(twin, jobs, layout, retry_failed=True) == []
    repository.measure(own[0], [twin.cell.phase.id], status="failed")
    assert jobs_before(twin, jobs, layout, retry_failed=False) == []
    assert jobs_before(twin, jobs, layout, retry_failed=True) == own, "it is measured again first"


def test_a_part_is_run_again_as_what_broke_it_off_asks(repository: Repository) -> None:
    """One that was told to end by the same command, one whose server died as one that failed; what there is stays meanwhile."""
    told, died, nothing = twins(repository)
    layout = repository.layout
    part = {"outcome": "recorded", "partial": {"code": "interrupted", "message": "told to end"}}
    write_json(told.folder(layout) / "twin.json", part)
    write_json(died.folder(layout) / "twin.json", {**part, "partial": {"code": "server_died", "message": "gone"}})
    write_json(nothing.folder(layout) / "twin.json", {"outcome": "interrupted"})
    assert due_twins([told, died, nothing], layout, retry_failed=False) == {told.id, nothing.id}
    assert due_twins([told, died, nothing], layout, retry_failed=True) == {told.id, died.id, nothing.id}
    assert (told.folder(layout) / "twin.json").exists()


def test_the_plan_counts_them_and_writes_nothing(repository: Repository) -> None:
    first, *_ = twins(repository)
    write_json(first.folder(repository.layout) / "twin.json", {"outcome": "recorded"})
    plan = render_plan(repository.matrix(), repository.layout)
    assert "3 twins under torch: 1 recorded, 2 to be run" in plan
    assert plan.count("  results/profiles/") == 2, "what Snakemake can be asked for alone"
    assert not first.record(repository.layout).exists()


def test_the_job_is_told_all_it_needs(repository: Repository) -> None:
    twin = twins(repository)[0]
    write_twin_specifications([twin], repository.configuration(), repository.layout, local=True)
    path = repository.layout.twin_specification(twin.cell.server.id, twin.cell.phase.id, twin.id)
    told = TwinSpecification.model_validate(read_json(path))
    assert (told.tool, told.window_s, told.program) == ("torch", 0.5, None)
    assert [cell.cell for cell in told.job.cells] == [twin.cell.id] and told.job.replicate == "r1"
    assert told.kernel_classes == kernel_class_rules(SOURCE), "in their order: the first that fits is taken"


def test_wrong_rules_for_kernels_are_told_before_anything_is_submitted(repository: Repository) -> None:
    repository.change("attention:\n", "attenton:\n", "config/kernel_classes.yaml")
    with pytest.raises(
        ConfigError, match=r"kernel_classes\.yaml: there is no class 'attenton'; did you mean 'attention'"
    ):
        write_twin_specifications(twins(repository)[:1], repository.configuration(), repository.layout, local=True)


GPU = CPU.replace("[vllm-cpu]", "[vllm]").replace("[tiny-llama]", "[llama-3.1-8b-shape]").replace("[cpu]", "[h200]")


def test_nsys_is_found_before_anything_is_submitted(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.write("small", GPU + ASKED)
    asked = twins(repository)
    assert {twin.tool for twin in asked} == {"nsys"}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no `nsys` on PATH: install it .*nsys=PATH.*profiles=false"):
        write_twin_specifications(asked, repository.configuration(), repository.layout, local=True)
    program = tmp_path / "nsys"
    program.touch(mode=0o755)
    assert profiler_program("nsys", repository.configuration(), local=True) == str(program)


def test_a_missing_profiler_is_told_of_the_twins_that_need_it(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan or a page of what there is must not fail for want of it, so that it is asked for each twin that would start."""
    repository.write("small", GPU + ASKED)
    monkeypatch.setenv("PATH", str(tmp_path))
    (twin, *_) = twins(repository)
    assert "install it" in (profiler_missing(twin, repository.configuration(), local=True) or "")
    (tmp_path / "nsys").touch(mode=0o755)
    assert profiler_missing(twin, repository.configuration(), local=True) is None


def test_a_program_that_is_named_may_be_on_the_nodes_alone(repository: Repository) -> None:
    configuration = repository.configuration(nsys="/opt/nsys")
    assert profiler_program("nsys", configuration, local=False) == "/opt/nsys"
    with pytest.raises(ConfigError, match="`nsys: /opt/nsys` names no file"):
        profiler_program("nsys", configuration, local=True)


def test_counters_of_chosen_kernels_are_asked_for_by_name(repository: Repository) -> None:
    repository.write(
        "small", GPU + "profile: {at: [rate 8], treatments: [baseline], tool: ncu, kernels: nvjet, launches: 4}\n"
    )
    [twin] = twins(repository)
    assert (twin.tool, twin.kernels, twin.launches) == ("ncu", "nvjet", 4)
    configuration = repository.configuration(ncu="/opt/ncu")
    write_twin_specifications([twin], configuration, repository.layout, local=False)
    path = repository.layout.twin_specification(twin.cell.server.id, twin.cell.phase.id, twin.id)
    told = TwinSpecification.model_validate(read_json(path))
    assert (told.program, told.kernels, told.launches) == ("/opt/ncu", "nvjet", 4)


def test_servers_of_several_processes_get_twins_and_counters_of_one(repository: Repository) -> None:
    """Both profilers come round each engine server; Nsight Compute's kernels are chosen for one."""
    several = (
        GPU.replace("gpus: [h200]", 'gpus: ["h200:2"]')
        .replace("  max_num_seqs: [64, 4]\n", "  max_num_seqs: [64]\n  disaggregation: [colocated, prefill-decode]\n")
        .replace("max_num_seqs: 64}", "max_num_seqs: 64, disaggregation: colocated}")
        .replace("  max_num_seqs: throughput at burst\n", "")
    )
    repository.write("small", several + ASKED)
    topologies = {twin.cell.server.identity["topology"]: twin.tool for twin in twins(repository)}
    assert topologies == {"replicas": "nsys", "prefill-decode": "nsys"}
    repository.write("small", several + "profile: {at: [rate 8], tool: ncu}\n")
    with pytest.raises(ConfigError, match="ncu counts in one engine server, and a replicas has several"):
        twins(repository)
