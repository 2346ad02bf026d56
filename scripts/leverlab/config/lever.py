"""A lever: one thing that can be set in a server, its levels, its mechanism and what is expected of it."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from leverlab.config.base import Environment, Flags, LevelName, StrictModel, Written, level_name
from leverlab.config.engine import Device, EngineKind
from leverlab.config.topology import TopologyChoice
from leverlab.load_point import CacheState, Client
from leverlab.metrics import parse_metric_reference

WorkloadValue = bool | int | float | str | list[Any]
"""A value of a workload's key; the workload itself says which it takes."""


Answers = Literal["same", "other", "other with dummy weights"]
"""Whether a server answers as without the lever: `other with dummy weights` where each GPU makes those of its own part."""


class Effect(StrictModel):
    """What a level sets on one kind of engine: flags, environment variables, topology. Empty: the engine's default.

    A level that names a client, a state of the caches, keys of the workload or fields of the request changes who asks, from
    where, or what, and leaves the server as it is. One that names another engine says nothing else: what the other levers set
    is then what they set on that engine.
    """

    flags: Flags = Field(default={}, description="flags of the server without `--`; true and false for a switch")
    environment: Environment = Field(default={}, description="environment variables of the server")
    topology: TopologyChoice | None = Field(
        default=None, description="how many servers there are and what stands before them, where the level changes it"
    )
    client: Client | None = Field(default=None, description="who sends the requests, where the level changes that")
    cache: CacheState | None = Field(
        default=None, description="state of the caches in which each phase starts, where the level changes that"
    )
    engine: str | dict[Device, str] | None = Field(
        default=None,
        description="the engine that serves instead, a name of engines.yaml, where the level changes that; "
        "`{cpu: static-cpu, cuda: static}` where it depends on what the GPU type computes on",
    )
    model: str | None = Field(
        default=None,
        description="the model that is served instead, a name of models.yaml; prompts stay those of the study's",
    )
    only_dummy_weights: bool = Field(
        default=False,
        description="whether the level says of the weights what a checkpoint says itself, so that it is refused of a model that has one",
    )
    gpus: Annotated[int, Field(ge=1)] | Literal["{value}"] | None = Field(
        default=None,
        description="GPUs that the server takes, where the level changes their number; of several such levels the product",
    )
    workload: Annotated[dict[str, WorkloadValue] | str, Written("key → value, or a workload's name")] = Field(
        default={},
        description="keys of the study's workload that the level changes, or the name of the workload that is asked instead",
    )
    request: dict[str, Any] = Field(
        default={}, description="fields of every request's body that the level adds, such as a grammar or a priority"
    )

    @model_validator(mode="after")
    def _engine_alone(self) -> "Effect":
        if self.engine is not None and len(self.model_fields_set) > 1:
            others = ", ".join(sorted(self.model_fields_set - {"engine"}))
            raise ValueError(f"a level that names another engine sets nothing else, and this one sets {others}")
        return self

    def engine_on(self, device: Device) -> str | None:
        """The engine that serves instead on a device; None where the level names none for it."""
        return self.engine.get(device) if isinstance(self.engine, dict) else self.engine


class OpenLevels(StrictModel):
    """Levels that are numbers: any number in range is a level, and stands in the flags as `{value}`."""

    type: Literal["integer", "number"] = Field(default="integer", description="which numbers are levels")
    minimum: float = Field(default=0, description="the smallest level")
    maximum: float | None = Field(default=None, description="the largest level, where there is one")
    engines: dict[EngineKind, Effect] = Field(
        description="per kind of engine, the effect, with `{value}` where the number goes"
    )


class Expectation(StrictModel):
    """What theory or the course expects of the lever."""

    direction: Literal["increases", "decreases", "unchanged"] = Field(
        description="of the indicator, from baseline to the level named in `of`"
    )
    of: LevelName = Field(description="the level the expectation speaks of, compared with `against`")
    against: LevelName = Field(description="the level it is compared with")
    factor: float | None = Field(
        default=None, gt=0, description="ratio of the indicator that is expected, where a source gives one"
    )
    because: str = Field(description="the reason or source of the expectation, in a sentence")

    def turned(self, level: str, against: str) -> int | None:
        """1 where `level` instead of `against` is what the expectation speaks of, -1 where it is the other way round; else None."""
        return {(self.of, self.against): 1, (self.against, self.of): -1}.get((level, against))


class LeverExpectation(Expectation):
    """The same for every study of the lever, whatever the levels of it."""

    any_two: bool = Field(
        default=False,
        description="for levels that are numbers: the direction is expected between any two of them, taken in the order of `of` and `against`",
    )

    @model_validator(mode="after")
    def _of_numbers(self) -> "LeverExpectation":
        if self.any_two and (_number(self.of) is None or _number(self.against) is None):
            raise ValueError(f"any_two: {self.of!r} and {self.against!r} are no two numbers")
        return self

    def turned(self, level: str, against: str) -> int | None:
        """See `Expectation.turned`; with `any_two` also for other numbers, by which of them is the larger."""
        found = super().turned(level, against)
        if found is not None:
            return found
        numbers = [_number(text) for text in (level, against, self.of, self.against)]
        if not self.any_two or None in numbers:
            return None
        first, second, of, other = (float(text) for text in (level, against, self.of, self.against))
        return 1 if (first > second) == (of > other) else -1


