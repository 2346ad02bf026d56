"""What `make` left behind: the study first-look on the real engine. Run after `make`, as CI does."""

import re
import shutil
from pathlib import Path

import pandas
import pytest
import yaml

from tests.workflow.conftest import REPOSITORY, Checkout, copy_repository

CELLS = REPOSITORY / "results" / "studies" / "first-look" / "cells.parquet"
REQUESTS = REPOSITORY / "results" / "studies" / "first-look" / "requests.parquet"
EFFECTS = REPOSITORY / "results" / "studies" / "first-look" / "effects.parquet"
REPORT = REPOSITORY / "reports" / "first-look.html"


def verdict_sentences(page: str) -> list[str]:
    """The sentences of the verdict section, without markup."""
    section = re.search(r'<section[^>]*id="verdict".*?</section>', page, flags=re.DOTALL)
    assert section, "the report has no verdict section"
    items = re.findall(r'<p[^>]*class="verdict[^"]*"[^>]*>(.*?)</p>', section[0], flags=re.DOTALL)
    return [re.sub(r"<[^>]+>|\s+", " ", item).strip() for item in items]


def test_every_cell_has_an_outcome_and_none_is_invalid() -> None:
    cells = pandas.read_parquet(CELLS)
    assert len(cells) == 3 * 2 * 3
    assert set(cells["status"]) == {"measured"}
    assert "invalid" not in set(cells["checks"]), cells[["treatment", "load", "replicate", "check_codes"]].to_string()


def test_prefix_caching_saves_most_of_the_first_tokens_wait_in_every_replicate() -> None:
    cells = (
        pandas.read_parquet(CELLS)
        .query("load == 'rate 0.5'")
        .pivot(index="replicate", columns="treatment", values="ttft_s_p50")
    )
    assert (cells["prefix_caching=off"] > 2 * cells["baseline"]).all(), cells.to_string()


def test_only_a_server_with_a_prefix_cache_has_hits_and_tokens_are_those_that_were_asked_for() -> None:
    cells = pandas.read_parquet(CELLS)
    cached = cells["treatment"] != "prefix_caching=off"
    assert (cells.loc[cached, "cache_hit_ratio"] > 0.5).all(), cells.to_string()
    assert not (cells.loc[~cached, "cache_hit_ratio"] > 0).any(), cells.to_string()
    requests = pandas.read_parquet(REQUESTS)
    assert (requests["status"] == "ok").all()
    assert requests["prompt_tokens"].nunique() == requests["completion_tokens"].nunique() == 1


def test_the_report_names_the_lever_that_moved_the_first_token_if_the_interval_allows_it() -> None:
    """Three replicates on a busy machine may not allow it; then the page must not claim it."""
    primary = pandas.read_parquet(EFFECTS).query("primary and lever == 'prefix_caching'").iloc[0]
    assert (primary["metric"], primary["statistic"]) == ("ttft_s", "p50")
    sentence = next(said for said in verdict_sentences(REPORT.read_text()) if "Prefix caching" in said)
    if primary["verdict_low"] > 1:
        assert primary["verdict"] == "worsens"
        assert "raises the median time to first token" in sentence
    else:
        assert primary["verdict"] == "no difference found"
        assert "no difference found" in sentence


def test_the_report_is_one_small_file_without_outside_links() -> None:
    page = REPORT.read_text()
    assert len(page.encode()) < 3_000_000
    assert not re.search(r'(?:src|href)\s*=\s*"(?:https?:)?//', page)


@pytest.mark.parametrize(
    ("lever", "fixed", "baseline"),
    [("prefix_caching", {"max_num_seqs": ["64"]}, "off"), ("max_num_seqs", {"prefix_caching": ["on"]}, "4")],
)
def test_swapping_baseline_and_treatment_changes_every_sentence(
    tmp_path: Path, lever: str, fixed: dict[str, list[str]], baseline: str
) -> None:
    """The same cells, read from the other side: no measurement, opposite effects, other sentences."""
    copy = with_results(tmp_path)
    study = yaml.load((REPOSITORY / "config/studies/first-look.yaml").read_text(), Loader=yaml.BaseLoader)
    levels = {"prefix_caching": ["on", "off"], "max_num_seqs": ["64", "4"]} | fixed
    for name, level in (("forward", levels[lever][0]), ("backward", baseline)):
        chosen = {
            **study,
            "levers": levels,
            "baseline": {key: values[0] for key, values in levels.items()} | {lever: level},
        }
        chosen["primary"] = {lever: study["primary"][lever]}
        copy.write_study(name, yaml.safe_dump(chosen))
    assert copy.planned(study="forward,backward").get("measure", 0) == 0
    copy.snakemake("--cores", "2", study="forward,backward")
    effects = {
        name: pandas.read_parquet(copy.root / f"results/studies/{name}/effects.parquet").query("primary").iloc[0]
        for name in ("forward", "backward")
    }
    assert effects["forward"]["estimate"] == pytest.approx(1 / effects["backward"]["estimate"])
    sentences = {name: verdict_sentences((copy.root / f"reports/{name}.html").read_text()) for name in effects}
    assert sentences["forward"] and sentences["backward"]
    assert not set(sentences["forward"]) & set(sentences["backward"])


def with_results(tmp_path: Path) -> Checkout:
    copy = copy_repository(tmp_path / "leverlab")
    shutil.copytree(
        REPOSITORY / "results",
        copy.root / "results",
        dirs_exist_ok=True,
        copy_function=shutil.copy,
        ignore=shutil.ignore_patterns("profiles"),
    )
    (copy.root / ".envs").symlink_to(REPOSITORY / ".envs")
    return copy
