"""The report on twins of several engine servers: each told for itself, beside what its own servers did."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from leverlab.profile import tables
from leverlab.profile.analysis import copies_s, copying_s
from leverlab.profile.classes import kernel_classes
from leverlab.profile.nsys_export import read_nsys_export
from leverlab.profile.tables import Trace
from leverlab.profile.torch_trace import read_torch_traces
from leverlab.profile.twin import REQUESTS
from leverlab.records import Reason, TwinRecord, read_json, write_json
from leverlab.report.class_rates import ClassRate, class_rates
from leverlab.report.mechanism import anatomy, mechanism
from leverlab.report.page import render_study
from leverlab.report.peer_copies import peer_sentence
from leverlab.report.profiled import Profiled
from leverlab.report.source import StudyData
from leverlab.report.transfers import transfer_sentence, transfers
from leverlab.report.twin_facts import facts_table
from leverlab.report.why import why
from tests.unit.report_study import make_study
from tests.unit.repository import SOURCE

RECORDED = SOURCE / "tests" / "data" / "profiles" / "cpu-engine.pt.trace.json.gz"
STUDY = """\
question: What does handing over cost?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {concurrencies: [2]}
levers: {disaggregation: [prefill-decode-files, colocated], prefix_caching: [off], max_num_seqs: [64]}
baseline: {disaggregation: prefill-decode-files, prefix_caching: off, max_num_seqs: 64}
primary: {disaggregation: ttft_s p50 at concurrency 2}
replicates: 3
profile: {at: [concurrency 2]}
questions:
  - ask: What does the transfer take beside computing?
    answers: [{kind: profile, shows: copies beside computing}]
