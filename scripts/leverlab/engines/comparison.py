"""Whether an engine's own word for a setting means what was asked for."""

import contextlib
from collections.abc import Mapping
from typing import Any, Final

_AUTOMATIC: Final = frozenset({"auto", None, -1})


def left_to_the_engine(intended: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether `intended` asks the engine to choose, so that it is expected to tell something else."""
    return not isinstance(intended, dict | list) and intended in _AUTOMATIC


def same(intended: Any, value: Any) -> bool:  # noqa: ANN401
    """Whether `value`, as the engine tells it, is what was asked for. Of a mapping only what was asked about counts."""
    if isinstance(intended, Mapping):
        return isinstance(value, Mapping) and all(
            key not in value or same(part, value[key]) for key, part in intended.items()
        )
    if isinstance(intended, list | tuple):
        return isinstance(value, list | tuple) and len(intended) == len(value) and all(map(same, intended, value))
    if isinstance(intended, bool) and (value is None or isinstance(value, Mapping)):
        # A switch that turns on a part of the configuration: `enable-lora`.
        return intended == (value is not None)
    return bool(_plain(intended) == _plain(value))


def _plain(value: Any) -> Any:  # noqa: ANN401
    """A value without what its writing adds: `torch.bfloat16` is bfloat16, `"1"` is 1, `1.0` is 1, `True` is true."""
    if isinstance(value, bool):
        return value
    text = str(value).removeprefix("torch.").rpartition(".")[2] if str(value).startswith("torch.") else str(value)
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    return number(lowered)


def number(text: str) -> Any:  # noqa: ANN401
    """`text` as an integer or a float, with or without `,` between thousands; as it is where it is neither."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text.replace(",", ""))
    return text


def shown(intended: Any, value: Any) -> Any:  # noqa: ANN401
    """What a difference shows of `value`: of a mapping only what was asked about."""
    if isinstance(intended, Mapping) and isinstance(value, Mapping):
        return {key: value.get(key) for key in intended}
    return value
