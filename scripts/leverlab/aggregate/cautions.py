"""What a reader has to know before believing an effect: disturbed replicates, sides that were measured elsewhere, other answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from leverlab.aggregate.comparisons import Comparison
from leverlab.aggregate.conditions import differing_conditions, in_one_machine, known_cards, named_conditions
from leverlab.aggregate.pairing import Weighed
from leverlab.records import short_name
from leverlab.stats.noise_floor import disagree
from leverlab.stats.verdict import Verdict

_SIDES: Final = ("baseline", "treatment")


@dataclass(frozen=True, slots=True)
class Caution:
    """A mark on an effect. `code` is stable, for programs."""

    code: str
    message: str


def noise_cautions(
    comparison: Comparison, verdict: Verdict, floor: float | None, copies: Comparison | None, copies_differ: bool
) -> Iterator[Caution]:
    """What the baseline's copy says of an effect: `copies` is the noise floor's comparison of the same metric and load.

    `floor` is `leverlab.stats.noise_floor.noise_floor` for the effect's pairs; `copies_differ`: the copy's own verdict.
    """
    if copies is None:
        return
    if copies_differ:
        yield Caution(
            "baseline_differs_from_itself",
            "the baseline differs from its own copy in this metric: something besides the levers moved it",
        )
    estimate = comparison.change.estimate
    if floor is not None and estimate is not None and verdict in ("improves", "worsens"):
        by_ratio = comparison.change.comparison == "ratio"
        inside = 1 / floor < estimate < floor if by_ratio else abs(estimate) < floor
        if inside:
            yield Caution(
                "within_noise_floor",
                "the change is no larger than what the baseline differs by from its own copy",
            )
    if disagree(comparison.change.changes, copies.change.changes):
        yield Caution(
            "replicates_disagree",
            "the replicates scatter more than the baseline and its copy do: the effect is not the same in each of them",
        )


def provenance_cautions(sides: Sequence[Sequence[Weighed]], replicates: Sequence[str]) -> Iterator[Caution]:
    """Names what differs between the two sides of a pair: another node, driver, version or commit.

    `replicates` are those that the effect rests on.
    """
    differing: dict[str, list[str]] = {}
    for replicate in replicates:
        cells = [[part.place[replicate] for part in side if replicate in part.place] for side in sides]
        for key in differing_conditions(*cells):
            differing.setdefault(key, []).append(replicate)
    if differing:
        told = named_conditions({key: f" ({', '.join(found)})" for key, found in differing.items()})
        yield Caution("provenance_differs", f"the two sides were not measured under the same conditions: {told}")


def card_cautions(sides: Sequence[Sequence[Weighed]], replicates: Sequence[str]) -> Iterator[Caution]:
    """Says that the sides of all pairs ran on GPUs of their own, where the spread of the pairs need not hold what that makes.

    At least one of them ran on the same ones in every pair: each pair then holds the same difference between GPUs, or between the machines that
    they are in. Where both sides were spread over several, the difference between GPUs is another one in each pair, and part of their spread; that
    between machines is not, where each side had one to itself. A GPU that served both sides, or a pair in one boot, tells that it had not; boots that
    differ are told by `provenance_cautions`. One pair has no interval to mistake. `replicates` are those that the effect rests on.
    """
    pairs = [[_cards_of(side, replicate) for side in sides] for replicate in replicates]
    if len(pairs) < 2 or any(not all(cards) or frozenset.intersection(*cards) for cards in pairs):
        return
    by_side = dict(zip(_SIDES, zip(*pairs, strict=True), strict=True))
    used = {name: frozenset().union(*cards) for name, cards in by_side.items()}
    named = "; ".join(f"{name} {', '.join(sorted(map(short_name, cards)))}" for name, cards in used.items())
    alike = [name for name, cards in by_side.items() if len(set(cards)) == 1]
    if alike:
        whose = f"the {alike[0]}" if len(alike) == 1 else "each side"
        found = (
            f"in no replicate did the two sides share a GPU, and {whose} ran on the same in all of them ({named}): a difference between "
            "these GPUs, or the machines that they are in,"
        )
    elif not frozenset.intersection(*used.values()) and _may_be_apart(sides, replicates):
        found = (
            f"no GPU served both sides in any of the replicates ({named}), and the cells do not tell the boots of their machines: "
            "where the sides ran in two machines of one name, their difference"
        )
    else:
        return
    yield Caution(
        "cards_confounded",
        f"{found} would look like the lever's effect, or hide it; measure one side of a replicate again on a GPU of the other side",
    )


def answer_cautions(changed: Mapping[str, str]) -> Iterator[Caution]:
    """Says of treatments that they answer otherwise than the baseline: `changed` is treatment → what `changed_answers` saw of it."""
    for treatment, seen in changed.items():
        yield Caution(
            "answers_changed",
            f"the answers changed, which no lever of {treatment} says that it does: {seen}; find out why before believing any of its times "
            "(memory that holds something else answers as fast as the right one; kernels that round otherwise change the first tokens of few)",
        )


def _may_be_apart(sides: Sequence[Sequence[Weighed]], replicates: Sequence[str]) -> bool:
    """Whether each side may have had a machine to itself, and not all of that is told by names or boots that differ."""
    placed = [
        in_one_machine([part.place[replicate] for side in sides for part in side if replicate in part.place])
        for replicate in replicates
    ]
    return None in placed and True not in placed


def _cards_of(side: Sequence[Weighed], replicate: str) -> frozenset[str]:
    """UUIDs of the GPUs of a side in a replicate; empty where there are none, or a cell does not tell its own."""
    told = [known_cards(part.place[replicate].get("provenance")) for part in side if replicate in part.place]
    return frozenset().union(*told) if all(told) else frozenset()
