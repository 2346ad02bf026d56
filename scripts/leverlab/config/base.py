"""What every configuration file shares: strict models, and errors that name file, key and nearest neighbour."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError
from pydantic_core import ErrorDetails

from leverlab.identity import canonical_json
from leverlab.metrics import METRICS, UnknownMetricError
from leverlab.quantities import QUANTITIES, UnknownQuantityError
from leverlab.units import parse_quantity

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """A mistake in the configuration. The message names the file, the key and the remedy."""


class StrictModel(BaseModel):
    """An entry of a configuration file: unknown keys are errors, and nothing changes after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self, *left_out: str) -> dict[str, Any]:
        """The entry as a part of an identity, without the keys `left_out`.

        Keys at their default are left out too, so that a key added later changes no id. In return a default never changes
        its meaning: another behaviour is another key or value. The kind that tells entries apart always stands.
        """
        kind = {"kind"} & set(type(self).model_fields)
        return self.model_dump(include=kind) | self.model_dump(exclude_defaults=True, exclude=set(left_out))


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest of `known`, then all of them (at most 20): the end of an error's sentence."""
    names = sorted(known)
    close = _close(name, names)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"{hint} Known: {listed}" if close else f"; known: {listed or 'none'}"


def _close(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)


def validated(model: type[Model], data: Any, file: Path | str, key: str) -> Model:  # noqa: ANN401
    """`data` as a `model`; raises ConfigError naming `file`, the key below `key`, and for an unknown key its neighbour."""
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: {key or 'the file'} must be a mapping of keys to values, and is {_described(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentences(model, error, data, file, key))) from None


def _sentences(model: type[BaseModel], error: ValidationError, data: Any, file: Path | str, key: str) -> list[str]:  # noqa: ANN401
    """One line for each key that is wrong, whatever the number of types it was tried as."""
    messages: dict[str, list[str]] = {}
    inputs: dict[str, Any] = {}
    problems = error.errors()
    misspelt = {
        (*problem["loc"][:-1], meant)
        for problem in problems
        if problem["type"] == "extra_forbidden"
        for meant in _close(str(problem["loc"][-1]), _fields_at(model, problem["loc"][:-1]))
    }
    for problem in problems:
        if problem["type"] == "missing" and problem["loc"] in misspelt:
            continue
        where = ".".join([key, *_keys(problem, data)]).strip(".")
        messages.setdefault(where, []).append(_message(model, problem))
        inputs[where] = problem["input"]
    sentences = []
    for where, said in messages.items():
        wanted = [text.removeprefix(_SHOULD) for text in said if text.startswith(_SHOULD)]
        text = f"{_SHOULD}{' or '.join(dict.fromkeys(wanted))}" if len(wanted) == len(said) else said[0]
        got = f" (it is {_described(inputs[where])})" if text.startswith(_SHOULD) else ""
        sentences.append(f"{file}: {f'{where}: ' if where else ''}{text}{got}")
    return sentences


_SHOULD: Final = "must be "


_WORDING: Final = (
    (re.compile(r"^Input should be "), _SHOULD),
    (re.compile(r"^String should match pattern "), f"{_SHOULD}like "),
    (re.compile(r"a valid dictionary( or .*)?$"), "a mapping of keys to values"),
    (re.compile(r"a valid list$"), "a list, such as [a, b]"),
    (re.compile(r"a valid (string|number)"), r"a \1"),
    (re.compile(r"a valid integer.*"), "a whole number"),
    (re.compile(r"a valid boolean.*"), "true or false"),
)


def _message(model: type[BaseModel], problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            unknown = str(problem["loc"][-1])
            return f"there is no key {unknown!r}{nearest(unknown, _fields_at(model, problem['loc'][:-1]))}"
        case "missing":
            return "this key is required and missing"
        case "literal_error":
            return (
                f"there is no {problem['input']!r} here{nearest(str(problem['input']), _quoted(context['expected']))}"
            )
        case "union_tag_invalid":
            return f"there is no kind {context['tag']!r}{nearest(context['tag'], _quoted(context['expected_tags']))}"
        case "union_tag_not_found":
            return "the key `kind` is required and missing"
        case "string_type" if isinstance(problem["input"], int | float):
            return "must be text: write it in quotes"
        case "too_short":
            return "must not be empty"
    cause = context.get("error")
    if isinstance(cause, UnknownMetricError):
        return f"there is no metric {cause.name!r}{nearest(cause.name, METRICS)}"
    if isinstance(cause, UnknownQuantityError):
        return f"there is no quantity of theory {cause.name!r}{nearest(cause.name, QUANTITIES)}"
    said = problem["msg"].removeprefix("Value error, ")
    for pydantic_says, we_say in _WORDING:
        said = pydantic_says.sub(we_say, said)
    return said


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _keys(problem: ErrorDetails, data: Any) -> list[str]:  # noqa: ANN401
    """The location as keys of the file: without the names of the types that pydantic tried on the way."""
    keys = []
    location = problem["loc"]
    for number, part in enumerate(location):
        inside = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(inside, dict) and part in inside:
            data = inside[part]
        elif not (number == len(location) - 1 and problem["type"] == "missing"):
            continue
        keys.append(str(part))
    return keys


def _described(data: Any) -> str:  # noqa: ANN401
    text = repr(data)
    return "empty" if data is None else text if len(text) <= 60 else f"{text[:57]}..."


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys that are known where an unknown one was found: those of the model at `location` below `model`."""
    models = _models_in(model)
    for part in location:
        found: list[type[BaseModel]] = []
        for candidate in models:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                found += _models_in(field.annotation)
            elif candidate.__name__ == part or _tag(candidate) == part:
                found.append(candidate)
        models = found or models
    return {name for candidate in models for name in candidate.model_fields}


def _tag(model: type[BaseModel]) -> object:
    field = model.model_fields.get("kind")
    return field.default if field else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        annotation = annotation.model_fields["root"].annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def checked_name(name: object, file: Path | str) -> str:
    """`name`, which becomes part of a path; raises ConfigError where it is not safe in one."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{file}: {name!r} cannot be a name: use letters, digits, `.`, `_` and `-`, and begin with a letter or digit"
    )


