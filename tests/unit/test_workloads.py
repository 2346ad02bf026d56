"""Drawn workloads: the same bytes everywhere, exact lengths, the sharing that was asked for and no other."""

import hashlib
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tokenizers import Tokenizer

from leverlab import DRAWING_VERSION
from leverlab.config.workload import Workload
from leverlab.identity import canonical
from leverlab.load.plan import read_requests
from leverlab.models.synthetic import synthetic_files
from leverlab.workloads import draw
from leverlab.workloads.card import ideal_hits
from leverlab.workloads.lengths import COUNTS, OUTPUT_EDGES, PROMPT_EDGES, sharegpt_lengths
from leverlab.workloads.misses import near_miss
from leverlab.workloads.prompts import Words
from leverlab.workloads.sharegpt import ShareGptError
from leverlab.workloads.stream import Stream

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
KINDS: dict[str, dict[str, Any]] = {
    "shared-prefix": {"requests": 12, "groups": 3, "prefix_tokens": 200, "suffix_tokens": 24, "output_tokens": 8},
    "random": {"requests": 40, "prompt_tokens": 64, "output_tokens": 16, "spread": 0.5},
    "sharegpt-shaped": {"requests": 30},
    "mixed-long-short": {"requests": 20, "short_tokens": 16, "long_tokens": 512, "long_share": 0.1, "output_tokens": 4},
    "multi-turn": {
        "requests": 12,
        "turns": 4,
        "system_tokens": 48,
        "message_tokens": 20,
        "output_tokens": 12,
        "think_time": 2.0,
    },
    "agent-loop": {
        "requests": 10,
        "steps": 5,
        "prefix_tokens": 160,
        "task_tokens": 16,
        "result_tokens": 32,
        "output_tokens": 8,
    },
    "retrieval": {
        "requests": 16,
        "instruction_tokens": 16,
        "chunks": 4,
        "chunk_tokens": 64,
        "question_tokens": 12,
        "output_tokens": 8,
        "repeated_share": 0.5,
    },
    "near-miss": {
        "requests": 12,
        "groups": 3,
        "prefix_tokens": 200,
        "changed_token": 40,
        "suffix_tokens": 24,
        "output_tokens": 8,
    },
    "variable-output": {"requests": 20, "prompt_tokens": 64, "outputs": [16, 32, 64, 256, 512]},
    "branches": {
        "requests": 10,
        "branches": 3,
        "prefix_tokens": 100,
        "task_tokens": 60,
        "branch_tokens": 12,
        "join_tokens": 9,
        "output_tokens": 8,
    },
    "interactive-batch": {
        "requests": 20,
        "interactive_share": 0.25,
        "interactive_prompt_tokens": 16,
        "interactive_output_tokens": 4,
        "batch_prompt_tokens": 200,
        "batch_output_tokens": 32,
    },
}
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


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for name, content in synthetic_files(SHAPE, 10_000).items():
        (folder / name).write_bytes(content)
    return folder


def identity_of(kind: str, **changes: Any) -> dict[str, Any]:
    workload = TypeAdapter(Workload).validate_python({"kind": kind, **KINDS.get(kind, {}), **changes}).model_dump()
    return canonical({"drawing_version": DRAWING_VERSION, "workload": workload, "tokenizer": {"name": "tiny"}})


def drawn(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "card.json").read_text())


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


def test_shared_prefixes_share_exactly_the_prefix(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("shared-prefix"), 5, model_folder, tmp_path, None)
    requests, card = drawn(tmp_path)
    assert card["groups"] == {"0": 4, "1": 4, "2": 4}
    for one in requests:
        for other in requests[: one["index"]]:
            shared = common_words(one["prompt"], other["prompt"])
            assert shared == (200 if one["group"] == other["group"] else 0)
    # 9 of 12 requests find their group's prefix: 200 tokens, of which 192 fill blocks of 16 and 128 a block of 128.
    assert card["expected_prefix_hit_ratio"] == {
        size: pytest.approx(9 * tokens / (12 * 224), abs=1e-6)
        for size, tokens in (("1", 200), ("16", 192), ("128", 128))
    }