class Indicator(StrictModel):
    """The one metric that the lever is expected to move, and where in the load it shows."""

    metric: str = Field(description="a metric and its statistic: `ttft_s p50`, `throughput`")
    load: Literal["lowest rate", "highest rate", "burst"] = Field(
        description="the load point of the study at which it shows"
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        parse_metric_reference(value)
        return value


class Lever(StrictModel):
    """One thing that can be set in a server, with named levels or open ones."""

    title: str = Field(description="the lever's name for a reader")
    mechanism: str = Field(description="what it does in the engine, in a sentence")
    indicator: Indicator = Field(description="the metric and load point at which it is expected to show")
    expectation: LeverExpectation | None = Field(default=None, description="what theory expects, and why")
    answers: Annotated[Answers | dict[LevelName, Answers], Written("`same`, `other`, …, or level → one of them")] = (
        Field(
            default="same",
            description="whether the same prompts are to be answered alike at every level; `other` where the lever is there to change numbers or "
            "tokens, `other with dummy weights` where it changes which weights such a model gets; of some levels alone: `{fp8: other}`",
        )
    )
    levels: dict[LevelName, dict[EngineKind, Effect]] = Field(default={}, description="level → kind of engine → effect")
    values: OpenLevels | None = Field(default=None, description="for levels that are numbers")

    @field_validator("levels", mode="before")
    @classmethod
    def _each_level_once(cls, levels: Any) -> Any:  # noqa: ANN401 - not validated yet
        names = [level_name(level) for level in levels] if isinstance(levels, dict) else []
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"level {name!r} stands twice")
        return levels

    @model_validator(mode="after")
    def _has_levels(self) -> "Lever":
        if not self.levels and self.values is None:
            raise ValueError("a lever needs `levels`, `values` or both")
        for level in (self.expectation.of, self.expectation.against) if self.expectation else ():
            if not self.has_level(level):
                raise ValueError(f"the expectation speaks of level {level!r}, which is none of {self.level_names()}")
        for level in self.answers if isinstance(self.answers, dict) else ():
            if not self.has_level(level):
                raise ValueError(f"answers speaks of level {level!r}, which is none of {self.level_names()}")
        return self

    def other_answers(self, level: str, against: str, *, dummy_weights: bool) -> bool:
        """Whether the answers at `level` may be others than those at `against`."""
        told = self.answers
        said = {told.get(one, "same") if isinstance(told, dict) else told for one in (level, against)}
        return level != against and ("other" in said or (dummy_weights and "other with dummy weights" in said))

    def has_level(self, level: str) -> bool:
        """Whether `level` is one of the named levels or of the open ones."""
        return level in self.levels or (self.values is not None and self._in_range(level))

    def effect(self, level: str, engine_kind: EngineKind) -> Effect | None:
        """What `level`, which must be one of the lever's, sets on `engine_kind`; None where the entry does not say."""
        if level in self.levels:
            return self.levels[level].get(engine_kind)
        assert self.values is not None and self._in_range(level), level
        effect = self.values.engines.get(engine_kind)
        number = float(level)
        return effect and _filled(effect, number if self.values.type == "number" else int(number))

    def level_names(self) -> list[str]:
        """The named levels, and a description of the open ones, for messages and tables."""
        open_levels = self.values
        if open_levels is None:
            return list(self.levels)
        upto = "" if open_levels.maximum is None else f" to {open_levels.maximum:g}"
        return [*self.levels, f"any {open_levels.type} from {open_levels.minimum:g}{upto}"]

    def _in_range(self, level: str) -> bool:
        assert self.values is not None
        number = _number(level)
        if number is None or not math.isfinite(number) or (self.values.type == "integer" and not number.is_integer()):
            return False
        return self.values.minimum <= number and (self.values.maximum is None or number <= self.values.maximum)


def _number(level: str) -> float | None:
    try:
        return float(level)
    except ValueError:
        return None


def _filled(effect: Effect, number: float) -> Effect:
    def fill(value: Any) -> Any:  # noqa: ANN401 - any flag value
        if value == "{value}":
            return number
        if isinstance(value, str):
            return value.replace("{value}", str(level_name(number)))
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value

    return effect.model_copy(
        update={
            "flags": fill(effect.flags),
            # A variable is text, whatever the number.
            "environment": {name: str(fill(value)) for name, value in effect.environment.items()},
            "workload": fill(effect.workload),
            "request": fill(effect.request),
            "gpus": fill(effect.gpus),
        }
    )
