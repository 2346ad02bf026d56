"""Under which conditions something was measured or recorded, and in which of them two sides differ."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from leverlab.aggregate.pairing import CellRow
from leverlab.records import cards_of, flattened_provenance
from leverlab.trial.fingerprint import UNKNOWN

HOSTNAME: Final = "node.hostname"
BOOT: Final = "node.boot_id"

_VERSIONS: Final = "versions.*"

_MATTERS: Final = (
    HOSTNAME,
    BOOT,
    "node.kernel",
    "node.system",
    "node.container",
    "cpu.model",
    "cpu.logical",
    "cpu.governor",
    "memory.total_bytes",
    "gpu.driver",
    "gpu.*.name",
    "gpu.*.power_limit_w",
    "gpu.*.sm_clock_most_hz",
    "gpu.*.mig",
    _VERSIONS,
    "leverlab.version",
    "git.commit",
    "git.dirty",
)
"""Keys of the fingerprint (patterns) whose difference could be what a comparison shows. What changes from minute to minute is
left to the spread of the replicates, and so is which of several equal GPUs it was, as far as that spread holds it: see
`leverlab.aggregate.cautions.card_cautions`. Two single runs have no such spread: see `another_gpu`."""

_IN_WORDS: Final = {BOOT: "another machine of the same name, or one that was started anew in between"}

_NAMED: Final = 3


def differing_conditions(baseline: Sequence[CellRow], treatment: Sequence[CellRow]) -> Iterator[str]:
    """Keys of the fingerprint in which two sides differ. Of a row the columns `provenance` and `specification` are looked at.

    Nothing where a side tells no provenance. What is not known, or told by one side alone, differs from nothing.
    """
    before, after = (
        [conditions_of(row["provenance"]) for row in side if row.get("provenance")] for side in (baseline, treatment)
    )
    if not before or not after:
        return
    engines = {_engine(row["specification"]) for row in (*baseline, *treatment) if row.get("specification")}
    found = {
        key: {conditions[key] for conditions in (*before, *after) if key in conditions} - {UNKNOWN}
        for key in dict.fromkeys(key for conditions in (*before, *after) for key in conditions)
    }
    for key, values in found.items():
        if len(engines) > 1 and fnmatchcase(key, _VERSIONS):
            continue  # engines are what is compared
        if key == BOOT and len(found.get(HOSTNAME, ())) > 1:
            continue  # the names tell the machines apart already
        if len(values) > 1:
            yield key


def named_conditions(differing: Mapping[str, str]) -> str:
    """Conditions for a sentence, those past the first few as a number; `differing`: key → what stands behind it."""
    told = [f"{_IN_WORDS.get(key, key)}{behind}" for key, behind in differing.items()]
    more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return f"{', '.join(told[:_NAMED])}{more}"


@functools.lru_cache(4096)
def conditions_of(provenance: str) -> Mapping[str, str]:
    """Key → value of what matters of a fingerprint, which is given as JSON."""
    flat = flattened_provenance(json.loads(provenance))
    return {key: value for key, value in flat.items() if any(fnmatchcase(key, pattern) for pattern in _MATTERS)}


@functools.lru_cache(4096)
def known_cards(provenance: str | None) -> frozenset[str]:
    """The UUIDs of a fingerprint's own GPUs; empty where there are none, or one is not known."""
    found = cards_of(flattened_provenance(json.loads(provenance))) if provenance else []
    return frozenset() if UNKNOWN in found else frozenset(found)


def in_one_machine(rows: Sequence[CellRow]) -> bool | None:
    """Whether rows that tell their provenance are of one machine; None where names agree, and not every row tells the boot."""
    told = [conditions_of(row["provenance"]) for row in rows]
    names, boots = ({conditions.get(key, UNKNOWN) for conditions in told} for key in (HOSTNAME, BOOT))
    if len(names - {UNKNOWN}) > 1 or len(boots - {UNKNOWN}) > 1:
        return False
    return None if UNKNOWN in boots else True


def another_gpu(one: CellRow, other: CellRow) -> str:
    """`another GPU of the same host` where two single runs did not have the same; empty where they did, or nothing tells.

    Nor is it told where one had some of the other's GPUs alone (their number is then what is compared), or ran in another machine,
    which `differing_conditions` tells.
    """
    ours, theirs = known_cards(one.get("provenance")), known_cards(other.get("provenance"))
    if ours <= theirs or theirs <= ours:
        return ""
    together = in_one_machine([one, other])
    return "" if together is False else f"another GPU{' of the same host' if together else ''}"


@functools.lru_cache(4096)
def _engine(specification: str) -> str:
    return json.dumps(json.loads(specification).get("server", {}).get("engine"), sort_keys=True)