def common_words(one: str, other: str) -> int:
    count = 0
    for left, right in zip(one.split(), other.split(), strict=False):
        if left != right:
            break
        count += 1
    return count


@pytest.mark.parametrize("kind", ["random", "sharegpt-shaped", "mixed-long-short", "variable-output"])
def test_prompts_share_nothing(kind: str, model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of(kind), 5, model_folder, tmp_path, None)
    requests, card = drawn(tmp_path)
    assert card["groups"] == {}
    assert len({request["prompt"].split()[0] for request in requests}) == len(requests)
    assert set(card["expected_prefix_hit_ratio"].values()) == {0}


@pytest.mark.parametrize(
    ("kind", "rounds", "common", "first", "more"), [("multi-turn", 4, 48, 20, 32), ("agent-loop", 5, 160, 16, 40)]
)
def test_a_conversation_goes_on_from_its_own_prompt(
    kind: str, rounds: int, common: int, first: int, more: int, model_folder: Path, tmp_path: Path
) -> None:
    draw(identity_of(kind), 5, model_folder, tmp_path, None)
    requests, card = drawn(tmp_path)
    for request in requests:
        position = request["index"] % rounds
        assert request["prompt_tokens"] == common + first + position * more
        before = requests[request["index"] - 1]
        if not position:
            assert request["after"] is None and request["pause_s"] == 0
            continue
        assert request["after"] == before["index"] and request["group"] == before["group"]
        assert request["arrival_unit_s"] == before["arrival_unit_s"]
        assert request["prompt"].startswith(before["prompt"] + " ")
        assert (request["pause_s"] > 0) == (kind == "multi-turn")
    for one, other in zip(requests, requests[rounds:], strict=False):
        assert common_words(one["prompt"], other["prompt"]) == common
    # All of a prompt but what was said last, and but the common beginning of the first conversation, was in an earlier one.
    conversations = len(requests) // rounds
    shared = (conversations - 1) * common + sum(
        conversations * (common + first + position * more) for position in range(rounds - 1)
    )
    total = sum(request["prompt_tokens"] for request in requests)
    assert card["expected_prefix_hit_ratio"]["1"] == pytest.approx(shared / total, abs=1e-6)
    assert f"all begin with the same {common} tokens" in card["sharing"]


def test_conversations_arrive_so_that_requests_come_at_rate_one(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("multi-turn", requests=800, think_time="3 s"), 3, model_folder, tmp_path, None)
    requests, card = drawn(tmp_path)
    starts = [request["arrival_unit_s"] for request in requests if request["after"] is None]
    assert len(starts) == 200 and starts == sorted(starts)
    assert 0.85 < starts[-1] / 800 < 1.15 and card["arrivals"]["last_s"] == pytest.approx(starts[-1], abs=1e-6)
    pauses = [request["pause_s"] for request in requests if request["after"] is not None]
    assert 0.9 < sum(pauses) / len(pauses) / 3 < 1.1


def test_repeated_chunks_stand_elsewhere_and_are_not_found(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("retrieval"), 5, model_folder, tmp_path, None)
    requests, card = drawn(tmp_path)
    places: dict[str, list[int]] = {}
    for request in requests:
        words = request["prompt"].split()[16:-12]
        for place in range(4):
            places.setdefault(" ".join(words[64 * place : 64 * place + 64]), []).append(place)
    assert all(len(set(stood)) == len(stood) for stood in places.values()), "no chunk twice at one position"
    repeated = sum(len(stood) - 1 for stood in places.values())
    # Two of four in every prompt but the first, and but those for which no earlier chunk was left.
    assert 24 <= repeated <= 30 and f"{repeated} of 64 chunks stood in an earlier prompt" in card["sharing"]
    total = sum(request["prompt_tokens"] for request in requests)
    assert card["expected_prefix_hit_ratio"]["1"] == pytest.approx(15 * 16 / total, abs=1e-6), "the instruction alone"


