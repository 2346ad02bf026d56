"""What a study of the course asks besides its effects: questions and who answers them, metrics to collect, files to read."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, field_validator

from leverlab.config.base import StrictModel, Written
from leverlab.metrics import parse_metric_reference
from leverlab.quantities import parse_quantity_reference


def _known_metric(reference: str) -> str:
    parse_metric_reference(reference)
    return reference


Metric = Annotated[str, AfterValidator(_known_metric)]
"""A metric as a study writes it: `ttft_s p50`, `throughput at burst`."""


def _known_quantity(reference: str) -> str:
    parse_quantity_reference(reference)
    return reference


TheoryQuantity = Annotated[str, AfterValidator(_known_quantity)]
"""A quantity of theory as a study writes it: `decode_floor_s`, `decode_floor_s at concurrency 1`."""


class EffectAnswer(StrictModel):
    """What the levels of a lever do to metrics, each against the baseline: a sentence with its interval for every one."""

    kind: Literal["effect"] = "effect"
    lever: str = Field(description="one of the study's levers")
    metrics: list[Metric] = Field(
        min_length=1, description="`ttft_s p50 at rate 4`; without `at` it is answered at every load point"
    )


class LevelsAnswer(StrictModel):
    """A metric over all levels of a lever, the baseline's among them, and which of them is best."""

    kind: Literal["levels"] = "levels"
    lever: str = Field(description="one of the study's levers")
    metrics: list[Metric] = Field(min_length=1, description="`throughput at burst`; without `at`, at every load point")


class LoadAnswer(StrictModel):
    """How metrics go with the load, from the lowest load point to the highest, for every treatment."""

    kind: Literal["load"] = "load"
    metrics: list[Metric] = Field(min_length=1, description="`ttft_s p50`, without a load point")

    @field_validator("metrics")
    @classmethod
    def _no_load(cls, metrics: list[str]) -> list[str]:
        for metric in metrics:
            if parse_metric_reference(metric).load is not None:
                raise ValueError(f"{metric!r}: this answer goes over all load points: leave out `at …`")
        return metrics


class SaturationAnswer(StrictModel):
    """At which rate the server stops keeping up, with its interval."""

    kind: Literal["saturation"] = "saturation"


class TheoryAnswer(StrictModel):
    """What theory expects of every treatment, and what was measured beside it."""

    kind: Literal["theory"] = "theory"
    quantities: list[TheoryQuantity] = Field(
        min_length=1,
        description="names of docs/theory.md: `decode_floor_s at concurrency 1`; without `at`, at every load point",
    )


class ReadingAnswer(StrictModel):
    """What no measurement answers: the text says what there is to understand, and the study's `reads` where."""

    kind: Literal["reading"] = "reading"
    text: str = Field(description="the answer, in a few sentences; the report marks it as not measured")


class ProfileAnswer(StrictModel):
    """What only a profile shows. Until one is measured beside the study, the report says that it is missing."""

    kind: Literal["profile"] = "profile"
    shows: str = Field(description="what the profile has to show")


Answer = Annotated[
    EffectAnswer | LevelsAnswer | LoadAnswer | SaturationAnswer | TheoryAnswer | ReadingAnswer | ProfileAnswer,
    Field(discriminator="kind"),
]


class Question(StrictModel):
    """A question of the course's written analysis, and what of the study answers it."""

    ask: str = Field(description="the question, as the course puts it")
    answers: list[Answer] = Field(min_length=1, description="what answers it, in order: one of the kinds below")


class Source(StrictModel):
    """A file of an engine that explains what was seen, where it is today."""

    package: Literal["vllm", "sglang", "lmcache", "transformers"] = Field(description="whose source it is")
    path: str = Field(pattern=r"^[\w./-]+$", description="the file or folder in the package's repository")
    why: str = Field(description="what to look for in it")


ELSEWHERE: Final = re.compile(r"(?P<where>profile|theory|accuracy): ?(?P<what>\S.*)")
"""What a study collects that is no metric of a cell: from a profile, computed from theory, from a task's score."""


def _known_or_elsewhere(value: str) -> str:
    elsewhere = ELSEWHERE.fullmatch(value)
    if elsewhere is None:
        parse_metric_reference(value)
    elif elsewhere["where"] == "theory":
        parse_quantity_reference(elsewhere["what"])
    return value


_Reference = Annotated[str, AfterValidator(_known_or_elsewhere)]


def theory_names(collected: dict[str, str | list[str]]) -> list[str]:
    """The quantities of theory that `collected` names."""
    entries = [entry for value in collected.values() for entry in ([value] if isinstance(value, str) else value)]
    named = [found for entry in entries if (found := ELSEWHERE.fullmatch(entry)) is not None]
    return [found["what"] for found in named if found["where"] == "theory"]


Collected = Annotated[
    dict[str, _Reference | Annotated[list[_Reference], Field(min_length=1)]],
    Written("name → metric, list of metrics, or `profile: …`, `theory: …`, `accuracy: …`"),
]
"""The course's name of a metric → where this study has it."""
