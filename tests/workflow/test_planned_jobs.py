"""Jobs as they are planned: what each waits for, and which goes first."""

import re

import pytest

from tests.workflow.conftest import Checkout, copy_repository

STUDY = """\
question: What does a draft model do?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 8, prompt_tokens: 32, output_tokens: 8}
load: {rates: [4]}
levers: {speculation: [off, draft]}
baseline: {speculation: off}
replicates: 2
noise_floor: true
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a dry run says of each job."""
    copy: Checkout = copy_repository(tmp_path_factory.mktemp("planned") / "leverlab")
    copy.write_study("drafting", STUDY)
    return copy.snakemake("--dry-run", "--cores", "2", study="drafting").stdout


def test_the_draft_model_is_an_input_of_the_server_that_drafts(shown: str) -> None:
    """A level that refers to a second model: that model is made before the server which needs it, and only for that one."""
    inputs = re.findall(r"^rule measure:\n    input: (.*)$", shown, re.MULTILINE)
    drafting = ["results/models/tiny-llama-draft/model.json" in files for files in inputs]
    assert sorted(drafting) == [False] * 4 + [True] * 2
    assert all("results/models/tiny-llama/model.json" in files for files in inputs)


def test_a_lower_replicate_goes_first_and_what_servers_wait_for_before_all(shown: str) -> None:
    """A second replicate would otherwise be measured while another server's first still waits for its environment."""
    priorities: dict[str, set[float]] = {}
    for job in re.split(r"^rule ", shown, flags=re.MULTILINE)[1:]:
        output, priority = (re.search(rf"^    {key}: (\S+)", job, re.MULTILINE) for key in ("output", "priority"))
        if output is not None:
            replicate = re.search(r"/(r\d)(?:c1)?/jobs/", output[1])
            name = replicate[1] if replicate else job.partition(":")[0]
            priorities.setdefault(name, set()).add(float(priority[1]) if priority else 0.0)
    assert all(len(found) == 1 for found in priorities.values()), priorities
    order = {name: found.pop() for name, found in priorities.items()}
    assert min(order[rule] for rule in ("environment", "model", "workload", "flags")) > order["r1"] > order["r2"] > 0
