"""The report on twins: figures, facts and sentences from their tables, which turn round with the two sides."""

import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leverlab.config.profile import KERNEL_CLASSES
from leverlab.records import Reason, TwinRecord, read_json, write_json
from leverlab.report.kernel_words import KERNEL_WORDS
from leverlab.report.layer_parts import decode_parts, prompt_parts
from leverlab.report.mechanism import anatomy, change_in_short, mechanism
from leverlab.report.page import render_study
from leverlab.report.profiled import IDLE
from leverlab.report.questions import questions
from leverlab.report.reference import publish
from leverlab.report.source import StudyData
from leverlab.report.theory_values import theory_values
from leverlab.report.why import why
from leverlab.units import format_share
from tests.unit.recorded_twins import TREATMENT, of, with_twins
from tests.unit.report_studies import PROFILED
from tests.unit.report_study import make_study
from tests.unit.report_text import smallest_text_px


@pytest.fixture
def data(tmp_path: Path) -> StudyData:
    return with_twins(make_study(tmp_path, PROFILED))


def test_the_page_shows_what_the_twins_recorded_and_which_are_missing(data: StudyData) -> None:
    page = render_study(data)
    section = page[page.index('id="why"') : page.index('id="measured"')]
    assert section.count("<svg") >= 4 and 'id="why-0"' in section
    assert "rank0.pt.trace.json.gz" in section and "kernels.parquet" in section
    assert "its twin has not run, or was killed" in section
    assert "8 to 9" in section, "the engine's own count of iterations"
    assert "disagrees" not in section
    assert "From profiles:" in page and "none was taken beside this study" not in page


def test_steps_that_the_engine_did_not_count_are_marked(data: StudyData) -> None:
    file = of(data, "baseline").folder / "twin.json"
    record = TwinRecord.model_validate(read_json(file))
    window = {**record.window, "iterations_before_stop": 80.0, "iterations_after_stop": 80.0}
    write_json(file, record.model_copy(update={"window": window}))
    page = render_study(StudyData(**{field.name: getattr(data, field.name) for field in fields(data)}))
    assert "disagrees" in page and "70 to 70" in page


def test_kernels_are_called_the_same_in_figures_tables_and_sentences(data: StudyData) -> None:
    assert list(KERNEL_WORDS) == [*KERNEL_CLASSES, IDLE]
    page = render_study(data)
    section = page[page.index('id="why"') : page.index('id="measured"')]
    assert not re.findall(r"\b(?:gemm|moe|norm_elementwise|kv_cache)\b", section)
    drawn = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", section))
    assert "norms and elementwise" in drawn and "matrix products" in drawn
    assert "<li>" in section and re.search(r"</svg>norms and elementwise work</li>", section), "the legend"


def test_text_in_figures_of_twins_can_be_read_on_a_phone(data: StudyData) -> None:
    assert smallest_text_px(render_study(data)) >= 9.9


def test_without_twins_the_question_is_not_answered(tmp_path: Path) -> None:
    page = render_study(make_study(tmp_path, PROFILED).read())
    assert "it takes a profile that shows time by class, and none was taken" in page
    assert page.count("its twin has not run, or was killed") == 3


def test_the_answer_says_what_changed_and_the_section_what_a_step_is_made_of(data: StudyData) -> None:
    page = render_study(data).replace("\N{NO-BREAK SPACE}", " ")
    start = page.index('id="why"')
    answers, section = page[:start], page[start:]
    assert "From profiles: " in answers and "stands under “Why: what the profiles show”" in answers
    assert "Baseline: a decode step of " not in answers and "Baseline: a decode step of " in section
    change = mechanism(of(data, "baseline"), of(data, TREATMENT), data.label(TREATMENT))
    assert page.count(change) == answers.count(change) == 1, "once, and the section refers to it"
    assert "What each treatment changes is said once, at the question" in section


def test_a_second_question_refers_to_the_first_that_twins_answer(data: StudyData) -> None:
    asked = data.study.questions[0]
    both = data.study.model_copy(update={"questions": [asked, asked.model_copy(update={"ask": "And where?"})]})
    first, second = questions(replace(data, study=both), theory_values(data))
    assert len(first.sentences) > 1 and first.measured and second.measured
    assert second.sentences == ("From profiles: what twins say of it stands at the first question that they answer.",)


