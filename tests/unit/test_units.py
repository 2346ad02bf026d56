"""Quantities as people write and read them."""

import re

import pytest

from leverlab.units import format_number, format_seconds, format_share, parse_quantity
from tests.unit.repository import SOURCE


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("500 ms", "time", 0.5),
        ("500ms", "time", 0.5),
        ("2 min", "time", 120),
        ("3 µs", "time", 3e-6),
        (0.25, "time", 0.25),
        ("7", "time", 7),
        ("80 GiB", "bytes", 80 * 2**30),
        ("141 GB", "bytes", 141e9),
        ("1.5e3 kB", "bytes", 1.5e6),
        ("700 W", "power", 700),
        ("989 TFLOP/s", "flops", 989e12),
        ("3.35 TB/s", "bandwidth", 3.35e12),
    ],
)
def test_quantities_are_read_in_their_base_unit(text: str | float, dimension: str, value: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["500 mss", "", "ms", "5 GiB", "1,5 s", "five s", True, None, [1]])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a quantity of time: write a number and one of us, µs, ms, s, min, h"):
        parse_quantity(text, "time")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (8.5e-7, "0.85 µs"),
        (850e-6, "850 µs"),
        (0.9999e-3, "1 ms"),
        (0.042, "42 ms"),
        (0.9996, "1 s"),
        (-0.0421, "-42.1 ms"),
        (3.14159, "3.14 s"),
        (59.97, "1 min 00 s"),
        (725, "12 min 05 s"),
        (12_000, "3 h 20 min"),
        (-3600, "-1 h 00 min"),
        (float("inf"), "inf s"),
        (float("nan"), "nan s"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (123.4, "123"),
        (12.34, "12.3"),
        (0.012345, "0.0123"),
        (-2.5, "-2.5"),
        (0.00001234, "1.23e-05"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_written_without_an_exponent_where_one_can_do_without(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("share", "decimals", "signed", "text"),
    [
        (0.02, 0, False, "2 %"), (0.0249, 1, False, "2.5 %"), (1.0, 0, False, "100 %"), (0.2, 0, True, "+20 %"),
        (-0.0249, 1, True, "−2.5 %"), (-0.02, 0, False, "−2 %"), (-0.001, 0, False, "0 %"), (0.001, 0, True, "±0 %"),
    ],
)  # fmt: skip
def test_a_share_is_shown_in_percent(share: float, decimals: int, signed: bool, text: str) -> None:
    assert format_share(share, decimals, signed=signed) == text


def test_no_other_place_writes_percent() -> None:
    others = [
        f"{path.name}:{number}"
        for path in sorted((SOURCE / "scripts" / "leverlab").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"\.\d%\}", line)
    ]
    assert not others, "use leverlab.units.format_share"
