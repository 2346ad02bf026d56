"""A page of a study that is measured in part says no more than was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from leverlab.report.accuracy import accuracy_section
from leverlab.report.findings import limits
from leverlab.report.knees import knee_table
from leverlab.report.page import incomplete, render_study
from leverlab.report.provenance import machines_phrase, provenance
from leverlab.report.questions import questions
from leverlab.report.sentences import correction_sentence
from leverlab.report.source import StudyData
from leverlab.report.theory_values import theory_values
from tests.unit.report_study import make_study

TEXT = """\
question: What does the batch limit do?
engines: [vllm]
models: [llama-3.1-8b-shape]
gpus: [h200]
workload: shared-system-prompt
load: {rates: [1, 4]}
levers: {max_num_seqs: [64, 16, 4], prefix_caching: [on]}
baseline: {max_num_seqs: 64, prefix_caching: on}
primary: {max_num_seqs: throughput at rate 4}
replicates: 3
accuracy: {task: gsm8k, limit: 200}
questions:
  - {ask: "Which is best?", answers: [{kind: levels, lever: max_num_seqs, metrics: [throughput at rate 4]}]}
  - {ask: "How does it go with the load?", answers: [{kind: load, metrics: [throughput]}]}
  - {ask: "What does a token take?", answers: [{kind: theory, quantities: [kv_bytes_per_token]}]}
  - {ask: "Where does it stop?", answers: [{kind: saturation}]}