def test_without_a_question_the_section_says_what_changed(data: StudyData) -> None:
    silent = replace(data, study=data.study.model_copy(update={"questions": []}))
    change = mechanism(of(data, "baseline"), of(data, TREATMENT), data.label(TREATMENT))
    assert change in why(silent)[0].mechanisms and why(data)[0].mechanisms == ()


def test_where_no_metric_has_a_verdict_the_profiles_answer_in_short(data: StudyData) -> None:
    undecided = tuple(replace(effect, verdict="not judgeable") for effect in data.effects)
    head = render_study(replace(data, effects=undecided)).replace("\N{NO-BREAK SPACE}", " ").partition("</header>")[0]
    told = change_in_short(of(data, "baseline"), of(data, TREATMENT), data.label(TREATMENT))
    assert f"<li>{told}</li>" in head and "In the profiles, each of them one run:" in head
    assert "In the profiles" not in render_study(data).partition("</header>")[0]


def test_prompts_that_the_engine_does_not_mark_are_no_share_of_nothing(data: StudyData) -> None:
    file = of(data, "baseline").folder / "kernels.parquet"
    kernels = pd.read_parquet(file)
    kernels.loc[kernels["phase"] != "decode", "phase"] = None
    kernels.to_parquet(file)
    again = StudyData(**{field.name: getattr(data, field.name) for field in fields(data)})
    facts = next(table for table in why(again)[0].tables if table.caption == "What the twins show")
    place = [column.title for column in facts.columns].index("Computing prompts")
    first, *others = [row.cells[place].text for row in facts.groups[0].rows]
    assert first == "–" and all(text.endswith(" %") and text != "0 %" for text in others)


def test_one_twin_answers_without_the_baseline(data: StudyData) -> None:
    shutil.rmtree(of(data, "baseline").folder)
    page = render_study(StudyData(**{field.name: getattr(data, field.name) for field in fields(data)}))
    assert "none was taken beside this study" not in page
    assert "From profiles: Prefix caching off instead of on: a decode step of " in page.replace(
        "\N{NO-BREAK SPACE}", " "
    )


def test_the_sentence_turns_round_with_the_sides(data: StudyData) -> None:
    baseline, treatment = of(data, "baseline"), of(data, TREATMENT)
    forward, backward = mechanism(baseline, treatment, "Slow"), mechanism(treatment, baseline, "Fast")
    assert "that a step takes longer" in forward and "matrix products" in forward
    assert "that a step takes less" in backward and forward != backward
    before, after = baseline.recorded, treatment.recorded
    assert before is not None and after is not None and before.step_s is not None
    assert after.step_s == pytest.approx(2 * before.step_s)
    assert after.idle_share == pytest.approx(before.idle_share)
    assert "idle" not in forward.partition(".")[0].partition("decode step")[0], "idle shares are the same"


def test_steps_that_compute_prompts_are_told_apart(data: StudyData) -> None:
    baseline, treatment = of(data, "baseline"), of(data, TREATMENT)
    before, after = baseline.recorded, treatment.recorded
    assert before is not None and after is not None and before.prompt_steps == 1
    prompt_s = sum(before.prompt_step_s().values())
    assert prompt_s > 2 * sum(before.parts_s().values()), "256 tokens of prompts take longer than two of output"
    assert before.phase_share("prefill", "mixed") + before.phase_share("decode") == pytest.approx(1.0)
    assert "a step that computes prompts " in mechanism(baseline, treatment, "Slow")


def test_what_the_profiler_cost_is_told_by_the_gaps(data: StudyData) -> None:
    twin = of(data, "baseline")
    assert twin.measured_gap_s is not None and twin.slowed_by == pytest.approx(0.02 / twin.measured_gap_s - 1)


def told_again(data: StudyData, **requests: float) -> StudyData:
    """The baseline's twin with other facts of its requests."""
    file = of(data, "baseline").folder / "twin.json"
    record = TwinRecord.model_validate(read_json(file))
    write_json(file, record.model_copy(update={"requests": {**record.requests, **requests}}))
    return StudyData(**{field.name: getattr(data, field.name) for field in fields(data)})


