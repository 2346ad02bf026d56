"""What a study of the course asks besides its effects: questions and who answers them, metrics to collect, files to read."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from leverlab.config.accuracy import COLLECTED
from leverlab.config.base import LevelName, StrictModel, Written, nearest
from leverlab.config.lever import Expectation
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


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the lower end comes first: [{ends[1]:g}, {ends[0]:g}]")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(_ordered), Written("[low, high]")]
"""The ends of a range, both included."""


class _Answer(StrictModel):
    def names(self) -> dict[str, list[str]]:
        """The levers that the answer speaks of, each with the levels that it names."""
        return {}


class EffectAnswer(_Answer):
    """What the levels of a lever do to metrics, each against the baseline: a sentence with its interval for every one."""

    kind: Literal["effect"] = "effect"
    lever: str = Field(description="one of the study's levers")
    metrics: list[Metric] = Field(
        min_length=1, description="`ttft_s p50 at rate 4`; without `at` it is answered at every load point"
    )
    each: str | None = Field(
        default=None,
        description="another lever: the effect is told at each of its levels, between servers and workloads that differ in `lever` alone",
    )

    @model_validator(mode="after")
    def _each_is_another(self) -> "EffectAnswer":
        if self.each == self.lever:
            raise ValueError(f"each: {self.each!r} is the lever itself: name another one")
        return self

    def names(self) -> dict[str, list[str]]:
        return {self.lever: [], **({self.each: []} if self.each else {})}


class LevelsAnswer(_Answer):
    """A metric over all levels of a lever, the baseline's among them, and which of them is best."""

    kind: Literal["levels"] = "levels"
    lever: str = Field(description="one of the study's levers")
    metrics: list[Metric] = Field(min_length=1, description="`throughput at burst`; without `at`, at every load point")

    def names(self) -> dict[str, list[str]]:
        return {self.lever: []}


class LineAnswer(_Answer):
    """Whether a metric lies on a straight line over a lever's levels, which are numbers, and on which: at 0, and for every so many more."""

    kind: Literal["line"] = "line"
    lever: str = Field(description="one of the study's levers, all of whose levels are numbers, three or more")
    metrics: list[Metric] = Field(
        min_length=1, description="`kv_transfer_s at rate 2`; without `at`, at every load point"
    )

    def names(self) -> dict[str, list[str]]:
        return {self.lever: []}


class RangeAnswer(_Answer):
    """Whether a metric lies within the range that a source gives for each level of a lever, the others at the baseline."""

    kind: Literal["range"] = "range"
    lever: str = Field(description="one of the study's levers")
    metric: Metric = Field(description="`cache_hit_ratio at rate 4`; without `at`, at every load point")
    expected: dict[LevelName, Range] = Field(
        min_length=1, description="level → lowest and highest value expected, in the metric's own unit; a share as 0.7"
    )
    source: str = Field(description="whose expectation it is, in a few words")

    def names(self) -> dict[str, list[str]]:
        return {self.lever: list(self.expected)}


class ExpectedAnswer(_Answer, Expectation):
    """What the course or theory expects of a level in a metric besides the lever's own indicator, and whether it was seen."""

    kind: Literal["expected"] = "expected"
    lever: str = Field(description="one of the study's levers; `of` or `against` is its level at the baseline")
    metric: Metric = Field(description="`throughput at burst`; without `at`, at every load point")
    where: dict[str, LevelName] = Field(
        default={}, max_length=1, description="another lever and its level, where it is not at the baseline's"
    )

    @model_validator(mode="after")
    def _two_levels(self) -> "ExpectedAnswer":
        if self.of == self.against:
            raise ValueError(f"of and against are both {self.of!r}: name two levels")
        if self.lever in self.where:
            raise ValueError(f"where: {self.lever!r} is the lever itself: name another one")
        return self

    def names(self) -> dict[str, list[str]]:
        return {self.lever: [self.of, self.against], **{lever: [level] for lever, level in self.where.items()}}


class LoadAnswer(_Answer):
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


class SaturationAnswer(_Answer):
    """At which rate the server stops keeping up, with its interval."""

    kind: Literal["saturation"] = "saturation"


class TheoryAnswer(_Answer):
    """What theory expects of every treatment, and what was measured beside it."""

    kind: Literal["theory"] = "theory"
    quantities: list[TheoryQuantity] = Field(
        min_length=1,
        description="names of docs/theory.md: `decode_floor_s at concurrency 1`; without `at`, at every load point",
    )


class StackingAnswer(_Answer):
    """Whether two levers together do what each alone lets expect: their interaction, in factors and in the metric's own unit."""

    kind: Literal["stacking"] = "stacking"
    levers: list[str] = Field(
        min_length=2, max_length=2, description="two of the study's levers, whose levels are crossed"
    )
    metrics: list[Metric] = Field(min_length=1, description="`e2e_s p50 at rate 4`; without `at`, at every load point")

    def names(self) -> dict[str, list[str]]:
        return {lever: [] for lever in self.levers}


class RankingAnswer(_Answer):
    """The levers of the largest sure effects over all studies, each in the metric that its own study judges it by (`ranks: all`)."""

    kind: Literal["ranking"] = "ranking"
    most: int = Field(default=3, ge=1, description="how many levers are named")


class ReadingAnswer(_Answer):
    """What no measurement answers: the text says what there is to understand, and the study's `reads` where."""

    kind: Literal["reading"] = "reading"
    text: str = Field(description="the answer, in a few sentences; the report marks it as not measured")


class ProfileAnswer(_Answer):
    """What only a profile shows. Until one is measured beside the study, the report says that it is missing."""

    kind: Literal["profile"] = "profile"
    shows: str = Field(description="what the profile has to show")


class AccuracyAnswer(_Answer):
    """What the levels of a lever do to accuracy, and how many answers they leave as they are, each against the baseline."""

    kind: Literal["accuracy"] = "accuracy"
    lever: str = Field(description="one of the study's levers")

    def names(self) -> dict[str, list[str]]:
        return {self.lever: []}


Answer = Annotated[
    EffectAnswer
    | LevelsAnswer
    | LineAnswer
    | RangeAnswer
    | ExpectedAnswer
    | LoadAnswer
    | SaturationAnswer
    | TheoryAnswer
    | AccuracyAnswer
    | StackingAnswer
    | RankingAnswer
    | ReadingAnswer
    | ProfileAnswer,
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
    elif elsewhere["where"] == "accuracy" and elsewhere["what"] not in COLLECTED:
        raise ValueError(f"accuracy: there is no {elsewhere['what']!r}{nearest(elsewhere['what'], COLLECTED)}")
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
