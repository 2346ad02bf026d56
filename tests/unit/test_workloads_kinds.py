"""What each kind of workload draws: what its prompts share, how long they are, when they arrive."""

import hashlib
import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from leverlab.load.plan import read_requests
from leverlab.workloads import draw
from leverlab.workloads.lengths import COUNTS, OUTPUT_EDGES, PROMPT_EDGES, sharegpt_lengths
from leverlab.workloads.sharegpt import ShareGptError
from leverlab.workloads.stream import Stream
from tests.unit.drawn_workloads import drawn, identity_of


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


def test_mixed_prompts_are_long_and_short_in_the_share_asked_for(model_folder: Path, tmp_path: Path) -> None:
    draw(identity_of("mixed-long-short"), 5, model_folder, tmp_path, None)
    requests, _ = drawn(tmp_path)
    assert sorted(request["prompt_tokens"] for request in requests) == [16] * 18 + [512] * 2
    assert all(request["group"] == ("long" if request["prompt_tokens"] == 512 else "short") for request in requests)


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