def test_a_step_is_held_against_the_gap_while_it_was_recorded(data: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
    found = of(data, "baseline").recorded
    assert found is not None and found.seen is not None
    step_s = float(np.median(found.seen.decode_s))
    assert of(data, "baseline").agrees is None, "a twin of before tells the whole load's gap alone"
    assert of(told_again(data, recorded_chunk_gap_s_p50=step_s), "baseline").agrees is None, (
        "one step of nine has prompts"
    )
    monkeypatch.setattr("leverlab.report.profiled._FEW_PROMPTS", 0.2)
    slowed = told_again(data, recorded_chunk_gap_s_p50=step_s * 1.04)
    twin = of(slowed, "baseline")
    assert twin.agrees and twin.measured_gap_s is not None
    assert twin.slowed_by == pytest.approx(step_s * 1.04 / twin.measured_gap_s - 1)
    assert "while it recorded" in render_study(slowed) and "disagrees" not in render_study(slowed)
    apart = told_again(data, recorded_chunk_gap_s_p50=step_s * 1.1)
    twin = of(apart, "baseline")
    assert twin.agrees is False and "disagrees" in render_study(apart)
    assert twin.identity is not None
    for interval, judged in ((1, True), (8, False)):
        flags = {**twin.identity["flags"], "stream-interval": interval}
        gathered = replace(twin, identity={**twin.identity, "flags": flags})
        assert (gathered.agrees is not None) is judged, "a gap of eight steps is no step"


def test_parts_of_a_step_sum_to_the_step(data: StudyData) -> None:
    found = of(data, "baseline").recorded
    assert found is not None and found.step_s is not None
    assert sum(found.parts_s().values()) == pytest.approx(found.step_s)
    said = anatomy(of(data, "baseline"), "Baseline")
    assert said.startswith("Baseline: a decode step of ")
    assert "The weights alone take 1 ms at the memory's bandwidth: matrix products reach 20 % of it." in said


def test_attention_is_told_from_the_mlp(data: StudyData) -> None:
    """The model's MLP has 2.75 times the weights of attention's projections; attention itself comes on top of these."""
    found = of(data, "baseline").recorded
    assert found is not None
    decode, prompts = decode_parts(found), prompt_parts(found)
    assert decode is not None and prompts is not None
    assert decode.unknown_s == prompts.unknown_s == 0
    assert decode.projections_s < decode.mlp_s and decode.attention_share + decode.mlp_share < 1
    assert prompts.mlp_share > decode.mlp_share, "256 tokens are multiplied at once, and one head's row is left out"
    assert f"the MLP's matrix products {format_share(decode.mlp_share)}," in anatomy(of(data, "baseline"), "Baseline")
    page = render_study(data)
    assert '<span id="layers-0">Attention and MLP</span>' in page
    assert "1 : 2.8 by their weights" in page, "3 × 1408 against 64 × (2 × 8 + 2 × 4)"


def test_a_failed_twin_is_named_with_its_reason(tmp_path: Path) -> None:
    study = make_study(tmp_path, PROFILED)
    row = study.read().cells.iloc[0]
    folder = study.layout.profile(str(row["server"]), str(row["phase"]), "nsys")
    record = TwinRecord(
        twin="t", server="s", phase="p", cell="c", replicate="r1", tool="nsys", outcome="failed", started_at="2026-01-01T00:00:00Z",
        reason=Reason(code="nothing_recorded", message="no report"),
    )  # fmt: skip
    write_json(folder / "twin.json", record)
    assert "its twin is failed: no report" in render_study(study.read())


def test_a_published_page_leads_to_the_tables_of_its_twins_and_to_nothing_that_stays_behind(data: StudyData) -> None:
    folder = data.layout.root / "elsewhere" / "reference"
    publish(data.name, data.configuration, data.layout, folder)
    page = (folder / f"{data.name}.html").read_text()
    links = {link for link in re.findall(r'href="([^"#:]+)"', page) if link != "index.html"}
    twins = {link for link in links if link.endswith("/kernels.parquet")}
    assert len(twins) == sum(twin.record is not None for twin in data.profiles) > 0
    assert [link for link in links if not (folder / link).is_file()] == []
    assert not list(folder.rglob("*.json.gz")), "what the profiler wrote stays where it was recorded"
    for link in twins:
        assert (folder / link).with_name("twin.json").is_file()