@dataclass(frozen=True, slots=True)
class Written:
    """How a value is written, for the tables of config/README.md; stands in the value's type."""

    text: str
    unit: str = ""
    scale: float = 1.0
    """One `unit` in the base unit of the value."""


def _quantity(dimension: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, dimension), json_schema_input_type=str | float)


_POSITIVE: Final = Field(gt=0, allow_inf_nan=False)

Seconds = Annotated[float, _quantity("time"), _POSITIVE, Written("a duration: `500 ms`, `10 min`", "s")]
Pause = Annotated[float, _quantity("time"), Field(ge=0, allow_inf_nan=False), Written("a duration, or 0: `2 s`", "s")]
"""A time that may be none at all."""

Bytes = Annotated[float, _quantity("bytes"), _POSITIVE, Written("a size: `80 GiB`", "GiB", 2.0**30)]
Watts = Annotated[float, _quantity("power"), _POSITIVE, Written("a power: `700 W`", "W")]
FlopRate = Annotated[float, _quantity("flops"), _POSITIVE, Written("a rate: `989 TFLOP/s`", "TFLOP/s", 1e12)]
ByteRate = Annotated[float, _quantity("bandwidth"), _POSITIVE, Written("a bandwidth: `3.35 TB/s`", "TB/s", 1e12)]

_FLAG: Final = re.compile(r"[a-z][a-z0-9-]*(\.[A-Za-z0-9_.-]+)?")


def _flag_name(name: str) -> str:
    if not _FLAG.fullmatch(name):
        usual = name.lstrip("-").replace("_", "-")
        raise ValueError(f"flag {name!r}: write a flag by its long name, without `--` and with hyphens: `{usual}`")
    return name


def _no_negation(flags: dict[str, Any]) -> dict[str, Any]:
    for name, value in flags.items():
        if name.startswith("no-") and isinstance(value, bool):
            raise ValueError(f"flag {name!r}: write `{name.removeprefix('no-')}: {str(not value).lower()}`")
    return flags


def _writable(flags: dict[str, Any]) -> dict[str, Any]:
    for name, value in flags.items():
        try:
            canonical_json(value)
        except (ValueError, TypeError):
            raise ValueError(f"flag {name!r}: {value!r} cannot be written: numbers must be finite, keys text") from None
    return flags


FlagValue = bool | int | float | str | list[str | int | float] | dict[str, Any]
"""The value of a server's flag: true and false for a switch, a mapping for a flag that takes JSON."""

Flags = Annotated[
    dict[Annotated[str, AfterValidator(_flag_name)], FlagValue],
    AfterValidator(_no_negation),
    AfterValidator(_writable),
    Written("flag → true, false, number, text, list, or a mapping for JSON"),
]
"""Flags of a server by their one spelling, so that one server has one identity."""

_Variable = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value, json_schema_input_type=str | int),
]
Environment = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], _Variable], Written("variable → text")
]
"""Environment variables of a server."""

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SWITCH: Final = {"on": "on", "yes": "on", "true": "on", "off": "off", "no": "off", "false": "off"}


def level_name(value: Any) -> Any:  # noqa: ANN401 - whatever YAML made of it
    """A level as people type it: a bare `on` that some YAML readers take for true, a number, a string."""
    text = str(value).strip() if isinstance(value, bool | int | float | str) else None
    if text is None:
        return value
    if _NUMBER.fullmatch(text):
        number = float(text)
        return str(int(number)) if number.is_integer() else repr(number)
    return _SWITCH.get(text.lower(), text)


LevelName = Annotated[str, BeforeValidator(level_name, json_schema_input_type=str | float | bool), Written("level")]
