"""Ids: what they depend on, what they do not, and that they are safe in a path and a URL."""

import re
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leverlab.config.base import StrictModel
from leverlab.identity import (
    MAXIMUM_ID_LENGTH,
    canonical,
    canonical_json,
    content_hash,
    joined,
    make_id,
    seed_from,
    slug,
    slug_of,
)
from leverlab.load_point import LoadPoint, parse_load_point

SAFE = re.compile(r"[a-z0-9][a-z0-9._-]*")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_the_order_of_keys_does_not_matter_and_canonical_is_stable(value: Any) -> None:
    assert canonical_json(value) == canonical_json(reversed_keys(value))
    assert canonical_json(canonical(value)) == canonical_json(value)


@given(values, values)
def test_equal_hashes_mean_equal_values(one: Any, other: Any) -> None:
    assert (content_hash(one) == content_hash(other)) == (canonical_json(one) == canonical_json(other))


def test_numbers_are_equal_where_they_are_and_switches_are_no_numbers() -> None:
    assert content_hash({"rate": 4}) == content_hash({"rate": 4.0}) != content_hash({"rate": 4.5})
    assert content_hash({"rate": 1}) != content_hash({"rate": True}) != content_hash({"rate": "1"})
    assert content_hash((1, 2)) == content_hash([1, 2]) != content_hash([2, 1])
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"rate": float("nan")})


def test_hashes_are_pinned() -> None:
    """These are the names of folders that hold measurements: they never change."""
    assert content_hash({"b": [1, 2.0, "ü"], "a": {"x": None, "y": True}}) == "721c353b58"
    assert seed_from("workload", "x", "r1") == 6445974547787173346
    assert make_id(["vllm-cpu", "Tiny Llama", "cpu"], {"a": 1}) == "vllm-cpu_tiny-llama_cpu-015abd7f5c"


@given(st.lists(st.text(max_size=80), min_size=1, max_size=8), values)
def test_ids_are_safe_and_short_whatever_the_parts(parts: list[str], identity: Any) -> None:
    identifier = make_id(["vllm", *parts], identity)
    assert len(identifier) <= MAXIMUM_ID_LENGTH
    assert SAFE.fullmatch(identifier)
    assert identifier.endswith(f"-{content_hash(identity)}")
    assert slug_of(identifier) == joined(["vllm", *parts], MAXIMUM_ID_LENGTH - 11)


def test_a_part_that_does_not_fit_is_left_out_whole_and_shorter_ones_follow() -> None:
    assert joined(["vllm", "x" * 30, "short"], 20) == "vllm_short"
    assert joined(["a" * 30, "b"], 20) == "a" * 20


def test_slugs_fold_what_a_path_cannot_hold() -> None:
    assert slug("Meta-Llama/Llama 3.1 (8B) +Ω") == "meta-llama-llama-3.1-8b"
    assert slug("../..") == ""


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_a_load_point_is_read_as_it_is_written(rate: float) -> None:
    point = LoadPoint("rate", rate)
    assert parse_load_point(str(point)) == point
    assert SAFE.fullmatch(point.slug.lower())


def test_load_points_by_name() -> None:
    assert {str(parse_load_point(text)) for text in ("burst", "inf", "rate inf")} == {"burst"}
    assert str(LoadPoint("rate", 1e6)) == "rate 1000000"
    assert str(LoadPoint("rate", 0.5)) == "rate 0.5"
    assert str(LoadPoint("concurrency", 8.0)) == "concurrency 8"
    for text in ("rate", "rate 0", "rate -1", "4", "rate nan", "burst 3"):
        with pytest.raises(ValueError, match=r"load point|must be positive"):
            parse_load_point(text)


def test_a_key_at_its_default_is_no_part_of_an_identity() -> None:
    """So that a key which a later version adds changes no id."""

    class Entry(StrictModel):
        kind: Literal["plain"] = "plain"
        size: int
        added_later: int = 3
        path: str = "here"

    assert Entry(size=1).identity() == Entry(size=1, added_later=3).identity() == {"kind": "plain", "size": 1}
    assert Entry(size=1, added_later=4, path="there").identity("path") == {"kind": "plain", "size": 1, "added_later": 4}
