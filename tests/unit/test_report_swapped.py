"""Every sentence of a page comes from data: the same measurements told from the other side read differently, and nothing is nothing."""

import re
from pathlib import Path

import pytest

from leverlab.report.doubts import doubts_in
from leverlab.report.findings import findings
from leverlab.report.in_short import headline
from leverlab.report.page import render_study
from leverlab.report.questions import questions
from leverlab.report.theory_values import theory_values
from tests.unit.report_study import ReportStudy, make_study

TEXT = """\
question: What do prefix caching and the batch limit do?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1, 4, inf]}
levers: {prefix_caching: [on, off], max_num_seqs: [64, 4]}
baseline: {prefix_caching: on, max_num_seqs: 64}
primary: {prefix_caching: ttft_s p50 at rate 1, max_num_seqs: throughput at burst}
replicates: 4
questions:
  - {ask: "What does the cache do?", answers: [{kind: effect, lever: prefix_caching, metrics: [ttft_s p50, cache_hit_ratio]}]}
  - {ask: "Which limit is best?", answers: [{kind: levels, lever: max_num_seqs, metrics: [throughput]}]}
  - {ask: "How does it go with the load?", answers: [{kind: load, metrics: [ttft_s p50, throughput]}]}
  - {ask: "Where does it stop?", answers: [{kind: saturation}]}
"""
CROSSED = """\
question: What do prefix caching and the batch limit do together?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1, 4, inf]}
levers: {prefix_caching: [on, off], max_num_seqs: [64, 16, 4]}
baseline: {prefix_caching: on, max_num_seqs: 64}
design: factorial
primary: {prefix_caching: ttft_s p50 at rate 1, max_num_seqs: throughput at burst}
replicates: 4
questions:
  - ask: Came it as expected?
    answers:
      - {kind: expected, lever: prefix_caching, of: off, against: on, metric: e2e_s p50 at rate 4, direction: increases, because: Nothing is kept.}
  - {ask: "Do they stack?", answers: [{kind: stacking, levers: [prefix_caching, max_num_seqs], metrics: [ttft_s p50 at rate 4]}]}
  - ask: Is it in the range?
    answers:
      - {kind: range, lever: prefix_caching, metric: ttft_s p50 at burst, expected: {on: [0, 1.1], off: [0, 1.1]}, source: a table}
  - {ask: "Is it a line?", answers: [{kind: line, lever: max_num_seqs, metrics: [ttft_s p50 at rate 4]}]}
"""
SWAPPED = {"prefix_caching": "off", "max_num_seqs": "4"}


def told(
    root: Path, *, text: str = TEXT, null: bool = False, baseline: dict[str, str] | None = None
) -> dict[str, list[str]]:
    """Part of the page → its sentences."""
    data = make_study(root, "told", text=text, null=null, baseline=baseline, records=False, keyed=True).read()
    answers = {answer.ask: list(answer.sentences) for answer in questions(data, theory_values(data))}
    found = findings(data)
    return {
        "headline": [headline(data.effects, data.telling, doubts_in(data))],
        "verdicts": [str(finding.sentence) for finding in found],
        "expectations": [finding.expectation for finding in found],
        "outcomes": [finding.outcome.word for finding in found],
        **answers,
    }


@pytest.fixture(scope="module")
def forward(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return told(tmp_path_factory.mktemp("forward"))


def test_told_from_the_other_side_every_sentence_changes(forward: dict[str, list[str]], tmp_path: Path) -> None:
    backward = told(tmp_path, baseline=SWAPPED)
    assert forward.keys() == backward.keys()
    for part in forward.keys() - {"outcomes"}:
        assert forward[part], part
        assert not set(forward[part]) & set(backward[part]), part


def test_what_is_expected_is_seen_from_either_side(forward: dict[str, list[str]], tmp_path: Path) -> None:
    expected = ["expectation confirmed", "expectation confirmed"]
    assert forward["outcomes"] == expected
    assert told(tmp_path, baseline=SWAPPED)["outcomes"] == expected


def test_where_nothing_acts_nothing_is_resolved_and_nothing_is_claimed(tmp_path: Path) -> None:
    found = told(tmp_path, null=True)
    assert found["outcomes"] == ["expectation not resolved", "expectation not resolved"]
    assert "No difference was found" in found["headline"][0]
    assert all("no difference found" in sentence for sentence in found["verdicts"])
    for sentence in [*found["What does the cache do?"], *found["Which limit is best?"]]:
        assert not re.search(r"\b(raises?|lowers?|the best is)\b", sentence), sentence


def test_what_is_crossed_reads_otherwise_from_the_other_side_too(tmp_path: Path) -> None:
    forward = told(tmp_path / "forward", text=CROSSED)
    backward = told(tmp_path / "backward", text=CROSSED, baseline=SWAPPED)
    for part in ("Came it as expected?", "Do they stack?", "Is it in the range?", "Is it a line?"):
        assert forward[part], part
        assert not set(forward[part]) & set(backward[part]), part
    for side in (forward, backward):
        assert side["Came it as expected?"][0].startswith("Confirmed: ")


def test_where_nothing_acts_no_crossed_effect_and_no_slope_is_claimed(tmp_path: Path) -> None:
    found = told(tmp_path, text=CROSSED, null=True)
    (expected,), (line,) = found["Came it as expected?"], found["Is it a line?"]
    assert expected.startswith("Not resolved: ")
    for sentence in found["Do they stack?"]:
        assert "whether they stack is not resolved" in sentence and "departure" not in sentence
    assert "Whether it rises or falls along it is not resolved." in line


def test_the_page_marks_each_expectation(tmp_path: Path) -> None:
    for null, word in ((False, "expectation confirmed"), (True, "expectation not resolved")):
        page = render_study(make_study(tmp_path / word, "told", text=TEXT, null=null, records=False, keyed=True).read())
        assert page.count(word) == 2


def test_effects_that_went_the_other_way_contradict(tmp_path: Path) -> None:
    study = make_study(tmp_path, "told", text=TEXT, records=False, keyed=True)
    levers = study.root / "config" / "levers.yaml"
    text = levers.read_text()
    start = text.index("prefix_caching:")
    levers.write_text(text[:start] + text[start:].replace("direction: decreases", "direction: increases", 1))
    words = [finding.outcome.word for finding in findings(ReportStudy(study.root, "told").read())]
    assert words == ["expectation contradicted", "expectation confirmed"]


def test_one_replicate_resolves_nothing_and_is_not_called_no_difference(tmp_path: Path) -> None:
    text = TEXT.replace("replicates: 4", "replicates: 1")
    data = make_study(tmp_path, "told", text=text, records=False, keyed=True).read()
    (answer,) = [answer for answer in questions(data, theory_values(data)) if answer.ask == "Which limit is best?"]
    for sentence in answer.sentences:
        assert "Whether it differs from 64 at 4 is not resolved. One pair of replicates" in sentence
        assert "No difference" not in sentence
    assert [finding.outcome.word for finding in findings(data)] == ["expectation not resolved"] * 2