"""
UNMEASURED = "max_num_seqs=16"


@pytest.fixture
def data(tmp_path: Path) -> StudyData:
    return make_study(tmp_path, "partial", text=TEXT, records=False).read()


@pytest.fixture
def partial(data: StudyData) -> StudyData:
    """Without one of the treatments, and without a replicate of another cell."""
    gone = (data.cells["treatment"] == UNMEASURED) | (
        (data.cells["treatment"] == "baseline") & (data.cells["load"] == "rate 4") & (data.cells["replicate"] == "r3")
    )
    nothing = {"baseline": None, "value": None, "estimate": None, "low": None, "high": None, "verdict": "not judgeable"}
    effects = [replace(e, **nothing) if e.treatment == UNMEASURED else e for e in data.effects]
    return replace(
        data, cells=data.cells.assign(status=data.cells["status"].mask(gone, "missing")), effects=tuple(effects)
    )


def answers(data: StudyData) -> list[tuple[str, ...]]:
    return [answer.sentences for answer in questions(data, theory_values(data))]


def test_a_treatment_whose_load_cannot_tell_is_said_not_to_be_judged(data: StudyData) -> None:
    """Its requests wait for one another: neither the table of the knees nor the question is silent about it."""
    of_it = data.cells["treatment"] == UNMEASURED
    codes = data.cells["check_codes"].mask(of_it, "saturation_not_judged,drift")
    others = tuple(row for row in data.saturation if row["treatment"] != UNMEASURED)
    told = replace(data, cells=data.cells.assign(check_codes=codes), saturation=others)
    for study, said in ((told, True), (data, False)):
        table = knee_table(study)
        assert table is not None
        where = {row.cells[0].text: row.cells[1].text for group in table.groups for row in group.rows}
        assert (where[data.label(UNMEASURED)] == "not judged: requests wait for one another") is said
        assert sum("not judged" in text for text in where.values()) == said
        sentences = [text for text in answers(study)[3] if text.startswith("Not answered for")]
        assert [data.label(UNMEASURED) in text for text in sentences] == [True] * said


def test_each_level_that_is_not_resolved_has_its_own_reason(data: StudyData) -> None:
    reasons = {"max_num_seqs=16": "one pair of replicates", "max_num_seqs=4": "treatment r1: infeasible"}
    unresolved = tuple(
        replace(e, verdict="not judgeable", reason=reasons[e.treatment]) if e.treatment in reasons else e
        for e in data.effects
    )
    (said,) = answers(replace(data, effects=unresolved))[0]
    assert said.endswith(
        "Whether it differs from 64 at 16 is not resolved. One pair of replicates. "
        "Whether it differs from 64 at 4 is not resolved. Treatment r1: infeasible."
    )
    alike = tuple(replace(e, reason="one pair of replicates") for e in unresolved)
    (said,) = answers(replace(data, effects=alike))[0]
    assert said.endswith("Whether it differs from 64 at 16 and 4 is not resolved. One pair of replicates.")


def test_what_was_left_out_at_each_level_is_said_with_its_own_reason(data: StudyData) -> None:
    """Levels with a verdict, a difference or none, were told without what it had to do without."""
    reasons = {
        "max_num_seqs=16": "left out: treatment r1: failed",
        "max_num_seqs=4": "left out: treatment r3: infeasible",
    }
    worse = tuple(replace(e, verdict="worsens") if e.treatment == "max_num_seqs=4" else e for e in data.effects)
    fewer = tuple(replace(e, reason=reasons.get(e.treatment, e.reason)) for e in worse)
    (said,) = answers(replace(data, effects=fewer))[0]
    assert said.endswith("Left out at 16: treatment r1: failed. Left out at 4: treatment r3: infeasible.")
    alike = tuple(replace(e, reason=f"the same; {reasons['max_num_seqs=16']}") for e in fewer)
    (said,) = answers(replace(data, effects=alike))[0]
    assert said.endswith(" Left out at 16 and 4: treatment r1: failed."), "and once where it is the same"


def test_means_over_pairs_are_told_from_medians_of_a_levels_own_cells(data: StudyData) -> None:
    nothing = {"baseline": None, "value": None, "estimate": None, "low": None, "high": None, "verdict": "not judgeable"}
    without = tuple(replace(e, **nothing) if e.treatment == "max_num_seqs=4" else e for e in data.effects)
    (said,) = answers(replace(data, effects=without))[0]
    assert " at 4 (at 4 the median of its own cells, otherwise means over pairs of replicates). " in said
    none = tuple(replace(e, **nothing) for e in data.effects)
    for effects, kind in ((data.effects, " (means of 3 replicates)"), (none, "")):
        (said,) = answers(replace(data, effects=effects))[0]
        assert f" at 4{kind}. " in said and "median of its own" not in said, "where all are of one kind"


def test_the_baseline_is_told_where_the_first_level_was_not_measured(data: StudyData, partial: StudyData) -> None:
    whole, less = answers(data)[0][0], answers(partial)[0][0]
    assert " at 64, " in whole and " at 16 and " in whole
    assert " at 64 and " in less and "At 16 no valid cell tells it." in less


def test_replicates_are_those_of_the_load_points(data: StudyData, partial: StudyData) -> None:
    assert all("(medians of 3 replicates)" in sentence for sentence in answers(data)[1])
    baseline, other = answers(partial)[1]
    assert "(medians of 2 to 3 replicates)" in baseline and "(medians of 3 replicates)" in other


def test_theory_does_not_speak_for_a_treatment_that_was_not_measured(data: StudyData, partial: StudyData) -> None:
    assert answers(data)[2][0].startswith("Every treatment, at every load point: ")
    assert answers(partial)[2][0].startswith("Every treatment that was measured, at every load point: ")


def test_nothing_is_said_of_how_it_was_asked_where_nothing_was_asked(data: StudyData) -> None:
    section = accuracy_section(data)
    assert section is not None and section.note == "" and section.remark.startswith("Nothing was asked")
    assert "Each server was started once more" not in render_study(data)


def test_no_interval_is_spoken_of_where_there_is_none(data: StudyData) -> None:
    nothing = [replace(effect, low=None, high=None) for effect in data.effects]
    assert correction_sentence(data.effects, data.telling).startswith("Each interval above")
    assert correction_sentence(nothing, data.telling) == ""


def test_replicates_that_disagree_about_the_knee_are_not_said_to_have_kept_up(data: StudyData) -> None:
    """Of three one kept up with 4 requests/s: 1, up to which all did, is not the highest that was offered."""
    mixed = tuple({**row, "place": "mixed", "low": 1.0, "high": None, "capacity": None} for row in data.saturation)
    sentences = answers(replace(data, saturation=mixed))[3]
    assert sentences and all(
        "keeps up until above 1 request/s, and some replicates kept up with all that was offered" in text
        for text in sentences
    )


def test_where_no_cell_has_numbers_nothing_is_said_to_rest_on_the_others(data: StudyData) -> None:
    assert incomplete(data) == ""
    some = data.cells["status"].mask(data.cells.index < 2, "missing")
    assert incomplete(replace(data, cells=data.cells.assign(status=some))).startswith("2 of ")
    assert incomplete(replace(data, cells=data.cells.assign(status="missing"))).startswith("No cell has numbers yet.")


def test_what_only_later_cells_recorded_is_not_the_same_in_every_cell(data: StudyData) -> None:
    """A package of the second engine was told as one of all, since the first one's cells came before anybody asked for it."""
    last = data.cells["treatment"] == data.cells["treatment"].iloc[-1]
    assert not last.iloc[0]
    told = data.cells["provenance"].map(lambda text: json.dumps({**json.loads(text), "versions": {"sglang": "1.2"}}))
    found = provenance(replace(data, cells=data.cells.assign(provenance=data.cells["provenance"].mask(last, told))))
    assert not any("sglang" in text for _, text in found.facts)
    assert found.differences is not None
    rows = [[cell.text for cell in row.cells] for group in found.differences.groups for row in group.rows]
    assert {row[1] for row in rows if row[0] == "versions sglang"} == {"1.2", "unknown"}


