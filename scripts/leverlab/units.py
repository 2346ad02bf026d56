"""Quantities as people write them, and as people read them.

Inside the program everything is in seconds, bytes, watts, tokens; a unit stands only in files and on screen.
"""

import math
import re
from typing import Final

_SCALES: Final[dict[str, dict[str, float]]] = {
    "time": {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "bytes": {
        "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
    },
    "power": {"W": 1.0, "kW": 1e3},
    "flops": {"GFLOP/s": 1e9, "TFLOP/s": 1e12, "PFLOP/s": 1e15},
    "bandwidth": {"MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12, "GiB/s": 2.0**30},
}  # fmt: skip
_QUANTITY: Final = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*$")


def parse_quantity(text: str | float, dimension: str) -> float:
    """The value of `text` ("500 ms", "80 GiB", 0.5) in the base unit of `dimension`.

    `dimension` is one of time (s), bytes, power (W), flops (FLOP/s), bandwidth (B/s). A bare number is taken to be in
    the base unit already. Raises ValueError, naming the units that are known, for anything else.
    """
    scales = _SCALES[dimension]
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if match and (match[2] == "" or match[2] in scales):
        return float(match[1]) * (scales[match[2]] if match[2] else 1.0)
    raise ValueError(
        f"{text!r} is not a quantity of {dimension}: write a number and one of {', '.join(scales)}: `2 {list(scales)[-1]}`"
    )


def format_seconds(seconds: float) -> str:
    """A duration for a person: `850 µs`, `42 ms`, `3.1 s`, `12 min 05 s`, `3 h 20 min`."""
    magnitude = abs(seconds)
    if magnitude == 0 or not math.isfinite(seconds):
        return f"{seconds:.0f} s"
    if magnitude < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    if magnitude < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if magnitude < 59.95:
        return f"{seconds:.3g} s"
    total = round(magnitude)
    sign = "-" if seconds < 0 else ""
    if total < 3600:
        return f"{sign}{total // 60} min {total % 60:02d} s"
    return f"{sign}{total // 3600} h {total % 3600 // 60:02d} min"


def format_number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, thousands separated, without an exponent where one can do without."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if magnitude < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{float(f'{value:.{digits}g}'):g}"


def format_share(share: float, decimals: int = 0, *, signed: bool = False) -> str:
    """A share in percent with `decimals` digits after the point: `2 %`; with its sign where it is a change: `+2 %`, `−2 %`."""
    rounded = round(100 * share, decimals)
    sign = "−" if rounded < 0 else "" if not signed else "+" if rounded > 0 else "±"
    return format_percent(f"{sign}{abs(rounded):.{decimals}f}")


def format_percent(number: str) -> str:
    """A number of percent that is text already, as it is written everywhere: `97.5 %`."""
    return f"{number} %"
