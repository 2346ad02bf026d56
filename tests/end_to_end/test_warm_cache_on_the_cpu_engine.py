"""What leverlab is held to, on the real engine: no warm cache taken for a cold one."""

from pathlib import Path

import pandas
import pytest

from tests.workflow.conftest import Checkout

pytestmark = pytest.mark.engine

STUDY = """\
title: A warm cache
question: Is a cache that keeps what it has told from a cold one?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 12, groups: 2, prefix_tokens: 512, suffix_tokens: 32, output_tokens: 8}
load: {rates: [2, 4]}
levers: {prefix_caching: [on]}
baseline: {prefix_caching: on}
primary: {prefix_caching: ttft_s p50 at rate 2}
replicates: 1
"""

# A plugin as vLLM loads them: from then on the cache says that it was reset, and keeps what it has.
PLUGIN = """\
from vllm.v1.core.kv_cache_manager import KVCacheManager


def register():
    KVCacheManager.reset_prefix_cache = lambda self: True
"""


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
    checkout.write_study("warm", STUDY)
    checkout.snakemake("--cores", "all", study="warm", timeout=900)
    cells = pandas.read_parquet(checkout.root / "results/studies/warm/cells.parquet").set_index("position").sort_index()
    assert set(cells["status"]) == {"measured"} and set(cells["checks"]) == {"invalid"}
    assert all("cache_state_wrong" in codes.split(",") for codes in cells["check_codes"])
    assert "foreign_cache_hits" in cells.loc[1, "check_codes"].split(","), "it found the prompts of the cell before"
    page = (checkout.root / "reports/warm.html").read_text()
    assert 'class="out"' in page and "cache state wrong" in page