def test_no_interval_is_said_to_cover_anything_where_there_is_none(data: StudyData) -> None:
    assert any(sentence.startswith("The intervals cover") for sentence in limits(data))
    nothing = {"low": None, "high": None, "level": None, "verdict": "not judgeable", "pairs": 0}
    said = limits(replace(data, effects=tuple(replace(effect, **nothing) for effect in data.effects)))
    assert said and not any("intervals" in sentence or "0 replicates" in sentence for sentence in said)


def placed_on(data: StudyData, places: list[tuple[str, str, list[str]]]) -> dict[str, str]:
    """The facts of the provenance where the cells ran, in turn, on `places`: name, boot, GPUs; the boot empty where none is recorded."""

    def told(place: tuple[str, str, list[str]]) -> str:
        hostname, boot, cards = place
        gpus = {str(index): {"uuid": f"GPU-{card}-4444-55", "name": "H100"} for index, card in enumerate(cards)}
        return json.dumps({"node": {"hostname": hostname} | ({"boot_id": boot} if boot else {}), "gpu": gpus})

    measured = data.cells["provenance"].notna()
    texts = [told(places[number % len(places)]) for number in range(len(data.cells))]
    return dict(provenance(replace(data, cells=data.cells.assign(provenance=texts)[measured])).facts)


def test_machines_of_one_name_and_their_gpus_are_listed_with_their_cells(data: StudyData) -> None:
    cells = int(data.cells["provenance"].notna().sum())
    first, second = "11111111-aaaa-bbbb", "22222222-aaaa-bbbb"
    half = (cells + 1) // 2
    here, there = ("vm", first, ["aaaaaaaa"]), ("vm", second, ["bbbbbbbb", "cccccccc"])
    assert placed_on(data, [here, there])["Ran on"] == (
        f"vm (boot 11111111): GPU aaaaaaaa in {half} cells; "
        f"vm (boot 22222222): GPU bbbbbbbb in {cells - half} cells, cccccccc in {cells - half} cells"
    )
    assert (
        placed_on(data, [("vm", "", ["aaaaaaaa"])])["Ran on"]
        == f"vm (boot not recorded): GPU aaaaaaaa in {cells} cells"
    )
    assert placed_on(data, [("vm", first, []), ("vm", "", [])])["Ran on"] == (
        f"vm (boot 11111111) in {half} cells; vm (boot not recorded) in {cells - half} cells"
    )
    assert "Ran on" not in placed_on(data, [("vm", first, [])]), "one machine, which the row above names"


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([("vm", "a"), ("vm", "a")], " on one machine"),
        ([("vm", "a"), ("vm", "b")], " over 2 machines, or starts of one"),
        ([("a", "1"), ("b", "2"), ("b", "2")], " over 2 machines"),
        ([("vm", ""), ("vm", "a")], " on one machine or several of one name"),
        ([("a", ""), ("b", "2")], " over 2 machines or more"),
        ([("", ""), ("b", "2")], ""),
        ([None, ("vm", "a")], " on one machine"),
        ([None], ""),
    ],
)
def test_replicates_are_said_to_have_run_on_as_many_machines_as_they_did(
    places: list[tuple[str, str] | None], said: str
) -> None:
    """A campaign that went on elsewhere was told as replicates `on this machine`."""

    def provenance_of(name: str, boot: str) -> str:
        told = {"hostname": name, "boot_id": boot}
        return json.dumps({"node": {key: value for key, value in told.items() if value}})

    texts = [place and provenance_of(*place) for place in places]
    assert machines_phrase(pd.DataFrame({"provenance": texts})) == said
    assert machines_phrase(pd.DataFrame({"provenance": pd.Series([], dtype=object)})) == ""


def test_of_very_many_gpus_those_with_most_cells_are_named(data: StudyData) -> None:
    told = placed_on(data, [("vm", "", [f"{number:08d}" for number in range(20)])])["Ran on"]
    assert told.count(" in ") == 8 and told.endswith(", and 12 more")
