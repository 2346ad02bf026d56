"""What a page says of engines that are compared: whether both were asked, and counted, the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leverlab.report.asked_alike import asked_alike_sentences
from leverlab.report.page import render_study
from tests.unit.report_study import ReportStudy, make_study
from tests.unit.report_text import text_of

TEXT = """\
question: Which engine?
engines: [vllm]
models: [llama-3.1-8b-shape]
gpus: [h100]
workload: shared-system-prompt
load: {rates: [4]}
levers: {engine: [vllm, sglang], prefix_caching: [on], max_num_seqs: [64]}
baseline: {engine: vllm, prefix_caching: on, max_num_seqs: 64}
primary: {engine: ttft_s p50 at rate 4}
replicates: 2
"""

CONVERSATIONS = {
    "kind": "multi-turn",
    "requests": 60,
    "turns": 5,
    "system_tokens": 512,
    "message_tokens": 128,
    "output_tokens": 128,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportStudy:
    return make_study(tmp_path_factory.mktemp("engines"), "engines", text=TEXT, records=False)


def said(study: ReportStudy, change: Callable[[pd.DataFrame], pd.DataFrame]) -> str:
    """The sentence where the requests of the other engine are changed."""
    path = study.layout.study(study.name) / "requests.parquet"
    before = pq.read_table(path)
    requests = before.to_pandas()
    requests = requests.assign(scheduled_s=requests["index"] * 0.25)
    other = requests["treatment"] != "baseline"
    changed = pd.concat([requests[~other], change(requests[other].copy())])
    pq.write_table(pa.Table.from_pandas(changed, before.schema, preserve_index=False), path)
    try:
        (sentence,) = asked_alike_sentences(study.read())
    finally:
        pq.write_table(before, path)
    return sentence


def test_engines_that_were_asked_alike_are_said_to_be(study: ReportStudy) -> None:
    sentence = said(study, lambda requests: requests)
    assert sentence.startswith(
        "Engine sglang instead of vllm: in all 2 pairs of cells both engines were sent the same prompts"
    )
    assert "4 requests each, and both counted as many tokens" in sentence
    assert "both engines were sent the same prompts" in text_of(render_study(study.read()))


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("prompt_tokens", "1 of 2 requests have another number of tokens in the prompt"),
        ("completion_tokens", "1 of 2 requests have another number of tokens in the answer"),
        ("scheduled_s", "1 of 2 requests were due at other instants"),
    ],
)
def test_one_request_that_differs_is_told(study: ReportStudy, column: str, what: str) -> None:
    def change(requests: pd.DataFrame) -> pd.DataFrame:
        one = (requests["replicate"] == "r1") & (requests["index"] == 1)
        requests.loc[one, column] = requests.loc[one, column] + 1
        return requests

    sentence = said(study, change)
    assert (
        f"in 1 of 2 pairs of cells the engines were not asked or did not answer alike: at 4 requests/s, r1, {what}."
        in sentence
    )


def test_a_request_that_was_not_sent_or_failed_is_told(study: ReportStudy) -> None:
    assert "r1, 1 requests were sent to one and 2 to the other" in said(
        study, lambda requests: requests[(requests["replicate"] != "r1") | (requests["index"] != 1)]
    )
    assert "2 of 2 requests did not end well on one side" in said(
        study, lambda requests: requests.assign(status="error")
    )


def test_of_a_study_of_one_engine_nothing_is_said(tmp_path: Path) -> None:
    text = TEXT.replace("[vllm, sglang]", "[vllm]").replace("primary: {engine: ttft_s p50 at rate 4}\n", "")
    one = make_study(tmp_path, "engines", text=text, records=False)
    assert not list(asked_alike_sentences(one.read()))


def test_rounds_that_wait_for_answers_are_due_when_those_end(study: ReportStudy) -> None:
    """A conversation's next question comes after the answer, which one engine gives sooner."""
    path = study.layout.study(study.name) / "cells.parquet"
    before = pq.read_table(path)
    cells = before.to_pandas()

    def with_rounds(text: str) -> str:
        specification = json.loads(text)
        specification["phase"]["workload"]["workload"] = CONVERSATIONS
        return json.dumps(specification)

    cells["specification"] = cells["specification"].map(with_rounds)
    pq.write_table(pa.Table.from_pandas(cells, before.schema, preserve_index=False), path)
    try:
        sentence = said(study, lambda requests: requests.assign(scheduled_s=requests["scheduled_s"] * 2))
    finally:
        pq.write_table(before, path)
    assert "both engines were sent the same prompts" in sentence
