"""Whether engines that are compared were asked the same: prompts, instants and numbers of tokens, request by request."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd
import pyarrow.parquet as pq

from leverlab.checks.base import requests_wait
from leverlab.load_point import parse_load_point
from leverlab.matrix.treatments import Treatment
from leverlab.report.phrases import joined, load_phrase
from leverlab.report.source import StudyData, rows_of

_LEVER: Final = "engine"
_COLUMNS: Final = ("cell", "replicate", "index", "status", "prompt_tokens", "completion_tokens", "scheduled_s")
_INSTANT_S: Final = 1e-6
"""Instants that a plan sets alike differ by no more than this in the table, which has them in float seconds."""
_NAMED: Final = 4


def asked_alike_sentences(data: StudyData) -> Iterator[str]:
    """A sentence for each treatment with another engine, beside the one that differs from it in the engine alone.

    The prompts are the same where both cells replayed one workload in one phase and replicate; instants and numbers of tokens are
    compared in requests.parquet. Nothing is said of studies that do not vary the engine, nor where that table is not there.
    """
    path = data.requests
    if len(data.study.levers.get(_LEVER, ())) < 2 or path is None:
        return
    lacking = set(_COLUMNS) - set(pq.read_schema(path).names)
    if lacking:
        return
    requests = pq.read_table(path, columns=list(_COLUMNS)).to_pandas()
    for name, treatment in data.treatments.items():
        other = None if treatment.copy else _counterpart(treatment, data)
        if other is not None:
            yield from _compared(name, other, requests, data)


def _counterpart(treatment: Treatment, data: StudyData) -> str | None:
    """The treatment at the same levels with the baseline's engine; None for that one itself, and where there is none."""
    levels = dict(treatment.levels)
    wanted = {**levels, _LEVER: data.study.baseline[_LEVER]}
    if levels == wanted:
        return None
    return next((name for name, one in data.treatments.items() if dict(one.levels) == wanted and not one.copy), None)


def _compared(name: str, other: str, requests: pd.DataFrame, data: StudyData) -> Iterator[str]:
    own, base = (data.valid[data.valid["treatment"] == each] for each in (name, other))
    key = ["model", "gpu", "load", "replicate"]
    sides = {tuple(row[part] for part in key): row for row in rows_of(base)}
    pairs = [(row, sides[place]) for row in rows_of(own) if (place := tuple(row[part] for part in key)) in sides]
    if not pairs:
        return
    count, unlike = 0, []
    for one, against in pairs:
        told, differs = _differences(one, against, requests)
        count += told
        if differs:
            unlike.append(f"{load_phrase(str(one['load']))}, {one['replicate']}, {joined(differs)}")
    prefix = "Simulated: " if data.simulated else ""
    subject = f"{prefix}{data.label(name)}: "
    cells = "the 1 pair of cells" if len(pairs) == 1 else f"all {len(pairs)} pairs of cells"
    closed = any(parse_load_point(str(one["load"])).kind == "concurrency" for one, _ in pairs)
    when = "at the same planned instants" + (" (in a closed loop whenever an answer ended)" if closed else "")
    if not unlike:
        yield (
            f"{subject}in {cells} both engines were sent the same prompts {when}, {count:,} requests each, and both counted as many tokens of each "
            "prompt and of each answer."
        )
        return
    more = f"; and in {len(unlike) - _NAMED} more" if len(unlike) > _NAMED else ""
    yield (
        f"{subject}in {len(unlike)} of {len(pairs)} pairs of cells the engines were not asked or did not answer alike: "
        f"{'; '.join(unlike[:_NAMED])}{more}."
    )


def _differences(one: Mapping[str, Any], against: Mapping[str, Any], requests: pd.DataFrame) -> tuple[int, list[str]]:
    """How many requests the cell has, and what differs between the two, a clause each."""
    found = []
    if one["phase"] != against["phase"]:
        found.append("another workload or another state of the caches was asked for")
    left, right = (
        requests[(requests["cell"] == row["cell"]) & (requests["replicate"] == row["replicate"])].set_index("index")
        for row in (one, against)
    )
    if set(left.index) != set(right.index):
        found.append(f"{len(left):,} requests were sent to one and {len(right):,} to the other")
    shared = left.index.intersection(right.index)
    left, right = left.loc[shared], right.loc[shared]
    # A round of a conversation is due after an answer, so that its instant is no plan's.
    planned = parse_load_point(str(one["load"])).kind in ("rate", "burst") and not requests_wait(
        json.loads(one["specification"])["phase"]
    )
    later = (
        (left["scheduled_s"] - left["scheduled_s"].min()) - (right["scheduled_s"] - right["scheduled_s"].min())
    ).abs()
    if planned and (moved := int((later > _INSTANT_S).sum())):
        found.append(f"{moved:,} of {len(shared):,} requests were due at other instants")
    ended = (left["status"] == "ok") & (right["status"] == "ok")
    if ended.sum() < len(shared):
        found.append(f"{int(len(shared) - ended.sum()):,} of {len(shared):,} requests did not end well on one side")
    for column, what in (("prompt_tokens", "prompt"), ("completion_tokens", "answer")):
        if unequal := int((left[column] != right[column])[ended].sum()):
            found.append(f"{unequal:,} of {len(shared):,} requests have another number of tokens in the {what}")
    return len(left), found