def test_a_near_miss_shares_what_stands_before_the_changed_token(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("near-miss"), 5, model_folder, tmp_path, None)
    requests, card = drawn(tmp_path)
    for one in requests:
        for other in requests[: one["index"]]:
            left, right = one["prompt"].split()[:200], other["prompt"].split()[:200]
            differing = [at for at in range(200) if left[at] != right[at]]
            assert (differing == [39]) == (one["group"] == other["group"])
            assert left[39] != right[39]
    assert card["expected_prefix_hit_ratio"]["1"] == pytest.approx(9 * 39 / (12 * 224), abs=1e-6)
    assert card["expected_prefix_hit_ratio"]["128"] == 0, "not one whole block"


def test_output_lengths_occur_equally_often_and_have_the_mean_of_the_list(model_folder: Path, tmp_path: Path) -> None:
    for name, outputs in (("variable", [16, 32, 64, 256, 512]), ("uniform", [176])):
        draw(identity_of("variable-output", outputs=outputs), 5, model_folder, tmp_path / name, None)
    requests, card = drawn(tmp_path / "variable")
    lengths = [request["output_tokens"] for request in requests]
    assert sorted(lengths) == sorted([16, 32, 64, 256, 512] * 4) and lengths != sorted(lengths)
    assert card["output_tokens"]["total"] == drawn(tmp_path / "uniform")[1]["output_tokens"]["total"]


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


def test_mixed_prompts_are_long_and_short_in_the_share_asked_for(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("mixed-long-short"), 5, model_folder, tmp_path, None)
    requests, _ = drawn(tmp_path)
    assert sorted(request["prompt_tokens"] for request in requests) == [16] * 18 + [512] * 2
    assert all(request["group"] == ("long" if request["prompt_tokens"] == 512 else "short") for request in requests)


def test_an_ideal_cache_never_serves_the_last_token_and_finds_whole_blocks() -> None:
    assert ideal_hits([[1, 2, 3, 4], [1, 2, 3, 4]], 4) == 0
    assert ideal_hits([[1, 2, 3, 4], [1, 2, 3, 4, 5]], 4) == 4
    assert ideal_hits([[1, 2, 3, 4], [1, 2, 3, 4]], 1) == 3
    assert ideal_hits([[1, 2, 3, 4, 9], [5, 2, 3, 4, 9]], 1) == 0, "equal tokens after a different start are no hit"


def test_sharegpt_shaped_lengths_follow_the_table() -> None:
    assert sum(map(sum, COUNTS)) == 15_585
    assert all(low < high for edges in (PROMPT_EDGES, OUTPUT_EDGES) for low, high in pairwise(edges))
    pairs = sharegpt_lengths(Stream(1, "lengths"), 20_000, 1024, 2048)
    prompts, outputs = [prompt for prompt, _ in pairs], [output for _, output in pairs]
    # Means and quantiles of the file itself: 223 and 206; medians 105 and 135; 90 % below 620 and 504.
    assert sum(prompts) / len(prompts) == pytest.approx(223, rel=0.04)
    assert sum(outputs) / len(outputs) == pytest.approx(206, rel=0.04)
    assert sorted(prompts)[10_000] == pytest.approx(105, rel=0.05)
    assert sorted(outputs)[18_000] == pytest.approx(504, rel=0.05)
    assert max(prompts) <= 1024 and max(map(sum, pairs)) <= 2048
    long_prompts = [output for prompt, output in pairs if prompt > 436]
    assert sum(long_prompts) / len(long_prompts) < 150, "the longer the prompt, the shorter the answer"


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


@cache
def sharegpt_content() -> bytes:
    conversations = [
        {
            "id": f"c{number}",
            "conversations": [
                {"from": "human", "value": "tell me of " + "bado " * number},
                {"from": "gpt", "value": "kife " * 9},
            ],
        }
        for number in range(1, 40)
    ]
    conversations += [
        {"id": "one", "conversations": [{"from": "human", "value": "alone " * 9}]},
        {"id": "none", "conversations": []},
    ]
    conversations += [
        {"id": "short", "conversations": [{"from": "human", "value": "tell me of it"}, {"from": "gpt", "value": "no"}]}
    ]
    return json.dumps(conversations).encode()


