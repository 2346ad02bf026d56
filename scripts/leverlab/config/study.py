"""A study: a question, its factors, its load points, a baseline and what is looked at first."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from leverlab.config.accuracy import AccuracyForm
from leverlab.config.base import LevelName, Seconds, StrictModel, Written, nearest
from leverlab.config.course import Collected, ExpectedAnswer, Question, Source
from leverlab.config.profile import Profile
from leverlab.config.workload import Workload
from leverlab.load_point import CacheState, Client, LoadPoint, parse_load_point
from leverlab.metrics import ERROR_RATIO, HIGHEST_RATE, MetricReference, comparable, parse_metric_reference

Rate = Annotated[
    float, Field(gt=0), WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "inf"}]})
]
_OBJECTIVE = re.compile(rf"^((ttft|tpot|e2e)_(p50|p95|p99|mean)|{ERROR_RATIO})$")


class Search(StrictModel):
    """A search for the highest rate that meets the study's objectives, on each server."""

    precision: float = Field(
        default=0.05, ge=0.005, le=1, description="a rate higher by this share than the one found misses an objective"
    )
    lowest: float | None = Field(default=None, gt=0, description="requests/s; default: 1/64 of the first rate tried")
    highest: float | None = Field(default=None, gt=0, description="requests/s; default: 64 times the first rate tried")
    limit: Seconds = Field(
        default=1800, description="how long a search goes on; one that ran out of time says how near it came"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Search":
        if self.lowest is not None and self.highest is not None and self.lowest >= self.highest:
            raise ValueError(f"lowest ({self.lowest:g}) must be below highest ({self.highest:g})")
        return self


class Load(StrictModel):
    """The load points: open loops at rates (inf: a burst), closed loops at concurrencies, a search for the highest rate."""

    rates: list[Rate] = Field(default=[], description="requests/s; `inf` for a burst, all at once")
    concurrencies: list[Annotated[int, Field(ge=1)]] = Field(default=[], description="streams of a closed loop")
    minimum_duration: Seconds | None = Field(
        default=None,
        description="how long requests come at a finite rate, at the least: where the workload's `requests` would come sooner, more are "
        "sent. Bursts, closed loops and searches send `requests`",
    )
    requests: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={},
        description="load point → requests that it sends instead of the workload's `requests`: `{concurrency 1: 20, burst: 256}`",
    )
    search: Search | None = Field(
        default=None, description="`{}`, or its settings: find the highest rate that meets `objectives`"
    )

    @model_validator(mode="after")
    def _some(self) -> "Load":
        if not self.rates and not self.concurrencies and self.search is None:
            raise ValueError(
                "no load point: give `rates: [1, 4, inf]`, `concurrencies: [8]` or `search: {}`, and lists not empty"
            )
        for name, values in (("rates", self.rates), ("concurrencies", self.concurrencies)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} has a value twice: {values}")
        if self.minimum_duration is not None and all(math.isinf(rate) for rate in self.rates):
            raise ValueError(
                "minimum_duration: it has requests come for longer at finite rates, and there is none; a burst, a closed loop and a search "
                "send the workload's `requests`: raise those, or add a rate"
            )
        return self

    @model_validator(mode="after")
    def _requests_of_its_points(self) -> "Load":
        found: dict[LoadPoint, str] = {}
        for text in self.requests:
            point = parse_load_point(text)
            if point not in self.points():
                raise ValueError(
                    f"requests: {text} is not a load point of the study: {', '.join(map(str, self.points()))}"
                )
            if point.kind == "search":
                raise ValueError(
                    "requests: a search sends the workload's `requests` at every rate that it tries: change those"
                )
            if point in found:
                raise ValueError(f"requests: {found[point]} and {text} are one load point")
            found[point] = text
        return self

    def requests_at(self, point: LoadPoint, of_the_workload: int) -> int:
        """How many requests `point` sends: those stated for it, else the workload's, and more where `minimum_duration` takes more."""
        stated = {parse_load_point(text): number for text, number in self.requests.items()}
        return max(stated.get(point, of_the_workload), self.least_requests(point))

    def least_requests(self, point: LoadPoint) -> int:
        """How many requests it takes at `point` for them to come for `minimum_duration`, on average over draws; 0 where it asks for none."""
        if self.minimum_duration is None or point.kind != "rate" or point.value is None:
            return 0
        # 1.1 requests/s for 50 s are 55 requests, though the product of the two floats is a little more.
        return math.ceil(round(point.value * self.minimum_duration, 6))

    def points(self) -> list[LoadPoint]:
        """The load points in the order of `LoadPoint.sort_key`."""
        rates = [LoadPoint("burst") if rate == float("inf") else LoadPoint("rate", rate) for rate in self.rates]
        streams = [LoadPoint("concurrency", float(value)) for value in self.concurrencies]
        search = [LoadPoint("search")] if self.search is not None else []
        return sorted([*rates, *streams, *search], key=lambda point: point.sort_key)


