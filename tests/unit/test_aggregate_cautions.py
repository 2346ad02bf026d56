"""Sides that were measured on other machines or GPUs: told where the spread of the replicates cannot show it, and nowhere else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leverlab.aggregate.cautions import card_cautions, provenance_cautions
from leverlab.aggregate.effects import effect_rows
from leverlab.aggregate.pairing import Weighed
from leverlab.aggregate.tables import write_study
from tests.unit.measured_cells import measure_study
from tests.unit.repository import Repository

ONE, TWO, THREE, FOUR = (f"GPU-{digit * 8}-{digit * 4}" for digit in "1234")

Cards = Sequence[str]


def ran_on(*cards: str, hostname: str = "vm", boot: str | None = "first") -> str:
    """The provenance of a cell that ran on `cards`; on a CPU without any."""
    node = {"hostname": hostname} | ({"boot_id": boot} if boot else {})
    gpus = {str(index): {"name": "H100", "uuid": card} for index, card in enumerate(cards)}
    return json.dumps({"node": node, "gpu": {"driver": "1", **gpus} if gpus else {}})


def side(*provenances: str | None) -> list[Weighed]:
    """One cell a replicate; no cell where there is no provenance."""
    rows = {f"r{number}": {"provenance": told, "specification": "{}"} for number, told in enumerate(provenances, 1)}
    return [Weighed({name: row for name, row in rows.items() if row["provenance"]})]


def said(baseline: Sequence[Weighed], treatment: Sequence[Weighed], replicates: int = 3) -> list[str]:
    names = [f"r{number}" for number in range(1, replicates + 1)]
    return [
        f"{caution.code}: {caution.message}"
        for ask in (provenance_cautions, card_cautions)
        for caution in ask([baseline, treatment], names)
    ]


def on_cards(*replicates: Cards) -> list[Weighed]:
    return side(*(ran_on(*cards) for cards in replicates))


def test_two_machines_of_one_name_are_told_apart_by_their_boots() -> None:
    """Two virtual machines called `vm` were taken for one, since names, kernels, drivers and kinds of GPU agreed."""
    here, there = ran_on(boot="first"), ran_on(boot="second")
    (message,) = said(side(here, here, here), side(here, there, there))
    assert message == (
        "provenance_differs: the two sides were not measured under the same conditions: another machine of the same name, or one "
        "that was started anew in between (r2, r3)"
    )
    assert said(side(here, there, there), side(here, there, there)) == [], "each pair lies within one boot"


def test_a_machine_of_another_name_is_told_once() -> None:
    (message,) = said(side(ran_on(hostname="a", boot="first")), side(ran_on(hostname="b", boot="second")), 1)
    assert message.endswith("conditions: node.hostname (r1)")


@pytest.mark.parametrize("boot", [None, "unknown"])
def test_cells_that_do_not_tell_their_boot_are_compared_with_none_by_it(boot: str | None) -> None:
    assert said(side(ran_on(boot=boot), ran_on(boot=boot)), side(ran_on(), ran_on(boot="second")), 2) == []


def test_cards_that_the_sides_never_share_are_named_where_a_side_stays_on_one() -> None:
    (message,) = said(on_cards([ONE], [TWO], [ONE]), on_cards([THREE], [THREE], [THREE]))
    assert message == (
        "cards_confounded: in no replicate did the two sides share a GPU, and the treatment ran on the same in all of them "
        "(baseline 11111111, 22222222; treatment 33333333): a difference between these GPUs, or the machines that they are in, "
        "would look like the lever's effect, or hide it; measure one side of a replicate again on a GPU of the other side"
    )
    assert "the baseline ran on the same" in said(on_cards([ONE], [ONE]), on_cards([TWO], [THREE]), 2)[0]
    assert "each side ran on the same" in said(on_cards([ONE], [ONE]), on_cards([TWO], [TWO]), 2)[0]


@pytest.mark.parametrize(
    ("baseline", "treatment"),
    [
        ([[ONE], [TWO], [ONE]], [[TWO], [ONE], [TWO]]),
        ([[ONE], [TWO], [ONE]], [[THREE], [FOUR], [THREE]]),
        ([[ONE], [ONE], [ONE]], [[TWO], [ONE], [TWO]]),
        ([[ONE], [ONE], [ONE]], [[ONE, TWO], [ONE, TWO], [ONE, TWO]]),
        ([[ONE]], [[TWO]]),
        ([[], [], []], [[], [], []]),
        ([["unknown"], ["unknown"]], [[ONE], [ONE]]),
    ],
    ids=["exchanged", "both spread", "one pair shares", "two GPUs hold the one", "one pair", "no GPU", "not known"],
)
def test_what_the_spread_of_the_replicates_covers_is_no_caution(baseline: list[Cards], treatment: list[Cards]) -> None:
    assert said(on_cards(*baseline), on_cards(*treatment)) == []


def on_cards_of(boots: Sequence[str | None], *replicates: Cards) -> list[Weighed]:
    return side(*(ran_on(*cards, boot=boot) for cards, boot in zip(replicates, boots, strict=True)))


def test_sides_without_a_common_card_may_be_in_two_machines_where_no_boot_tells() -> None:
    """The spread over several cards holds what these differ by, and not what two machines of one name do."""
    (message,) = said(
        on_cards_of([None] * 3, [ONE], [TWO], [ONE]), on_cards_of([None, None, "unknown"], [THREE], [FOUR], [THREE])
    )
    assert message == (
        "cards_confounded: no GPU served both sides in any of the replicates (baseline 11111111, 22222222; treatment 33333333, "
        "44444444), and the cells do not tell the boots of their machines: where the sides ran in two machines of one name, their "
        "difference would look like the lever's effect, or hide it; measure one side of a replicate again on a GPU of the other side"
    )


@pytest.mark.parametrize(
    ("boots", "others", "cards", "codes"),
    [
        ([None, "a"], [None, "a"], [[THREE], [FOUR]], []),
        ([None, "a"], [None, "b"], [[THREE], [FOUR]], ["provenance_differs", "cards_confounded"]),
        (["a", "a"], ["b", "b"], [[THREE], [FOUR]], ["provenance_differs"]),
        ([None, None], [None, None], [[TWO], [ONE]], []),
        ([None, None], [None, None], [[TWO], [THREE]], []),
    ],
    ids=["one pair in one machine", "one pair in two", "told already", "exchanged", "a card of both sides"],
)
def test_a_boot_that_is_not_told_matters_where_nothing_else_places_the_sides(
    boots: list[str | None], others: list[str | None], cards: list[Cards], codes: list[str]
) -> None:
    """A GPU that served both sides was in one machine with them; so were two sides of one boot."""
    found = said(on_cards_of(boots, [ONE], [TWO]), on_cards_of(others, *cards), 2)
    assert [message.partition(":")[0] for message in found] == codes


def test_servers_of_several_gpus_are_known_by_the_set_of_them() -> None:
    assert len(said(on_cards([ONE, TWO], [TWO, ONE]), on_cards([THREE], [FOUR]), 2)) == 1
    assert said(on_cards([ONE, TWO], [ONE, FOUR]), on_cards([THREE], [TWO]), 2) == []


def test_a_main_effect_shares_a_card_where_any_of_its_cells_do() -> None:
    """Each side of a main effect is several treatments."""
    ones, twos, threes = (on_cards([card], [card]) for card in (ONE, TWO, THREE))
    assert said([*ones, *twos], [*threes, *twos], 2) == []
    assert len(said([*ones, *twos], threes, 2)) == 1


def test_only_pairs_that_count_are_looked_at(tmp_path: Path) -> None:
    """An invalid replicate in which the sides shared a GPU takes no caution from an effect that it is no part of."""
    repository = Repository.at(tmp_path)
    repository.change("replicates: 2", "replicates: 3")
    study = repository.study()
    measure_study(repository.layout, study, lambda entry, replicate: 0.1 * replicate.number)
    write_study(study, repository.layout)
    cells = pq.read_table(repository.layout.study("small") / "cells.parquet").to_pylist()

    def codes(checks: str) -> set[str]:
        def changed(row: dict[str, Any]) -> dict[str, Any]:
            off = row["treatment"] == "prefix_caching=off"
            shared = off and row["replicate"] == "r3"
            card = ONE if shared or not off else TWO
            return {**row, "provenance": ran_on(card), "checks": checks if shared else "ok", "check_codes": "drift"}

        rows = effect_rows(study, [changed(row) for row in cells])
        (row,) = [
            row
            for row in rows
            if (row["treatment"], row["load"], row["metric"], row["statistic"])
            == ("prefix_caching=off", "rate 8", "ttft_s", "p50")
        ]
        assert row["pairs"] == (2 if checks == "invalid" else 3)
        return {caution["code"] for caution in json.loads(row["cautions"])}

    assert "cards_confounded" not in codes("ok")
    assert "cards_confounded" in codes("invalid")