def test_sharegpt_takes_first_two_turns_within_limits(model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "sharegpt.json"
    file.write_bytes(sharegpt_content())
    sha256 = hashlib.sha256(sharegpt_content()).hexdigest()
    identity = identity_of("sharegpt", requests=10, maximum_prompt_tokens=40, sha256=sha256)
    draw(identity, 1, model_folder, tmp_path / "drawn", file)
    requests, _ = drawn(tmp_path / "drawn")
    assert len({request["prompt"] for request in requests}) == 10
    assert all(request["prompt"].startswith("tell me of bado") for request in requests)
    assert all(4 <= request["prompt_tokens"] <= 40 for request in requests)
    with pytest.raises(ShareGptError, match="only 39 of 40 conversations pass"):
        draw(identity_of("sharegpt", requests=50, sha256=sha256), 1, model_folder, tmp_path / "drawn", file)


def test_sharegpt_says_what_is_wrong_with_the_file(model_folder: Path, tmp_path: Path) -> None:
    def attempt(path: Path | None, sha256: str | None = None) -> None:
        digest = sha256 or hashlib.sha256(path.read_bytes() if path and path.is_file() else b"").hexdigest()
        draw(identity_of("sharegpt", requests=1, sha256=digest), 1, model_folder, tmp_path / "drawn", path)

    with pytest.raises(ShareGptError, match="give `--config sharegpt_path=FILE`"):
        attempt(None)
    with pytest.raises(ShareGptError, match="cannot be read: No such file"):
        attempt(tmp_path / "absent.json")
    file = tmp_path / "other.json"
    file.write_text('{"conversations": []}')
    with pytest.raises(ShareGptError, match=r"its SHA-256 is .* and the workload asks for 0000"):
        attempt(file, "0" * 64)
    with pytest.raises(ShareGptError, match=r"not a list of \{conversations"):
        attempt(file)
    assert not (tmp_path / "drawn").exists()


def test_a_workload_of_another_drawing_version_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drawn by version 99"):
        draw({**identity_of("random"), "drawing_version": 99}, 1, model_folder, tmp_path, None)


def test_each_request_of_two_classes_has_its_lengths_and_its_priority(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("interactive-batch"), 7, model_folder, tmp_path, None)
    lines, _ = drawn(tmp_path)
    seen = [(line["group"], line["priority"], line["prompt_tokens"], line["output_tokens"]) for line in lines]
    assert sorted(set(seen)) == [("batch", 1, 200, 32), ("interactive", 0, 16, 4)]
    assert [group for group, *_ in seen].count("interactive") == 5
    assert len({line["prompt"].split()[0] for line in lines}) == 20
    planned = read_requests(tmp_path / "requests.jsonl")
    assert [request.priority for request in planned] == [line["priority"] for line in lines]


def test_branches_go_on_from_one_text_and_are_joined(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("branches"), 7, model_folder, tmp_path, None)
    lines, card = drawn(tmp_path)
    assert [line["after"] for line in lines] == [None, 0, 0, 0, 3, None, 5, 5, 5, 8]
    assert [line.get("joins") for line in lines] == [*[None] * 4, [1, 2, 3], *[None] * 4, [6, 7, 8]]
    assert [line["prompt_tokens"] for line in lines[:5]] == [160, 180, 180, 180, 201]
    first, *branches, last = [line["prompt"].split() for line in lines[:5]]
    for prompt in (*branches, last):
        assert prompt[: len(first)] == first
    fork = len(first) + 8
    assert len({tuple(prompt[:fork]) for prompt in (*branches, last)}) == 1
    assert len({prompt[fork] for prompt in branches}) == 3, "each asks something else from the first word on"
    assert lines[0]["prompt"].split()[:99] == lines[5]["prompt"].split()[:99]
    # Of the second program the instructions, and of each what its later requests share.
    assert card["expected_prefix_hit_ratio"]["1"] > 0.7
    assert read_requests(tmp_path / "requests.jsonl")[4].joins == (1, 2, 3)
