"""How a quantity's value is read on screen."""

from leverlab.quantities import Quantity
from leverlab.units import format_number, format_percent, format_seconds

_SCALES = {
    "bytes": (2.0**30, "GiB"), "bytes/s": (1e9, "GB/s"), "FLOP/s": (1e12, "TFLOP/s"),
}  # fmt: skip
"""Unit → what it is divided by, and the unit that is shown."""


def shown(quantity: Quantity, value: float) -> str:
    """The value with its unit: `3.13 ms`, `15 GiB`, `206 FLOP/byte`, `87 %`; counts of weights in billions."""
    if quantity.unit == "s":
        return format_seconds(value)
    if quantity.name.endswith("_ratio"):
        return format_percent(format_number(100 * value))
    if quantity.name.endswith("parameters"):
        return f"{value / 1e9:.3g} billion"
    if quantity.unit == "bytes" and value < 1e9:
        return f"{format_number(value / 1e6)} MB"
    scale, unit = _SCALES.get(quantity.unit, (1.0, "" if quantity.unit in ("1", "price") else quantity.unit))
    return f"{format_number(value / scale)} {unit}".strip()
