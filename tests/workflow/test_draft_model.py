"""A level that refers to a second model: that model is made before the server which needs it, and only for that one."""

import re

from tests.workflow.conftest import Checkout

STUDY = """\
question: What does a draft model do?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 8, prompt_tokens: 32, output_tokens: 8}
load: {rates: [4]}
levers: {speculation: [off, draft]}
baseline: {speculation: off}
replicates: 1
"""


def test_the_draft_model_is_an_input_of_the_server_that_drafts(again: Checkout) -> None:
    again.write_study("drafting", STUDY)
    shown = again.snakemake("--dry-run", "--cores", "2", study="drafting").stdout
    inputs = re.findall(r"^rule measure:\n    input: (.*)$", shown, re.MULTILINE)
    assert sorted("results/models/tiny-llama-draft/model.json" in files for files in inputs) == [False, True]
    assert all("results/models/tiny-llama/model.json" in files for files in inputs)
