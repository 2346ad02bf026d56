"""Mistakes in what the user writes: named with their remedy, told before any job, and nothing measured is lost."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.workflow.conftest import SMALL_STUDY, Checkout

STUDY = "config/studies/small.yaml"


@dataclass(frozen=True)
class Mistake:
    """`old` becomes `new` in `file`; what is said then holds each of `said`."""

    file: str
    old: str
    new: str
    said: tuple[str, ...]


MISTAKES = {
    "misspelt key": Mistake(STUDY, "replicates:", "replicate:", (STUDY, "no key 'replicate'", "'replicates'?")),
    "misspelt lever": Mistake(
        STUDY,
        "  prefix_caching:",
        "  prefix_cachng:",
        (STUDY, "levers: there is no 'prefix_cachng'", "'prefix_caching'?"),
    ),
    "misspelt level": Mistake(STUDY, "[on, off]", "[on, of]", (STUDY, "levers.prefix_caching", "level 'of'", "'off'?")),
    "misspelt flag": Mistake(
        "config/levers.yaml",
        "truth: {flags: {enable-prefix-caching: false}}",
        "truth: {flags: {enable-prefix-cachng: false}}",
        ("config/levers.yaml: prefix_caching=off", "no flag --enable-prefix-cachng", "'enable-prefix-caching'?"),
    ),
    "flag's value": Mistake(
        "config/engines.yaml", "gap: 0.005", "gap: soon", ("config/engines.yaml: truth.flags.gap", "--gap", "soon")
    ),
    "model folder that is not there": Mistake(
        "config/models.yaml",
        "tiny-llama:\n  title: a Llama of 40 million random weights\n  source:\n    kind: synthetic\n    shape:\n",
        "tiny-llama:\n  source: {kind: path, path: nowhere/at-all, revision: '1'}\nshape:\n  source:\n    kind: synthetic\n    shape:\n",
        ("config/models.yaml: tiny-llama.source.path", "no folder nowhere/at-all"),
    ),
    "empty rate list": Mistake(STUDY, "rates: [20, inf]", "rates: []", (STUDY, "load: no load point", "rates: [1, 4")),
    "negative rate": Mistake(STUDY, "rates: [20, inf]", "rates: [20, -1]", (STUDY, "load.rates.1", "greater than 0")),
    "duplicate name": Mistake(
        "config/levers.yaml",
        "max_num_seqs:",
        "prefix_caching:",
        ("config/levers.yaml", "'prefix_caching' stands twice"),
    ),
    "no baseline": Mistake(
        STUDY, "baseline: {prefix_caching: on, max_num_seqs: 64}\n", "", (STUDY, "baseline: this key is required")
    ),
    "study that is no mapping": Mistake(STUDY, SMALL_STUDY, "- a\n- list\n", (STUDY, "must be a mapping")),
    "settings that are no mapping": Mistake(
        "config/config.yaml", "study: first-look", "first-look", ("Config file must be given as", "keys at top level")
    ),
}


def kept(root: Path) -> dict[Path, int]:
    """Every file of a measurement, and when it was written."""
    return {
        path: path.stat().st_mtime_ns for path in (root / "results/servers").rglob("*/r*/[ct]*/**/*") if path.is_file()
    }


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_before_any_job_and_costs_nothing(again: Checkout, name: str) -> None:
    mistake = MISTAKES[name]
    before = kept(again.root)
    assert before
    again.edit(mistake.file, mistake.old, mistake.new)
    done = again.snakemake("--cores", "2", check=False)
    told = done.stdout + done.stderr
    assert done.returncode != 0, told
    for part in mistake.said:
        assert part in told, told
    assert "Traceback" not in told
    assert "rule measure" not in told, "a measurement was begun"
    assert kept(again.root) == before


def test_a_study_that_is_not_there_is_named(measured: Checkout) -> None:
    done = measured.snakemake("--cores", "2", study="smal", check=False)
    assert done.returncode != 0
    assert "there is no config/studies/smal.yaml; did you mean 'small'?" in done.stderr + done.stdout


def test_a_study_that_names_another_node_measures_nothing_here(again: Checkout) -> None:
    study = again.root / STUDY
    study.write_text(study.read_text() + "node: elsewhere\n")
    assert again.snakemake("--cores", "2").returncode == 0, "what is measured needs no node"
    shutil.rmtree(next(again.root.glob("results/servers/*/*/cells/*")))
    before = kept(again.root)
    done = again.snakemake("--cores", "2", check=False)
    told = done.stdout + done.stderr
    assert done.returncode != 0
    assert "a study pins its servers to elsewhere (key `node`)" in told and "--profile slurm" in told
    assert kept(again.root) == before
