"""What a study expects besides its levers' own indicators: confirmed, contradicted or not resolved, from either side."""

from pathlib import Path

import pytest

from leverlab.config import ConfigError
from leverlab.config.lever import LeverExpectation
from leverlab.report.findings import findings
from leverlab.report.questions import questions
from leverlab.report.theory_values import theory_values
from tests.unit.report_study import make_study

TEXT = """\
question: What do prefix caching and the batch limit do?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1, 4, inf]}
levers: {prefix_caching: [on, off], max_num_seqs: [32, 4]}
baseline: {prefix_caching: on, max_num_seqs: 32}
design: factorial
primary: {prefix_caching: ttft_s p50 at rate 1, max_num_seqs: throughput at burst}
replicates: 4
questions:
  - ask: What was expected?
    answers:
      - {kind: expected, lever: prefix_caching, of: off, against: on, metric: e2e_s p50 at rate 4, direction: increases, because: Nothing is kept.}
  - ask: And elsewhere?
    answers:
      - {kind: expected, lever: prefix_caching, of: off, against: on, metric: e2e_s p50 at rate 1, direction: increases, because: It is computed again., where: {max_num_seqs: 4}}
"""


def said(root: Path, text: str = TEXT, *, null: bool = False, baseline: dict[str, str] | None = None) -> dict[str, str]:
    """Question → its one answer."""
    data = make_study(root, "told", text=text, null=null, baseline=baseline, records=False, keyed=True).read()
    answers = {answer.ask: answer.sentences for answer in questions(data, theory_values(data))}
    assert all(len(sentences) == 1 for sentences in answers.values())
    return {ask: sentences[0] for ask, sentences in answers.items()}


def test_what_came_as_expected_is_confirmed_with_what_was_found(tmp_path: Path) -> None:
    answer = said(tmp_path)["What was expected?"]
    assert answer.startswith("Confirmed: Prefix caching off instead of on was expected to raise")
    assert "Nothing is kept. Found: raised at 4 requests/s by a factor of " in answer and "in 4 replicates" in answer
    assert answer.count("Prefix caching") == answer.count("end-to-end") == 1, (
        "the treatment and the metric are named once"
    )


def test_from_the_other_side_another_sentence_confirms_the_same(tmp_path: Path) -> None:
    answer = said(tmp_path, baseline={"prefix_caching": "off"})["What was expected?"]
    assert answer.startswith("Confirmed: Prefix caching on instead of off was expected to lower")
    assert "The reason is stated for off instead of on" in answer and "Found: lowered at 4 requests/s" in answer


def test_the_other_way_contradicts_and_nothing_resolves_nothing(tmp_path: Path) -> None:
    wrong = TEXT.replace("direction: increases", "direction: decreases")
    assert said(tmp_path / "wrong", wrong)["What was expected?"].startswith("Contradicted: ")
    found = said(tmp_path / "null", null=True)
    assert {answer.partition(":")[0] for answer in found.values()} == {"Not resolved"}
    assert " Found: no difference at 4 requests/s: from " in found["What was expected?"]


def test_an_expectation_may_be_of_another_place(tmp_path: Path) -> None:
    answer = said(tmp_path)["And elsewhere?"]
    assert answer.startswith("Confirmed: Batch limit (max_num_seqs) 4: Prefix caching off instead of on was expected")


def test_two_levels_of_which_none_is_the_baseline_are_refused(tmp_path: Path) -> None:
    text = TEXT.replace("[32, 4]", "[32, 4, 8]").replace(
        "lever: prefix_caching, of: off, against: on, metric: e2e_s p50 at rate 4",
        'lever: max_num_seqs, of: "4", against: "8", metric: throughput at burst',
    )
    with pytest.raises(
        ConfigError, match=r"4 instead of 8 is not compared: every level is compared with the baseline's, 32"
    ):
        said(tmp_path, text)


def test_a_direction_between_any_two_numbers_is_judged_by_which_is_larger(tmp_path: Path) -> None:
    data = make_study(tmp_path, "told", text=TEXT, records=False, keyed=True).read()
    outcomes = {finding.subject: finding.outcome.word for finding in findings(data)}
    assert set(outcomes.values()) == {"expectation confirmed"} and len(outcomes) >= 2


@pytest.mark.parametrize(("level", "against", "turned"), [("8", "32", 1), ("32", "8", -1), ("none", "8", None)])
def test_numbers_are_compared_as_numbers(level: str, against: str, turned: int | None) -> None:
    lower = LeverExpectation(direction="decreases", of="4", against="64", because="Fewer.", any_two=True)
    assert lower.turned(level, against) == turned
    assert (
        LeverExpectation(direction="decreases", of="4", against="64", because="Fewer.").turned(level, against) is None
    )


def test_any_two_takes_numbers() -> None:
    with pytest.raises(ValueError, match="any_two: '8' and 'none' are no two numbers"):
        LeverExpectation(direction="decreases", of="8", against="none", because="Fewer.", any_two=True)


def test_what_is_expected_is_a_family_of_its_own(tmp_path: Path) -> None:
    data = make_study(tmp_path, "told", text=TEXT, null=True, records=False, keyed=True).read()
    expected = [
        effect
        for effect, place in ((effect, effect.load) for effect in (*data.effects, *data.simple))
        if (effect.metric, effect.statistic) == ("e2e_s", "p50")
        and (effect.treatment, place)
        in {("prefix_caching=off", "rate 4"), ("prefix_caching=off at max_num_seqs=4", "rate 1")}
    ]
    # Holm over two: the smaller p value is held against half of 5 %, and where that fails so is the other one.
    assert [effect.level for effect in expected] == pytest.approx([0.975, 0.975])
    assert not any(effect.primary for effect in expected)


def test_a_smaller_size_says_which_level_it_has_not(tmp_path: Path) -> None:
    smoke = "smoke:\n  levers: {prefix_caching: [on, off], max_num_seqs: [32]}\n  baseline: {prefix_caching: on, max_num_seqs: 32}\n  design: one-at-a-time\n"
    data = make_study(tmp_path, "told-smoke", text=TEXT + smoke, records=False, keyed=True).read()
    (_, elsewhere) = questions(data, theory_values(data))
    assert elsewhere.sentences == ("Not answered in this size: Batch limit (max_num_seqs) 4 is a level in told alone.",)
