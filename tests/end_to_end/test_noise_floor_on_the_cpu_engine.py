"""What leverlab is held to, on the real engine: no difference where there is none."""

import pandas
import pytest

from tests.workflow.conftest import Checkout

pytestmark = [pytest.mark.engine, pytest.mark.minutes(seconds=330)]

STUDY = """\
title: The same, twice
question: Does leverlab find a difference where there is none?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 12, groups: 2, prefix_tokens: 512, suffix_tokens: 32, output_tokens: 8}
load: {rates: [2]}
levers: {prefix_caching: [on]}
baseline: {prefix_caching: on}
primary: {prefix_caching: ttft_s p50 at rate 2}
replicates: 3
noise_floor: true
"""


def test_the_same_measured_twice_shows_no_difference(checkout: Checkout) -> None:
    checkout.write_study("same-twice", STUDY)
    checkout.snakemake("--cores", "all", study="same-twice", timeout=900)
    cells = pandas.read_parquet(checkout.root / "results/studies/same-twice/cells.parquet")
    assert list(cells["replicate"]) == ["r1", "r2", "r3", "r1c1", "r2c1", "r3c1"] and set(cells["status"]) == {
        "measured"
    }
    assert set(cells["checks"]) <= {"ok", "caution"}, cells[["replicate", "check_codes"]].to_dict("records")
    effects = pandas.read_parquet(checkout.root / "results/studies/same-twice/effects.parquet")
    assert set(effects["kind"]) == {"noise floor"}
    (primary,) = effects[effects["adjusted_p"].notna()].to_dict("records")
    assert (primary["metric"], primary["verdict"]) == ("ttft_s", "no difference found")
    page = (checkout.root / "reports/same-twice.html").read_text()
    assert "The baseline against its own copy: no difference found in the median time to first token" in page.replace(
        "\N{NO-BREAK SPACE}", " "
    )
