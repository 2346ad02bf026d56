"""The capstone's page: levers ranked over all studies, what that recommends, and whether effects stack."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.effects import effect_rows
from leverlab.aggregate.schema import effects_schema, table_of
from leverlab.matrix.expand import expand
from leverlab.report.doubts import doubts_in
from leverlab.report.in_short import headline
from leverlab.report.page import render_study
from leverlab.report.questions import questions
from leverlab.report.ranking import (
    Ranked,
    Ranking,
    ranking,
    ranking_note,
    ranking_sentences,
    ranking_tables,
    recommendations,
)
from leverlab.report.sentences import sure_phrase
from leverlab.report.stacking import stacking_sentences
from leverlab.report.theory_values import theory_values
from tests.unit.report_studies import CROSSED, RANKING, SIMULATED, TROUBLED
from tests.unit.report_study import ReportStudy, make_study

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def capstone(tmp_path_factory: pytest.TempPathFactory) -> ReportStudy:
    root = tmp_path_factory.mktemp("capstone")
    for name in (CROSSED, SIMULATED, TROUBLED):
        make_study(root, name, records=False)
    return make_study(root, RANKING, records=False)


@pytest.fixture(scope="module")
def found(capstone: ReportStudy) -> Ranking:
    return ranking(capstone.read())


def remade(root: Path, change: Change, baseline: dict[str, str] | None = None) -> ReportStudy:
    """The ranking study alone, with every row of its cells changed and its effects computed from them."""
    study = make_study(root, RANKING, records=False, baseline=baseline)
    folder = study.layout.study(RANKING)
    table = pq.read_table(folder / "cells.parquet")
    rows = [change(row) for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "cells.parquet")
    (matrix,) = expand(study.configuration, [RANKING]).studies
    pq.write_table(table_of(effect_rows(matrix, rows), effects_schema()), folder / "effects.parquet")
    return study


def declared(times: dict[tuple[str, str], float]) -> Change:
    """Rows whose median TTFT is that of (prefix_caching, max_num_seqs), a little more or less in each replicate."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["replicate"].removeprefix("r"))
        time_s = times[row["lever:prefix_caching"], row["lever:max_num_seqs"]] * (1 + 0.002 * (number - 2))
        return {**row, "ttft_s_p50": time_s * (1.0005 if row["treatment"] == "baseline" else 1 + 0.0003 * number)}

    return change


def stacking(study: ReportStudy) -> str:
    data = study.read()
    (answer,) = data.study.questions[0].answers
    return next(iter(stacking_sentences(answer, data)))  # type: ignore[arg-type]


def test_every_real_study_is_read_and_no_simulated_one(found: Ranking) -> None:
    assert set(found.studies) == {CROSSED, RANKING, TROUBLED} and found.simulated == (SIMULATED,)
    assert {one.study for one in found.ranked} == set(found.studies)
    assert f"Left out as simulated: {SIMULATED}." in ranking_note(found)


def test_only_single_levers_with_a_verdict_are_ranked(found: Ranking) -> None:
    for one in found.ranked:
        assert len(one.effect.changed) == 1 and one.effect.verdict in ("improves", "worsens", "no difference found")
        assert len(one.cells) == 2


def test_the_order_is_that_of_the_sure_part(found: Ranking) -> None:
    (ttft, *_) = ranking_tables(found)
    assert ttft.caption == "Levers by TTFT, median"
    shown = [row.cells[0].text for row in ttft.groups[0].rows]
    assert shown[0].startswith("Prefix caching")
    ttfts = [one for one in found.ranked if one.effect.metric == "ttft_s" and one.effect.decided]
    for one in ttfts:
        assert one.effect.low and one.effect.high
        nearest = min(abs(math.log(one.effect.low)), abs(math.log(one.effect.high)))
        assert abs(one.gain) == pytest.approx(nearest)
        assert (one.gain > 0) == (one.effect.verdict == "improves")


def test_what_is_sure_is_the_end_of_the_interval_that_is_nearest_to_no_change(found: Ranking) -> None:
    one = next(one.effect for one in found.ranked if one.effect.decided and one.effect.by_ratio)
    for estimate, low, high, said in ((2.0, 1.5, 2.5, "at least ×1.50"), (0.5, 0.25, 0.75, "at most ×0.75")):
        assert sure_phrase(dataclasses.replace(one, estimate=estimate, low=low, high=high)) == said
    assert sure_phrase(dataclasses.replace(one, low=None, high=None)) == "all of it"
    assert sure_phrase(dataclasses.replace(one, verdict="no difference found")) == "nothing"
    share = dataclasses.replace(one, metric="cache_hit_ratio", statistic=None, estimate=-0.5, low=-0.6, high=-0.4)
    assert sure_phrase(share) == "at most −40 points"


