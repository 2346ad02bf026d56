"""What answers are worth, through the whole workflow: lm_eval against truth engines that solve a declared share of sums."""

import json
import os
import re

import pyarrow.parquet as pq
import pytest
from scipy import stats

from leverlab.environments import ENVIRONMENTS
from tests.workflow.conftest import REPOSITORY, SMALL_STUDY, Checkout, copy_repository

pytestmark = pytest.mark.minutes(seconds=180)

PYTHON = REPOSITORY / ENVIRONMENTS / "lm-eval" / "bin" / "python"

LEVER = """
sums:
  title: Sums solved
  mechanism: A stand-in for what a smaller number format does to a model.
  indicator: {metric: throughput, load: burst}
  levels:
    all: {truth: {flags: {solves: 1.0}}}
    most: {truth: {flags: {solves: 0.9}}}
    few: {truth: {flags: {solves: 0.3}}}
    none_at_all: {truth: {flags: {refuse: there is no such format}}}
"""
STUDY = """\
question: Does accuracy fall with the share of sums that are solved?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 8, prompt_tokens: 32, output_tokens: 4}
load: {rates: [inf]}
levers: {sums: [all, most, few, none_at_all]}
baseline: {sums: all}
replicates: 1
noise_floor: true
accuracy: {task: gsm8k, few_shot: 2, data: config/accuracy/sums, prompts: [Name a river., "What is 20 + 22?"], prompt_tokens: 12}
questions:
  - ask: What does it do to accuracy?
    answers:
      - {kind: accuracy, lever: sums}
collects: {Accuracy: "accuracy: score"}
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which the study's servers have been asked. Tests only look at it."""
    copy = copy_repository(tmp_path_factory.mktemp("asked") / "leverlab")
    levers = copy.root / "config" / "levers.yaml"
    levers.write_text(levers.read_text() + LEVER)
    settings = copy.root / "config" / "config.yaml"
    settings.write_text(f"{settings.read_text()}lm_eval_python: {PYTHON}\n")
    copy.write_study("sums", STUDY)
    copy.snakemake("--cores", "2", study="sums", timeout=600)
    return copy


def rows(copy: Checkout) -> dict[tuple[str, str], dict[str, object]]:
    table = pq.read_table(copy.root / "results" / "studies" / "sums" / "accuracy.parquet").to_pylist()
    return {(row["treatment"], row["filter"]): row for row in table}


def test_scores_are_those_that_were_declared(asked: Checkout) -> None:
    found = rows(asked)
    assert found["baseline", "strict-match"]["value"] == 1.0
    few = found["sums=few", "strict-match"]
    assert few["questions"] == 20
    assert few["standard_error"] > 0
    right = round(few["value"] * 20)
    assert stats.binomtest(right, 20, 0.3).pvalue > 1e-4
    assert few["weights"] == "simulated"


def test_the_change_is_of_the_same_questions_and_verdicts_follow(asked: Checkout) -> None:
    found = rows(asked)
    few, most = found["sums=few", "strict-match"], found["sums=most", "strict-match"]
    assert few["pairs"] == most["pairs"] == 20
    assert few["gained"] == most["gained"] == 0, "who solves fewer sums solves none that others do not"
    assert few["difference"] == pytest.approx(few["value"] - 1.0)
    assert few["verdict"] == "worsens"
    assert most["verdict"] == "no difference found", "two sums of twenty are no evidence"
    assert found["baseline", "strict-match"]["verdict"] is None
    assert found["sums=few", "flexible-extract"]["verdict"] is None, "one verdict a task"


def test_the_same_server_once_more_answers_the_same(asked: Checkout) -> None:
    again = rows(asked)["baseline again", "strict-match"]
    assert (again["answers"], again["same_answers"]) == (20, 20)
    assert (again["prompts"], again["same_prompts"]) == (2, 2)
    assert again["verdict"] is None
    few = rows(asked)["sums=few", "strict-match"]
    assert few["same_answers"] == round(20 * few["value"])


def test_a_server_that_cannot_be_is_said_to_be_infeasible(asked: Checkout) -> None:
    row = rows(asked)["sums=none_at_all", None]
    assert row["status"] == "infeasible"
    assert "there is no such format" in row["reason"]


def test_the_page_shows_scores_changes_and_answers_side_by_side_and_says_simulated(asked: Checkout) -> None:
    page = (asked.root / "reports" / "sums.html").read_text()
    section = page[page.index('<section id="accuracy"') :]
    section = section[: section.index("</section>")]
    text = " ".join(re.sub(r"<[^>]+>", " ", section).split())
    assert "gsm8k" in text
    assert "McNemar" in text
    assert "worsens, simulated" in text
    assert "infeasible" in text
    assert "What is 20 + 22?" in text
    assert "42" in text
    assert "<ins>" in section or "<del>" in section or "the same as the baseline's" in text
    answer = page[page.index("What does it do to accuracy?") :]
    assert "Simulated: Sums solved few instead of all" in answer[:3000]


def test_nothing_of_it_is_asked_twice_and_a_new_limit_asks_again(asked: Checkout, tmp_path: os.PathLike) -> None:
    assert asked.planned(study="sums") == {}
    study = asked.root / "config" / "studies" / "sums.yaml"
    text = study.read_text()
    study.write_text(text.replace("few_shot: 2", "few_shot: 2, limit: 10"))
    try:
        planned = asked.planned(study="sums")
    finally:
        study.write_text(text)
        os.utime(study, (0, 0))
    assert planned["accuracy"] == 5
    assert "measure" not in planned


def test_a_run_is_whole_and_holds_no_key(asked: Checkout) -> None:
    runs = [path.parent for path in (asked.root / "results" / "accuracy").glob("*/*/runs/*/accuracy.json")]
    assert len(runs) == 5
    for run in runs:
        record = json.loads((run / "accuracy.json").read_text())
        there = {path.name for path in run.iterdir()} - {"accuracy.json"}
        assert set(record["files"]) == there
        if record["status"] == "measured":
            assert {"results.json", "samples.jsonl", "answers.json", "server.log", "lm_eval.log", "task.yaml"} <= there
            assert record["differences"] == []
            assert record["stop"]["survivors"] == []
            assert record["lm_eval"]["version"] == "0.4.13"
            assert record["provenance"]["node"]["hostname"]
    assert not list((asked.root / "results" / "accuracy").glob("*/*/attempts/*"))


def test_a_study_without_the_key_asks_nothing(measured: Checkout) -> None:
    assert "accuracy:" not in SMALL_STUDY
    assert not (measured.root / "results" / "accuracy").exists()
    assert pq.read_table(measured.root / "results" / "studies" / "small" / "accuracy.parquet").num_rows == 0
    assert '<section id="accuracy"' not in (measured.root / "reports" / "small.html").read_text()