class Factorial(StrictModel):
    """Every combination of the levels of the named levers; the others stay at the baseline."""

    factorial: list[str] = Field(min_length=1, description="levers whose levels are combined")


class Explicit(StrictModel):
    """The treatments, one mapping of levers to levels each; what is not named stays at the baseline."""

    list: Annotated[list[dict[str, LevelName]], Field(min_length=1, description="treatments: lever → level")]


class GpuChoice(StrictModel):
    """A GPU type and how many of it a server takes."""

    name: str = Field(description="a name of config/gpus.yaml")
    count: int = Field(default=1, ge=1, description="GPUs a server takes")


def _load_form(value: Any) -> Any:  # noqa: ANN401
    return {"search": {}} if value == "search" else value


def _share_or_time(value: Any) -> Any:  # noqa: ANN401
    text = value.strip() if isinstance(value, str) else ""
    return float(text[:-1]) / 100 if re.fullmatch(r"\d+(\.\d+)?\s*%", text) else value


def _gpu_choice(value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, str):
        return value
    name, colon, count = value.partition(":")
    if colon and not count.isdigit():
        raise ValueError("write a GPU as `h100`, or `h100:2` for two a server")
    return {"name": name, "count": int(count or 1)}


def _known_metric(reference: str) -> str:
    parse_metric_reference(reference)
    return reference


def _design_form(value: Any) -> str:  # noqa: ANN401
    return "named" if isinstance(value, str) else "list" if isinstance(value, dict) and "list" in value else "factorial"


