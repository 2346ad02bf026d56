"""A lever: one thing that can be set in a server, its levels, its mechanism and what is expected of it."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from leverlab.config.base import FlagValue, StrictModel
from leverlab.metrics import parse_metric_reference


class Effect(StrictModel):
    """What a level sets on one kind of engine: flags, environment variables, topology. Empty: the engine's default."""

    flags: dict[str, FlagValue] = Field(
        default={}, description="flags of the server without `--`; true and false for a switch"
    )
    environment: dict[str, str] = Field(default={}, description="environment variables of the server")
    topology: str | None = Field(default=None, description="topology of the servers, where the level changes it")


class OpenLevels(StrictModel):
    """Levels that are numbers: any number in range is a level, and stands in the flags as `{value}`."""

    type: Literal["integer", "number"] = "integer"
    minimum: float = 0
    maximum: float = float("inf")
    engines: dict[str, Effect] = Field(
        description="per kind of engine, the effect, with `{value}` where the number goes"
    )


class Expectation(StrictModel):
    """What theory or the course expects of the lever."""

    direction: Literal["increases", "decreases", "unchanged"] = Field(
        description="of the indicator, from baseline to the level named in `of`"
    )
    of: str = Field(description="the level the expectation speaks of, compared with `against`")
    against: str = Field(description="the level it is compared with")
    factor: float | None = Field(
        default=None, gt=0, description="ratio of the indicator that is expected, where a source gives one"
    )
    because: str = Field(description="the reason or source of the expectation, in a sentence")


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
    indicator: Indicator
    expectation: Expectation | None = None
    levels: dict[str, dict[str, Effect]] = Field(default={}, description="level → kind of engine → effect")
    values: OpenLevels | None = Field(default=None, description="for levels that are numbers")

    @model_validator(mode="after")
    def _has_levels(self) -> "Lever":
        if not self.levels and self.values is None:
            raise ValueError("a lever needs `levels`, `values` or both")
        return self

    def effect(self, level: str, engine_kind: str) -> Effect:
        """What `level` sets on `engine_kind`. Raises KeyError(level) or KeyError(engine_kind) where there is none."""
        if level in self.levels:
            return self.levels[level][engine_kind]
        if self.values is None or not self._in_range(level):
            raise KeyError(level)
        return _filled(self.values.engines[engine_kind], float(level) if self.values.type == "number" else int(level))

    def level_names(self) -> list[str]:
        """The named levels, and a description of the open ones, for messages and tables."""
        open_levels = self.values
        described = [f"any {open_levels.type} from {open_levels.minimum:g}"] if open_levels else []
        return [*self.levels, *described]

    def _in_range(self, level: str) -> bool:
        assert self.values is not None
        try:
            number = float(level)
        except ValueError:
            return False
        if self.values.type == "integer" and not number.is_integer():
            return False
        return self.values.minimum <= number <= self.values.maximum


def _filled(effect: Effect, number: float) -> Effect:
    def fill(value: Any) -> Any:  # noqa: ANN401 - any flag value
        if value == "{value}":
            return number
        if isinstance(value, str):
            return value.replace("{value}", f"{number:g}")
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value

    return Effect(flags=fill(effect.flags), environment=fill(effect.environment), topology=effect.topology)
