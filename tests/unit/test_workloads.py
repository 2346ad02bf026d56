"""Drawn workloads: the same bytes everywhere, exact lengths, the sharing that was asked for and no other."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tokenizers import Tokenizer

from leverlab.config.workload import Workload
from leverlab.models.synthetic import synthetic_files
from leverlab.workloads import draw
from leverlab.workloads.card import ideal_hits
from leverlab.workloads.misses import near_miss
from leverlab.workloads.prompts import Words
from leverlab.workloads.stream import Stream
from tests.unit.drawn_workloads import KINDS, SHAPE, drawn, identity_of

GOLDEN = {
    "shared-prefix": "6e7593a0768f66f033b8866bddf56de923ad4643873c37b8791baf6e1894a80c",
    "random": "20e8a4e356b876da9d9dbfefd5ac19ecf90ae05095cc6d9e3d777b560c474b57",
    "sharegpt-shaped": "a865f2baa372fcafa7db419ad6ecf52e1c473f97df05a47d4a38f759077ba0c7",
    "mixed-long-short": "8e1c61e097d985c573928293489f1b37f1604564143bb39149037e82a94af324",
    "multi-turn": "41d1b7d8fbc9785b8cd91640c47e246ece32cc27144ac19bcdd47db3d16c9e4e",
    "agent-loop": "a1525fb4181a860269d2b8681b066cc247bc47e365ce5c22b828a720c93964ef",
    "retrieval": "8685c1041f4460763a489b7925eaa6e7f0a566a106a7fb7b4a689f1f5ba54c2d",
    "near-miss": "0ac9887ba37408367d9595c83c5da2ef7df58ab8efedf134af57d5ea8601a18c",
    "branches": "82fab637e9be93857324a1c63cc6318d606cc5ed8dbad189796dff0798e9c15c",
    "interactive-batch": "3fe6f6d30de7c299ea1074ec7b4471017eaf2917aa96d7abe94e737abea24412",
    "variable-output": "78857a483b3fa4bd0e60d532ef15df2cb90ae340e09cd8f32cf31e57c9fa0da6",
}
"""SHA-256 of requests.jsonl. If it changes, raise leverlab.DRAWING_VERSION: drawn files would no longer be
those that were measured."""


CARDS = {
    "shared-prefix": "e376c17df668d2a4c4bb05acb7fc4329c5de19ccf21142d70e3865eb0c3fd16a",
    "random": "4aceae6a3b8caccb180578a1877e50403ec0166be18d5de11453893d17816270",
    "sharegpt-shaped": "a09319e539a7d2ade5ebe90a6d1b6c42486c13913fc382c68d509ab7b12c86d2",
    "mixed-long-short": "bdf7952d811730c52c5c075fcc5e565a56f3e12ba1ea9ea4d1d95b8861d32690",
}
"""SHA-256 of card.json, of the kinds that were there from the first."""


WAITING = ("multi-turn", "agent-loop", "branches")


LINE = {"index", "prompt", "prompt_tokens", "output_tokens", "arrival_unit_s", "group"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_identity_and_seed_give_the_same_bytes_on_every_machine(
    kind: str, model_folder: Path, tmp_path: Path
) -> None:
    draw(identity_of(kind), 7, model_folder, tmp_path, None)
    content = (tmp_path / "requests.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest() == GOLDEN[kind]
    card = hashlib.sha256((tmp_path / "card.json").read_bytes()).hexdigest()
    assert card == CARDS.get(kind, card)
    draw(identity_of(kind), 8, model_folder, tmp_path, None)
    assert (tmp_path / "requests.jsonl").read_bytes() != content


@pytest.mark.parametrize("kind", KINDS)
def test_token_counts_are_exact_and_lines_complete(kind: str, model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of(kind), 1, model_folder, tmp_path, None)
    requests, card = drawn(tmp_path)
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    assert [request["index"] for request in requests] == list(range(KINDS[kind]["requests"]))
    for request in requests:
        more = {"joins"} if request.get("joins") else set()
        more |= {"after", "pause_s"} if kind in WAITING else {"priority"} if kind == "interactive-batch" else set()
        assert set(request) == LINE | more
        assert len(tokenizer.encode(request["prompt"]).ids) == request["prompt_tokens"]
    assert card["prompt_tokens"]["total"] == sum(request["prompt_tokens"] for request in requests)
    assert card["output_tokens"]["total"] == sum(request["output_tokens"] for request in requests)
    assert sum(card["prompt_tokens"]["histogram"]["counts"]) == len(requests)


def test_a_tokenizer_that_begins_every_text_is_counted_in(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    content = json.loads((model_folder / "tokenizer.json").read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    draw(identity_of("random", spread=0), 1, folder, tmp_path / "drawn", None)
    requests, _ = drawn(tmp_path / "drawn")
    assert {request["prompt_tokens"] for request in requests} == {64}
    assert {len(request["prompt"].split()) for request in requests} == {63}


def test_arrivals_are_poisson_at_rate_one_and_lengths_the_same_for_every_tokenizer(
    tmp_path: Path, model_folder: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name, content in synthetic_files(SHAPE, 12_000).items():
        (other / name).write_bytes(content)
    for name, folder in (("a", model_folder), ("b", other)):
        draw(identity_of("random", requests=400), 3, folder, tmp_path / name, None)
    first, card = drawn(tmp_path / "a")
    second, _ = drawn(tmp_path / "b")
    same = ("prompt_tokens", "output_tokens", "arrival_unit_s")
    assert [[request[key] for key in same] for request in first] == [
        [request[key] for key in same] for request in second
    ]
    assert first[0]["prompt"] != second[0]["prompt"]
    times = [request["arrival_unit_s"] for request in first]
    assert times == sorted(times) and times[0] > 0
    assert 0.85 < card["arrivals"]["mean_gap_s"] < 1.15 and 0.85 < card["arrivals"]["variation_of_gaps"] < 1.15
    assert times[-1] != pytest.approx(400, abs=1e-3), "the process is not stretched to end at n / rate"


@pytest.mark.parametrize("kind", [*WAITING, "retrieval", "near-miss", "variable-output"])
def test_everything_but_the_words_is_the_same_for_every_model(kind: str, tmp_path: Path, model_folder: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name, content in synthetic_files(SHAPE, 12_000).items():
        (other / name).write_bytes(content)
    for name, folder in (("a", model_folder), ("b", other)):
        draw(identity_of(kind), 3, folder, tmp_path / name, None)
    (first, card), (second, other_card) = drawn(tmp_path / "a"), drawn(tmp_path / "b")
    bare = [[{key: value for key, value in one.items() if key != "prompt"} for one in many] for many in (first, second)]
    assert bare[0] == bare[1] and first[0]["prompt"] != second[0]["prompt"]
    same = ("expected_prefix_hit_ratio", "arrivals", "prompt_tokens", "output_tokens")
    assert [card.get(key) for key in (*same, "sharing")] == [other_card.get(key) for key in (*same, "sharing")]


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("multi-turn", {"requests": 13}, "must be a multiple of turns"),
        ("agent-loop", {"steps": 3}, "must be a multiple of steps"),
        ("retrieval", {"chunks": 1}, "two chunks or more"),
        ("near-miss", {"changed_token": 201}, "beyond prefix_tokens"),
        ("near-miss", {"groups": 13}, "more groups"),
        ("variable-output", {"outputs": []}, "at least 1 item"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(kind: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        identity_of(kind, **change)


def test_a_tokenizer_that_makes_the_changed_token_itself_is_named() -> None:
    words = Words([f"{one}{two}" for one in "bcdfgk" for two in "aeiou"], 2)
    workload = TypeAdapter(Workload).validate_python({"kind": "near-miss", **KINDS["near-miss"], "changed_token": 2})
    with pytest.raises(ValueError, match="adds the first 2 tokens itself"):
        near_miss(workload, Stream(1, "lengths"), Stream(1, "words"), words)
    with pytest.raises(ValueError, match="31 different words are asked for, and 30"):
        words.distinct(Stream(1, "words"), 31)


def test_more_prompts_than_words_begin_with_different_pairs() -> None:
    words = Words(["ba", "be", "bi"], 0)
    runs = words.distinct_runs(Stream(1, "words"), [4] * 9)
    assert len({tuple(run[:2]) for run in runs}) == 9
    with pytest.raises(ValueError, match="cannot all begin differently"):
        words.distinct_runs(Stream(1, "words"), [1] * 4)
    with pytest.raises(ValueError, match="no room"):
        Words(["ba"], 2).words_in(2)


def test_an_ideal_cache_never_serves_the_last_token_and_finds_whole_blocks() -> None:
    assert ideal_hits([[1, 2, 3, 4], [1, 2, 3, 4]], 4) == 0
    assert ideal_hits([[1, 2, 3, 4], [1, 2, 3, 4, 5]], 4) == 4
    assert ideal_hits([[1, 2, 3, 4], [1, 2, 3, 4]], 1) == 3
    assert ideal_hits([[1, 2, 3, 4, 9], [5, 2, 3, 4, 9]], 1) == 0, "equal tokens after a different start are no hit"


def test_streams_are_even_independent_and_stable() -> None:
    pinned = Stream(1, "a")
    assert [pinned.below(10**9) for _ in range(3)] == [190035768, 808558646, 332625863]
    assert [pinned.exponential_ns() for _ in range(3)] == [370006346, 24514598, 818499419]
    stream, other = Stream(1, "a"), Stream(1, "b")
    assert [stream.below(10**9) for _ in range(4)] != [other.below(10**9) for _ in range(4)]
    counts = [0] * 6
    for _ in range(6000):
        counts[stream.below(6)] += 1
    assert all(850 < count < 1150 for count in counts)
    assert sorted(stream.distinct(50, 50)) == list(range(50))
    assert sorted(stream.shuffled(range(100))) == list(range(100))
    assert [Stream(3, "weights").weighted([0, 5, 0]) for _ in range(3)] == [1, 1, 1]


def test_a_workload_of_another_drawing_version_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drawn by version 99"):
        draw({**identity_of("random"), "drawing_version": 99}, 1, model_folder, tmp_path, None)