class Study(StrictModel):
    """A question put to engines: one file, one report."""

    question: str = Field(description="what the study asks, in a sentence")
    week: int | None = Field(default=None, ge=1, le=16, description="week of the course that the study is of")
    title: str | None = Field(default=None, description="the report's title; default: the file's name")
    engines: list[str] = Field(min_length=1, description="names of config/engines.yaml")
    models: list[str] = Field(min_length=1, description="names of config/models.yaml")
    gpus: list[
        Annotated[GpuChoice, BeforeValidator(_gpu_choice, json_schema_input_type=str | GpuChoice), Written("GPU")]
    ] = Field(min_length=1, description="`h100`, or `h100:2` for two a server")
    workload: Annotated[
        Annotated[str, Tag("name")] | Annotated[Workload, Tag("workload")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "workload"),
        Written("text, or a mapping as in workloads.yaml"),
    ] = Field(description="a name of config/workloads.yaml, or a workload itself")
    workloads: dict[str, Workload] = Field(
        default={},
        description="workloads of the study's own by name, which go before those of workloads.yaml: for `workload`, and for levels "
        "that name one",
    )
    load: Annotated[
        Load,
        BeforeValidator(_load_form, json_schema_input_type=Load | Literal["search"]),
        Written("a mapping, or `search`"),
    ] = Field(description="the load points; `search` alone: the highest rate that meets `objectives`")
    levers: dict[str, list[LevelName]] = Field(min_length=1, description="lever → its levels in this study")
    baseline: dict[str, LevelName] = Field(description="lever → the level that every other is compared with")
    primary: dict[str, Annotated[str, AfterValidator(_known_metric)]] = Field(
        default={}, description="lever → `ttft_s p50 at rate 4`; default: the lever's own indicator"
    )
    design: Annotated[
        Annotated[Literal["one-at-a-time", "factorial"], Tag("named")]
        | Annotated[Factorial, Tag("factorial")]
        | Annotated[Explicit, Tag("list")],
        Discriminator(_design_form),
        Written("text or a mapping"),
    ] = Field(
        default="one-at-a-time",
        description="`one-at-a-time` against the baseline; `factorial`, all combinations; `{factorial: [lever, …]}`; "
        "`{list: [{lever: level}, …]}`",
    )
    replicates: int = Field(
        ge=1, description="how often all of it is measured, each time on fresh servers with new seeds"
    )
    node: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="the node that every server of the study runs on, so that no pair spans two; default: wherever there is room",
    )
    noise_floor: bool = Field(
        default=False,
        description="measure the baseline once more in every replicate, on a server of its own, and compare it with itself: "
        "what the same server differs by from one start to the next",
    )
    objectives: dict[
        str, Annotated[Seconds, BeforeValidator(_share_or_time), Written("a duration: `500 ms`, or a share: `1 %`")]
    ] = Field(
        default={},
        description="`ttft_p95: 500 ms`, `tpot_p95: 30 ms`: what goodput counts and a search holds; for a search also "
        "`error_ratio: 1 %` (none where it is not stated)",
    )
    cache: CacheState = Field(
        default="cold",
        description="state of the caches in which each phase starts: `cold`; `warm`, the prompts in the engine's own cache; `tier`, "
        "in a tier below it alone; `restarted`, what a tier has kept of them over a restart of the server",
    )
    endpoint: Literal["completions", "chat"] = Field(
        default="completions", description="where requests are sent: `/v1/completions` or `/v1/chat/completions`"
    )
    client: Client = Field(
        default="replay",
        description="who sends them: leverlab's own replay client, `vllm bench serve`, or nobody (`offline`: whole batches, docs/topologies.md); a lever whose levels name clients "
        "compares them",
    )
    stop_after_saturation: bool = Field(
        default=False,
        description="offer a server its rates from the lowest up, instead of in a drawn order, and leave out those above the first "
        "with which it does not keep up",
    )
    request_timeout: Seconds = Field(default=600, description="how long a request is followed")
    profile: Profile | None = Field(
        default=None, description="which cells get a twin under a profiler (docs/profiles.md); default: none"
    )
    explained_by: list[str] = Field(
        default=[],
        description="studies whose twins explain this one too: the report shows what they say of the levers that both vary, or of "
        "the baseline where there is none (docs/profiles.md)",
    )
    accuracy: Annotated[AccuracyForm | None, Written("Accuracy, or the name of a task")] = Field(
        default=None, description="a task whose questions every server answers, in a job of its own (docs/accuracy.md)"
    )
    hardware: str | None = Field(default=None, description="what it takes to run, in a sentence")
    ranks: Literal["all"] | None = Field(
        default=None,
        description="`all`: the report ranks the levers over all studies that have results, and recommends a configuration from them",
    )
    questions: list[Question] = Field(default=[], description="questions that the report answers from the data")
    collects: Collected = Field(default={}, description="metrics that the course wants collected, and where they are")
    reads: list[Source] = Field(default=[], description="files of the engines that explain what is seen")
    smoke: Annotated[dict[str, Any] | None, Written("keys of a study")] = Field(
        default=None,
        description="keys that another size of the study replaces: `NAME-smoke`, which runs where there is no GPU",
    )

    @field_validator("levers")
    @classmethod
    def _levels_differ(cls, levers: dict[str, list[str]]) -> dict[str, list[str]]:
        for lever, levels in levers.items():
            if not levels:
                raise ValueError(f"lever {lever!r} has no level")
            if len(set(levels)) != len(levels):
                raise ValueError(f"lever {lever!r} names a level twice: {levels}")
        return levers

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, objectives: dict[str, float]) -> dict[str, float]:
        for name in objectives:
            if not _OBJECTIVE.match(name):
                raise ValueError(
                    f"objective {name!r}: write ttft, tpot or e2e, `_`, and mean, p50, p95 or p99; or {ERROR_RATIO}"
                )
            if name == ERROR_RATIO and not objectives[name] < 1:
                raise ValueError(f"objective {name}: a share of requests below 1, such as 1 %")
        return objectives

    @model_validator(mode="after")
    def _searches_for_something(self) -> "Study":
        if self.load.search is not None and not set(self.objectives) - {ERROR_RATIO}:
            raise ValueError(
                "load.search: it finds the highest rate that meets `objectives`: give `ttft_p95: 500 ms` or others"
            )
        return self

    @model_validator(mode="after")
    def _profiles_its_own_loads(self) -> "Study":
        points = [str(point) for point in self.load.points()]
        for load in self.profile.at if self.profile else ():
            if load not in points:
                raise ValueError(f"profile.at: {load} is not a load point of the study: {', '.join(points)}")
        return self

    @model_validator(mode="after")
    def _has_rates_to_stop_at(self) -> "Study":
        if self.stop_after_saturation and sum(point.kind == "rate" for point in self.load.points()) < 2:
            raise ValueError("stop_after_saturation: there is nothing to leave out: give two finite rates or more")
        return self

    @model_validator(mode="after")
    def _baseline_fits(self) -> "Study":
        for lever in self.levers:
            if lever not in self.baseline:
                raise ValueError(f"baseline: lever {lever!r} has none: add it{nearest(lever, self.baseline)}")
        for lever, level in self.baseline.items():
            if lever not in self.levers:
                raise ValueError(f"baseline: {lever!r} is not one of the study's levers{nearest(lever, self.levers)}")
            if level not in self.levers[lever]:
                raise ValueError(
                    f"baseline.{lever}: {level!r} is not among its levels{nearest(level, self.levers[lever])}"
                )
        for lever, reference in self.primary.items():
            if lever not in self.levers:
                raise ValueError(f"primary: {lever!r} is not one of the study's levers{nearest(lever, self.levers)}")
            parsed = parse_metric_reference(reference)
            if parsed.load is None:
                raise ValueError(f"primary.{lever}: say at which load point: `{reference} at rate 4`")
            if parsed.metric == "goodput" and not self.objectives:
                raise ValueError(f"primary.{lever}: goodput counts requests that meet `objectives`, and there are none")
            if not comparable(parsed.metric, parsed.load):
                raise ValueError(
                    f"primary.{lever}: {reference}: where the rate is searched for {HIGHEST_RATE} is compared, and only there: "
                    f"write `{HIGHEST_RATE} at search`"
                )
            if parsed.load not in self.load.points():
                points = ", ".join(str(point) for point in self.load.points())
                raise ValueError(f"primary.{lever}: {parsed.load} is not a load point of the study: {points}")
        return self

    @model_validator(mode="after")
    def _expects_of_its_baseline(self) -> "Study":
        for answer in (answer for question in self.questions for answer in question.answers):
            if not isinstance(answer, ExpectedAnswer) or answer.lever not in self.levers:
                continue
            own, baseline = self.levers[answer.lever], self.baseline[answer.lever]
            if {answer.of, answer.against} <= set(own) and baseline not in (answer.of, answer.against):
                raise ValueError(
                    f"questions: expected of {answer.lever}: {answer.of} instead of {answer.against} is not compared: "
                    f"every level is compared with the baseline's, {baseline}"
                )
        return self

    def primary_reference(self, lever: str) -> MetricReference | None:
        """The primary metric of `lever` as this study states it, or None where it leaves it to the lever's indicator."""
        return parse_metric_reference(self.primary[lever]) if lever in self.primary else None
