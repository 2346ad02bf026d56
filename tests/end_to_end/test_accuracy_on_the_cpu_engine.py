"""What answers are worth, on the real engine: lm_eval asks vLLM's CPU build, whose weights are random, twenty local sums."""

import json
import re

import pandas
import pytest

from tests.workflow.conftest import REPOSITORY, Checkout

pytestmark = [pytest.mark.engine, pytest.mark.minutes(seconds=200)]

STUDY = """\
question: Does prefix caching change what is answered?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 4, prompt_tokens: 16, output_tokens: 2}
load: {rates: [1]}
levers: {prefix_caching: [on, off]}
baseline: {prefix_caching: off}
replicates: 1
accuracy: {task: gsm8k, few_shot: 2, data: config/accuracy/sums, prompt_tokens: 16, random_weights: true}
questions:
  - ask: Does it change accuracy?
    answers:
      - {kind: accuracy, lever: prefix_caching}
"""


@pytest.fixture(scope="module")
def asked(checkout: Checkout) -> Checkout:
    marker = REPOSITORY / ".envs" / "lm-eval" / "ready.json"
    assert marker.is_file(), "the environment lm-eval is missing: run `make test`, which makes it first"
    checkout.write_study("answers", STUDY)
    checkout.snakemake("answers", "--cores", "all", study="answers", timeout=900)
    checkout.snakemake("partial", "--cores", "all", study="answers")
    return checkout


def test_both_servers_answer_every_question_and_nothing_was_measured(asked: Checkout) -> None:
    table = pandas.read_parquet(asked.root / "results/studies/answers/accuracy.parquet")
    leading = table[table["leading"]].set_index("treatment")
    assert list(leading["status"]) == ["measured", "measured"]
    assert set(leading["weights"]) == {"random"}
    assert (leading["questions"] == 20).all()
    assert leading["as_asked"].all()
    assert leading.loc["prefix_caching=on", "pairs"] == 20
    assert table["verdict"].isna().all(), "random weights get no verdict"
    assert not asked.cells()


def test_every_prompt_has_an_answer_of_its_length(asked: Checkout) -> None:
    runs = list((asked.root / "results/accuracy").glob("*/r1/runs/*"))
    assert len(runs) == 2
    for run in runs:
        answers = json.loads((run / "answers.json").read_text())["answers"]
        assert len(answers) == 5
        assert all(answer["completion_tokens"] <= 16 and answer["finish_reason"] for answer in answers)


def test_the_page_says_that_random_weights_have_no_accuracy(asked: Checkout) -> None:
    page = " ".join(re.sub(r"<[^>]+>", " ", (asked.root / "reports/answers.html").read_text()).split())
    assert "These weights are random: the answers mean nothing" in page
    assert "none: random weights" in page
    assert "Not answered for" in page[page.index("Does it change accuracy?") :][:300]