def test_the_better_level_is_advised_whichever_is_the_baseline(tmp_path: Path) -> None:
    times = {("on", "64"): 0.1, ("off", "64"): 0.3, ("on", "4"): 0.1, ("off", "4"): 0.3}
    for number, baseline in enumerate(({}, {"prefix_caching": "off"})):
        study = remade(tmp_path / str(number), declared(times), baseline)
        (advice,) = recommendations(ranking(study.read()))
        assert advice.title == "llama-3.1-8b on h200 with vllm"
        verb = "off worsens" if not baseline else "on improves"
        assert any(
            sentence.startswith(f"Prefix caching on, not off: {verb} the median time") for sentence in advice.sentences
        )
        cells = study.read().cells
        assert advice.cells and set(advice.cells) <= set(cells["cell"])


def test_advice_and_headline_that_rest_on_a_marked_effect_say_so(tmp_path: Path) -> None:
    """Of sides on GPUs of their own the findings told, and what stood above them and in other studies did not."""
    measured = declared({("on", "64"): 0.1, ("off", "64"): 0.3, ("on", "4"): 0.1, ("off", "4"): 0.3})

    def elsewhere(row: dict[str, Any]) -> dict[str, Any]:
        card = "GPU-1111" if row["treatment"] == "baseline" else "GPU-2222"
        provenance = {"node": {"hostname": "vm", "boot_id": "a"}, "gpu": {"0": {"name": "H200", "uuid": card}}}
        drifted = (row["treatment"], row["replicate"]) == ("prefix_caching=off", "r1")
        checks = {"checks": "caution", "check_codes": "drift"} if drifted else {"checks": "ok", "check_codes": ""}
        return {**measured(row), "provenance": json.dumps(provenance), **checks}

    data = remade(tmp_path, elsewhere).read()
    mark = " (marked: its sides shared no GPU; 1 of its 6 cells carries a caution: drift)."
    assert headline(data.effects, data.telling, doubts_in(data)).endswith(mark)
    found = ranking(data)
    (advice,) = recommendations(found)
    (caching,) = [sentence for sentence in advice.sentences if sentence.startswith("Prefix caching")]
    assert caching.endswith(mark)
    alike = [
        dataclasses.replace(one, effect=dataclasses.replace(one.effect, verdict="no difference found"))
        for one in found.ranked
    ]
    (undecided,) = recommendations(dataclasses.replace(found, ranked=tuple(alike)))
    assert "Prefix caching (no difference found, marked)" in undecided.sentences[-1]
    (ttft, *_) = ranking_tables(found)
    shown = ttft.groups[0].rows[0].cells[-1]
    assert shown.text == "primary, marked"
    assert "In no replicate did the two sides share a GPU" in shown.note and "1 of the 6 valid cells" in shown.note


def test_nothing_is_advised_where_nothing_was_resolved(tmp_path: Path) -> None:
    def alike(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["replicate"].removeprefix("r"))
        noise = 1 if row["treatment"] == "baseline" else 1 + 0.01 * (-1) ** number
        return {**row, "ttft_s_p50": 0.1 * noise, "throughput": 1000 * noise}

    (advice,) = recommendations(ranking(remade(tmp_path, alike).read()))
    assert advice.sentences[0] == "No recommendation: 2 verdicts and nothing resolved." and not advice.cells
    assert "Prefix caching (no difference found)" in advice.sentences[1]


def test_an_invalid_study_is_neither_ranked_nor_advised(tmp_path: Path) -> None:
    study = remade(tmp_path, lambda row: {**row, "checks": "invalid"})
    found = ranking(study.read())
    assert not found.ranked and found.unresolved == 2 and not recommendations(found)
    page = render_study(study.read())
    assert "No recommendation: no primary comparison of a real engine has a verdict." in page


def test_a_level_that_two_studies_disagree_about_is_not_advised(found: Ranking) -> None:
    worse = next(one for one in found.ranked if one.effect.primary and one.effect.verdict == "worsens")
    better = dataclasses.replace(worse, effect=dataclasses.replace(worse.effect, verdict="improves"))
    (advice,) = recommendations(dataclasses.replace(found, ranked=(worse, better)))
    assert advice.sentences[0].startswith("No recommendation") and "worse in another" in advice.sentences[1]


def test_a_fact_that_does_not_vary_counts_as_it_is(found: Ranking) -> None:
    one = next(one for one in found.ranked if one.effect.primary and one.effect.decided and one.effect.by_ratio)
    fact = dataclasses.replace(one.effect, low=None, high=None, estimate=2.0, verdict="improves")
    assert dataclasses.replace(one, effect=fact).gain == pytest.approx(math.log(2.0))
    unknown = dataclasses.replace(fact, verdict="not judgeable")
    assert dataclasses.replace(one, effect=unknown).gain == 0


