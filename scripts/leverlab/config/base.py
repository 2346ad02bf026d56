"""What every configuration file shares: strict models, and errors that name file, key and nearest neighbour."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from leverlab.units import parse_quantity

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """A mistake in the configuration. The message names the file, the key and the remedy."""


class StrictModel(BaseModel):
    """An entry of a configuration file: unknown keys are errors, and nothing changes after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False, hide_input_in_errors=False)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest of `known`, then all of them (at most 20): the end of an error's sentence."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"{hint} Known: {listed}" if close else f"; known: {listed or 'none'}"


def validated(model: type[Model], data: Any, file: Path | str, key: str) -> Model:  # noqa: ANN401
    """`data` as a `model`; raises ConfigError naming `file`, the key below `key`, and for an unknown key its neighbour."""
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: {key or 'the file'} must be a mapping of keys to values, and is {_described(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentences(model, error, file, key))) from None


def _sentences(model: type[BaseModel], error: ValidationError, file: Path | str, key: str) -> list[str]:
    sentences = []
    for problem in error.errors():
        where = ".".join([key, *[str(part) for part in problem["loc"]]]).strip(".")
        if problem["type"] == "extra_forbidden":
            unknown = str(problem["loc"][-1])
            known = _fields_at(model, problem["loc"][:-1])
            sentences.append(f"{file}: {where}: there is no key {unknown!r}{nearest(unknown, known)}")
        elif problem["type"] == "missing":
            sentences.append(f"{file}: {where}: this key is required and missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            got = "" if isinstance(problem["input"], dict) else f" (it is {_described(problem['input'])})"
            sentences.append(f"{file}: {where}: {message}{got}")
    return sentences


def _described(data: Any) -> str:  # noqa: ANN401
    text = repr(data)
    return "empty" if data is None else text if len(text) <= 60 else f"{text[:57]}..."


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys that are known where an unknown one was found: those of the model at `location` below `model`."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        found: list[type[BaseModel]] = []
        for candidate in models:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                found += _models_in(field.annotation)
            elif candidate.__name__.lower() == str(part).lower() or _tag(candidate) == part:
                found.append(candidate)
        models = found or models
    return {name for candidate in models for name in candidate.model_fields}


def _tag(model: type[BaseModel]) -> object:
    field = model.model_fields.get("kind")
    return field.default if field else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


def _quantity(dimension: str) -> BeforeValidator:
    return BeforeValidator(
        lambda value: parse_quantity(value, dimension) if isinstance(value, str | int | float) else value,
        json_schema_input_type=str | float,
    )


Seconds = Annotated[float, _quantity("time"), Field(gt=0, description="a duration, such as 500 ms")]
Bytes = Annotated[float, _quantity("bytes"), Field(gt=0, description="a size, such as 80 GiB")]
Watts = Annotated[float, _quantity("power"), Field(gt=0, description="a power, such as 700 W")]
FlopRate = Annotated[float, _quantity("flops"), Field(gt=0, description="a rate of arithmetic, such as 989 TFLOP/s")]
ByteRate = Annotated[float, _quantity("bandwidth"), Field(gt=0, description="a bandwidth, such as 3.35 TB/s")]

FlagValue = bool | int | float | str | list[str | int | float] | dict[str, Any]
"""The value of a server's flag: true and false for a switch, a mapping for a flag that takes JSON."""