"""
FILES = ["kernels.parquet", "raw/decode/rank-d.pt.trace.json.gz", "raw/prefill/rank-p.pt.trace.json.gz"]
RECORD = TwinRecord(
    twin="t", server="s", phase="p", cell="c", replicate="r1", tool="torch", outcome="recorded", started_at="2026-01-01T00:00:00Z",
    layers=8, requests={"ok": 2.0, "tpot_s_p50": 0.02, "chunk_gap_s_p50": 0.02}, step_floor_s=0.001,
)  # fmt: skip


def only(trace: Trace, phase: str) -> Trace:
    """The part of the recorded trace that a server does whose steps are of `phase` alone."""
    steps = trace.steps[trace.steps["phase"] == phase]
    return replace(trace, kernels=trace.kernels[trace.kernels["phase"] == phase], steps=steps)


@pytest.fixture
def data(tmp_path: Path) -> StudyData:
    study = make_study(tmp_path, "handed", text=STUDY)
    trace = read_torch_traces([RECORDED], kernel_classes(SOURCE))
    cells = study.read().cells
    for treatment, servers in (
        ("baseline", {"prefill": only(trace, "prefill"), "decode": only(trace, "decode")}),
        ("disaggregation=colocated", {"replica-1": trace}),
    ):
        row = cells[(cells["treatment"] == treatment) & (cells["replicate"] == "r1")].iloc[0]
        folder = study.layout.profile(str(row["server"]), str(row["phase"]), "torch")
        for raw in FILES[1:]:
            (folder / raw).parent.mkdir(parents=True)
            (folder / raw).symlink_to(RECORDED)
        tables.write(tables.together(servers), folder)
        counts = {"prefill": [5.0, 5.0, 6.0, 6.0], "decode": [40.0, 41.0, 48.0, 50.0]}
        window = {"iterations_before_start": 45.0, "iterations_after_stop": 56.0, "by_server": counts}
        commands = {name: ["serve"] for name in servers}
        silent = {}
        if treatment != "baseline":
            commands["replica-2"], silent = ["serve"], {"replica-2": "neither a kernel nor an operator was recorded"}
        write_json(
            folder / "twin.json",
            RECORD.model_copy(update={"commands": commands, "silent": silent, "window": window, "files": FILES}),
        )
        answered = {"status": ["ok", "ok"], "prompt_tokens": [128, 128], "completion_tokens": [16, 16]}
        pd.DataFrame(answered).to_parquet(folder / REQUESTS)
    return study.read()


def of(data: StudyData, server: str) -> Profiled:
    return next(twin for twin in data.profiles if twin.server == server)


def test_each_server_has_a_place_of_its_own(data: StudyData) -> None:
    assert [(twin.treatment, twin.server) for twin in data.profiles] == [
        ("baseline", "prefill"), ("baseline", "decode"),
        ("disaggregation=colocated", "replica-1"), ("disaggregation=colocated", "replica-2"),
    ]  # fmt: skip
    prefill, decode = of(data, "prefill"), of(data, "decode")
    assert prefill.recorded is not None and decode.recorded is not None
    assert (prefill.recorded.step, prefill.recorded.prompt_steps) == (None, 1.0)
    assert decode.recorded.step is not None and decode.recorded.step.steps == 8 and decode.recorded.prompt_steps == 0
    assert (prefill.iterations, decode.iterations) == ((1.0, 1.0), (7.0, 10.0))
    assert prefill.measured_tpot_s is None and decode.measured_tpot_s is not None, (
        "no client sees the prefill server's token"
    )
    assert of(data, "replica-1").measured_tpot_s is not None


def test_the_page_tells_what_each_did_and_which_recorded_nothing(data: StudyData) -> None:
    page = render_study(data).replace("\N{NO-BREAK SPACE}", " ")
    section = page[page.index('id="why"') :]
    assert "Baseline (prefill)" in section and "Baseline (decode)" in section and "(replica-1)" in section
    assert "(replica-2): recorded nothing: neither a kernel nor an operator was recorded" in section
    assert "Moving the KV cache beside computing" in section
    facts = next(table for table in why(data)[0].tables if table.caption == "What the twins show")
    tpot = [column.title for column in facts.columns].index("TPOT of the twin")
    assert [row.cells[tpot].text for row in facts.groups[0].rows] == ["–", "20 ms", "20 ms"]
    files = [[link.text for link in row.cells[-1].links] for row in facts.groups[0].rows]
    assert files[:2] == [["kernels.parquet", f"{name}.pt.trace.json.gz"] for name in ("rank-p", "rank-d")]
    assert "From profiles: Baseline (decode): of " in page
    assert why(data)[0].mechanisms == (), "a prefill server is held against no replica"


def test_the_page_says_of_what_there_is_a_part_alone(data: StudyData) -> None:
    twin = of(data, "decode")
    assert twin.record is not None and "only a part" not in render_study(data)
    broken_off = twin.record.model_copy(
        update={"partial": Reason(code="interrupted", message="The job was told to end by signal 15.")}
    )
    write_json(twin.folder / "twin.json", broken_off)
    page = render_study(replace(data)).replace("\N{NO-BREAK SPACE}", " ")
    section = page[page.index('id="why"') :]
    assert "Of these twins there is only a part" in section and "Baseline (decode): it was broken off" in section
    assert "told to end by signal 15" in section and "(replica-1): it was broken off" not in section


def test_copies_are_told_beside_computing_and_alone(data: StudyData) -> None:
    twin = of(data, "prefill")
    assert twin.recorded is not None
    found = transfers(twin.recorded)
    kernels = tables.read(twin.folder).servers["prefill"].kernels
    by_class = kernels.groupby("class")["duration_s"].sum()
    # One thread: no operator runs beside another.
    assert found.copies_s == pytest.approx(by_class["copy"]) == pytest.approx(found.alone_s)
    assert found.beside_s == pytest.approx(0.0, abs=1e-12)
    assert found.computing_s == pytest.approx(found.busy_s - by_class["copy"] - by_class["kv_cache"])
    assert "beside nothing else" in transfer_sentence("Prefill", twin)


def test_copies_at_the_same_time_are_not_hidden_by_each_other(data: StudyData) -> None:
    twin = of(data, "prefill")
    assert twin.recorded is not None
    trace = tables.read(twin.folder).servers["prefill"]
    copies = trace.kernels[trace.kernels["class"] == "copy"]
    twice = replace(trace, kernels=pd.concat([trace.kernels, copies.assign(stream=-1)], ignore_index=True))
    found = transfers(replace(twin.recorded, copies_s=copies_s(twice), copying_s=copying_s(twice)))
    assert found.copies_s == pytest.approx(2 * found.alone_s)
    assert found.beside_s == pytest.approx(0.0, abs=1e-12)


@pytest.fixture
def fetching(data: StudyData) -> StudyData:
    """The same, but its decode server is one that was recorded while it fetched blocks from another GPU."""
    folder = of(data, "decode").folder
    trace = read_nsys_export(SOURCE / "tests/data/profiles/vllm-h100-nixl-decode", kernel_classes(SOURCE))
    tables.write(tables.together({"prefill": only(tables.read(folder), "prefill"), "decode": trace}), folder)
    record = TwinRecord.model_validate(read_json(folder / "twin.json"))
    write_json(folder / "twin.json", record.model_copy(update={"layers": 32}))
    return replace(data)


def test_transfers_between_gpus_are_told_with_the_copies_that_they_are_made_of(fetching: StudyData) -> None:
    twin = of(fetching, "decode")
    assert twin.recorded is not None
    said = peer_sentence(twin.recorded)
    assert "8,448 copies from another GPU make 3 transfers: 1 of 8,192 copies of 64 KiB" in said
    assert "The same 512 MiB in 64 times as many copies take " in said
    [table] = [table for table in why(fetching)[0].tables if table.caption == "Transfers between GPUs"]
    assert [[cell.text for cell in row.cells[:4]] for row in table.groups[0].rows] == [
        ["Baseline (decode)", "1", "8,192", "512 MiB"], ["Baseline (decode)", "2", "128", "512 MiB"],
    ]  # fmt: skip
    page = render_study(fetching).replace("\N{NO-BREAK SPACE}", " ")
    assert page.count("copies from another GPU make 3 transfers") == 2, "in the answer and in the section"


def test_what_changes_in_transfers_turns_round_with_the_sides(fetching: StudyData) -> None:
    twin = of(fetching, "decode")
    assert twin.recorded is not None
    many, few = (replace(twin, recorded=replace(twin.recorded, peers=(kind,))) for kind in twin.recorded.peers)
    assert "copies of a transfer between GPUs 8,192 → 128; a transfer between GPUs takes 61.5 ms → " in mechanism(
        many, few, "x"
    )
    assert "copies of a transfer between GPUs 128 → 8,192; " in mechanism(few, many, "x")
    assert "between GPUs" not in mechanism(many, many, "x")


def test_a_server_that_decodes_nothing_is_told_by_its_steps_and_not_by_the_windows_shares(data: StudyData) -> None:
    said = anatomy(of(data, "prefill"), "Prefill")
    assert said.startswith("Prefill: none of its steps decodes. A step that computes prompts (median 256 tokens) keeps")
    assert "the window is" not in said


def test_times_of_a_client_that_several_servers_answer_are_marked_so(data: StudyData) -> None:
    rows = next(table for table in why(data)[0].tables if table.caption == "What the twins show").groups[0].rows
    assert [row.cells[3].note for row in rows] == ["", "", ""], "one server of each answers, or is there"
    twin = next(each for each in data.profiles if each.server == "replica-1")
    assert twin.recorded is not None
    pair = [(f"replica {number}", twin, twin.recorded) for number in (1, 2)]
    assert [row.cells[3].note for row in facts_table(data, pair, "t").groups[0].rows] == ["of all that answer"] * 2


def test_a_servers_work_is_that_of_its_own_batch(data: StudyData) -> None:
    rates = [rate for rate in class_rates(of(data, "decode"), data.configuration) if isinstance(rate, ClassRate)]
    assert [rate.name for rate in rates] == ["gemm", "attention"]
    assert rates[1].work.bytes_read == 2 * 8 * 4 * 64 * 2 * (128 + 8) * 2
    assert class_rates(of(data, "prefill"), data.configuration) == []


def test_transfers_of_unlike_many_copies_are_told_with_their_range_and_have_no_median_to_change(
    fetching: StudyData,
) -> None:
    twin = of(fetching, "decode")
    assert twin.recorded is not None
    assert "2 of 32 to 224 copies, in the median of " in peer_sentence(twin.recorded)
    [_, few] = twin.recorded.peers
    other = replace(twin, recorded=replace(twin.recorded, peers=(few,)))
    assert "between GPUs" not in mechanism(twin, other, "x") + mechanism(other, twin, "x")


def test_a_server_whose_every_step_has_a_prompt_beside_decoding_is_not_said_to_decode_nothing(data: StudyData) -> None:
    twin = of(data, "prefill")
    assert twin.recorded is not None
    mixed = replace(twin, recorded=replace(twin.recorded, classes=twin.recorded.classes.assign(phase="mixed")))
    assert anatomy(mixed, "Both").startswith("Both: each of its steps computes prompts. A step that computes prompts")
