"""One cell again on the truth engine: from its records, and from the study's table alone."""

import html
import json
import shutil
from pathlib import Path

import pandas
import pytest
import yaml

from leverlab.layout import Layout
from tests.integration.checkout import Checkout

pytestmark = pytest.mark.minutes(seconds=70)

STUDY = """\
title: Small
question: Does the batch limit matter?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 24, groups: 2, prefix_tokens: 64, suffix_tokens: 16, output_tokens: 16}
load: {rates: [40]}
levers: {max_num_seqs: [64]}
baseline: {max_num_seqs: 64}
primary: {max_num_seqs: ttft_s p50 at rate 40}
replicates: 3
request_timeout: 90 s
"""


def new_checkout(root: Path) -> Checkout:
    checkout = Checkout.make(root, "small", STUDY)
    engines = root / "config" / "engines.yaml"
    entries = yaml.safe_load(engines.read_text())
    # A time to first token that dwarfs what a busy machine adds.
    entries["truth"]["flags"] |= {"ttft": 0.2, "gap": 0.02}
    engines.write_text(yaml.safe_dump(entries))
    return checkout


def reproduce(checkout: Checkout, cell: str, number: int, code: int = 0) -> tuple[dict, str]:
    output = Path("results", "reproductions", cell, str(number), "verdict.html")
    said = checkout.run("reproduce.py", "--cell", cell, "--number", str(number), "--output", str(output), code=code)
    if code:
        return {}, said
    return json.loads((checkout.root / output).with_suffix(".json").read_text()), (checkout.root / output).read_text()


def new_doubter(root: Path) -> Checkout:
    """Another checkout, with the model and nothing else."""
    doubter = new_checkout(root)
    doubter.run("prepare_model.py", "--model", "tiny-llama", "--output", "results/models/tiny-llama/model.json")
    return doubter


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = new_checkout(tmp_path_factory.mktemp("measured"))
    checkout.measure("small")
    return checkout


def cells(checkout: Checkout) -> pandas.DataFrame:
    return checkout.cells("small")


def test_a_cell_is_measured_again_and_compared(measured: Checkout) -> None:
    table = cells(measured)
    assert list(table["status"]) == ["measured"] * 3
    cell = table["cell"][0]
    verdict, page = reproduce(measured, cell, 1)
    assert verdict["verdict"] in ("holds", "does not hold", "not judgeable")
    compared = verdict["metrics"]["ttft_s p50"]
    assert compared["recorded"] == list(table["ttft_s_p50"]), "the records and the study's table say the same"
    assert 0.2 <= compared["new"] < 0.3
    assert verdict["sentence"] in html.unescape(page).replace("\xa0", " ")
    own = Layout(measured.root / "results" / "reproductions" / cell / "1")
    record = json.loads(next(own.results.glob("servers/*/x1/cells/*/cell.json")).read_text())
    assert record["cell"] == cell and record["replicate"] == "x1"
    assert record["request_timeout_s"] == 90
    drawn = next(own.results.glob("workloads/*/x1/requests.jsonl")).read_bytes()
    for other in (measured.root / "results" / "workloads").glob("*/r*/requests.jsonl"):
        assert other.read_bytes() != drawn, "a draw of its own"


def test_another_number_is_another_measurement(measured: Checkout) -> None:
    cell = cells(measured)["cell"][0]
    verdict, _ = reproduce(measured, cell, 2)
    assert verdict["number"] == 2
    assert (measured.root / "results/reproductions" / cell / "2" / "results").is_dir()


def test_a_table_alone_suffices(measured: Checkout, tmp_path: Path) -> None:
    doubter = new_doubter(tmp_path / "doubter")
    folder = doubter.root / "results/studies/small"
    folder.mkdir(parents=True)
    shutil.copy(measured.root / "results/studies/small/cells.parquet", folder)
    table = cells(doubter)
    verdict, page = reproduce(doubter, table["cell"][0], 1)
    assert verdict["metrics"]["ttft_s p50"]["recorded"] == list(table["ttft_s_p50"])
    assert len(verdict["replicates"]) + len(verdict["excluded"]) == 3
    assert "cells.parquet" in page
    kept = doubter.root / "results/reproductions" / table["cell"][0] / "1" / "results"
    record = json.loads(next(kept.glob("servers/*/x1/cells/*/cell.json")).read_text())
    assert record["request_timeout_s"] == 90, "followed as long as it was recorded"


def test_an_engine_that_became_slower_does_not_hold(measured: Checkout, tmp_path: Path) -> None:
    """What was recorded is made a third of what it was: the engine of today is then three times slower."""
    doubter = new_doubter(tmp_path / "doubter")
    folder = doubter.root / "results/studies/small"
    folder.mkdir(parents=True)
    table = cells(measured)
    table["checks"] = "ok"
    for number, name in enumerate(("ttft_s_p50", "tpot_s_p50")):
        table[name] = table[name].iloc[0] / 3 * (1 + 0.002 * table.index + 0.001 * number)
    table.to_parquet(folder / "cells.parquet")
    verdict, _ = reproduce(doubter, table["cell"][0], 1)
    if not verdict["invalid"]:
        assert verdict["verdict"] == "does not hold"
        assert verdict["sentence"].startswith("The number does not hold")
    assert verdict["metrics"]["ttft_s p50"]["judgement"] == "outside"


def test_what_cannot_be_started_here_is_told_and_nothing_is_measured(measured: Checkout, tmp_path: Path) -> None:
    doubter = new_doubter(tmp_path / "doubter")
    _, said = reproduce(doubter, "no-such-cell-0123456789", 1, code=1)
    assert "no record of the cell" in said
    folder = doubter.root / "results/studies/small"
    folder.mkdir(parents=True)
    shutil.copy(measured.root / "results/studies/small/cells.parquet", folder)
    engines = doubter.root / "config" / "engines.yaml"
    engines.write_text(engines.read_text().replace("truth:\n", "other-truth:\n"))
    _, said = reproduce(doubter, cells(doubter)["cell"][0], 1, code=1)
    assert "config/engines.yaml: there is no 'truth'" in said and "other-truth" in said
    assert not list((doubter.root / "results").rglob("trial.json"))