def test_advice_for_few_gpus_rests_on_servers_of_few(found: Ranking) -> None:
    one = next(one for one in found.ranked if one.effect.primary and one.effect.decided)
    larger = dataclasses.replace(one, gpus=4, titles={**one.titles, one.lever: "Larger"})
    small, large = recommendations(dataclasses.replace(found, ranked=(dataclasses.replace(one, gpus=1), larger)))
    assert "4 ×" in large.title and "4 ×" not in small.title


def test_what_is_asked_is_no_lever_to_recommend(tmp_path: Path) -> None:
    study = remade(tmp_path, declared({(a, b): 0.1 for a in ("on", "off") for b in ("64", "4")}))
    levers = study.root / "config" / "levers.yaml"
    text = levers.read_text()
    levers.write_text(text.replace("vllm: {flags: {enable-prefix-caching: false}}", "vllm: {client: vllm-bench}"))
    found = ranking(ReportStudy(study.root, RANKING).read())
    assert {one.lever for one in found.ranked} == {"max_num_seqs"}


def test_the_largest_levers_are_named_once_each_by_what_is_sure(found: Ranking) -> None:
    one = next(one for one in found.ranked if one.effect.primary and one.effect.decided and one.effect.by_ratio)

    def of(lever: str, low: float, verdict: str = "worsens", high: float = 9.0) -> Ranked:
        effect = dataclasses.replace(
            one.effect, changed={lever: ("a", "b")}, estimate=5.0, low=low, high=high, verdict=verdict, primary=True
        )
        return dataclasses.replace(one, effect=effect, titles={lever: lever.upper()})

    own = (of("two", 2.0), of("four", 4.0), of("two", 3.0), of("none", 1.1, "no difference found"), of("one", 1.5))
    first, second, limits = ranking_sentences(dataclasses.replace(found, ranked=own), 2)
    assert first.startswith("1. FOUR a instead of b worsens") and "for sure at least ×4.00" in first
    assert second.startswith("2. TWO a instead of b worsens") and "for sure at least ×3.00" in second
    assert limits.startswith("Of 3 levers of which an effect was found")
    exploratory = dataclasses.replace(own[0], effect=dataclasses.replace(own[0].effect, primary=False))
    for nothing in ((), (own[3],), (exploratory,)):
        (said,) = ranking_sentences(dataclasses.replace(found, ranked=nothing), 2)
        assert said.startswith("Not answered: ")


def test_effects_that_multiply_are_told_so_and_that_their_times_do_not_add(tmp_path: Path) -> None:
    said = stacking(
        remade(tmp_path, declared({("on", "64"): 0.8, ("off", "64"): 0.4, ("on", "4"): 0.2, ("off", "4"): 0.1}))
    )
    assert "by a factor of 0.5 with Prefix caching off" in said and "by a factor of 0.125 with both" in said
    assert "no departure was found" in said and "they do not add up" in said
    assert "together they change +300 ms beside the sum of both" in said


def test_effects_that_add_are_told_so_and_that_they_do_not_multiply(tmp_path: Path) -> None:
    said = stacking(
        remade(tmp_path, declared({("on", "64"): 0.8, ("off", "64"): 0.5, ("on", "4"): 0.6, ("off", "4"): 0.3}))
    )
    assert (
        "They do not multiply: beside that, together they do ×0.8" in said
        and "better than each alone lets expect" in said
    )
    assert "no departure from adding up was found" in said


def test_one_combination_without_cells_leaves_it_open(tmp_path: Path) -> None:
    def missing(row: dict[str, Any]) -> dict[str, Any]:
        lost = row["lever:prefix_caching"] == "off" and row["lever:max_num_seqs"] == "4"
        return {**row, "checks": "invalid"} if lost else row

    assert "whether their effects on the median time to first token at 4 requests/s stack is not known" in stacking(
        remade(tmp_path, missing)
    )


def test_the_page_holds_ranking_advice_and_cells(capstone: ReportStudy) -> None:
    page = render_study(capstone.read())
    assert '<section id="ranking"' in page and "Levers by TTFT, median" in page
    assert "Prefix caching on, not off" in page
    assert json.dumps(page).count("cells that this rests on") == len(
        [a for a in recommendations(ranking(capstone.read())) if a.cells]
    )
    other = render_study(ReportStudy(capstone.root, CROSSED).read())
    assert '<section id="ranking"' not in other
    data = capstone.read()
    assert questions(data, theory_values(data))[0].measured
