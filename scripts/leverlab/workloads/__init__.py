"""Workloads: prompts, output lengths and unit-rate arrivals, drawn from a seed into a file that every server replays.

The same identity and seed give the same bytes on every machine. Lengths and arrivals do not depend on the tokenizer, so
that models with different ones get the same load.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from tokenizers import Tokenizer

from leverlab import DRAWING_VERSION
from leverlab.config.workload import (
    AgentLoop,
    Branches,
    Composed,
    InteractiveBatch,
    MixedLongShort,
    MultiTurn,
    NearMiss,
    Random,
    Retrieval,
    SharedPrefix,
    ShareGpt,
    ShareGptShaped,
    VariableOutput,
    Workload,
    adapters_of,
)
from leverlab.layout import CARD_FILE, REQUESTS_FILE
from leverlab.models.adapters import adapter_names
from leverlab.models.words import added_tokens, word_tokens
from leverlab.records import write_bytes, write_json
from leverlab.workloads.branches import branches
from leverlab.workloads.card import make_card
from leverlab.workloads.conversations import conversations
from leverlab.workloads.drawn import Drawing, DrawnRequest
from leverlab.workloads.lengths import sharegpt_lengths
from leverlab.workloads.misses import near_miss, retrieval
from leverlab.workloads.prompts import Words
from leverlab.workloads.sharegpt import draw_pairs, read_pairs
from leverlab.workloads.stream import Stream

__all__ = ["draw"]


def draw(identity: Mapping[str, Any], seed: int, model_folder: Path, folder: Path, sharegpt_path: Path | None) -> None:
    """Write requests.jsonl and card.json into `folder`, each by rename.

    `identity` is that of a drawn workload (`matrix.cells.WorkloadFile`), `model_folder` holds the model's tokenizer.json.
    Each line of requests.jsonl has index, prompt, prompt_tokens (what the tokenizer adds included), output_tokens,
    arrival_unit_s (divided by a rate, the time of sending) and group (None where prompts have none). In conversations also
    after (the index of the request that it waits for, None for the first) and pause_s (from its end to when this one is due);
    arrival_unit_s is then that of the conversation. A request that waits for several has joins, their
    indices. A request of a class has priority, and one of a LoRA adapter its name as adapter.

    Raises ValueError where the workload cannot be drawn with this tokenizer, where `sharegpt_path` is not the file that
    the workload asks for, or where a prompt does not have the tokens that it should.
    """
    if identity["drawing_version"] != DRAWING_VERSION:
        raise ValueError(
            f"this workload was drawn by version {identity['drawing_version']} of the drawing, and this is "
            f"{DRAWING_VERSION}: use the leverlab that drew it"
        )
    tokenizer_path = model_folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.no_truncation()
    workload: Workload = TypeAdapter(Workload).validate_python(dict(identity["workload"]))
    if isinstance(workload, ShareGpt):
        drawn = draw_pairs(
            Stream(seed, "prompts"),
            read_pairs(sharegpt_path, workload.sha256),
            tokenizer,
            workload.requests,
            workload.maximum_prompt_tokens,
            workload.maximum_total_tokens,
        )
        drawing = Drawing([DrawnRequest(*each) for each in drawn])
    else:
        drawing = _compose(workload, seed, Words(word_tokens(tokenizer_path), added_tokens(tokenizer_path)))
    requests = _with_adapters(drawing.requests, adapters_of(workload), Stream(seed, "adapters"))
    prompts = [encoding.ids for encoding in tokenizer.encode_batch([request.prompt for request in requests])]
    for number, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        if len(prompt) != request.prompt_tokens:
            raise ValueError(
                f"{tokenizer_path}: prompt {number} has {len(prompt)} tokens and should have {request.prompt_tokens}: "
                f"this tokenizer merges words that stand alone elsewhere"
            )
    arrivals_ns = _arrivals_ns(seed, len(requests) // drawing.rounds, drawing.rounds)
    times_ns = [arrivals_ns[index // drawing.rounds] for index in range(len(requests))]
    lines = [
        json.dumps(
            {
                "index": index,
                "prompt": request.prompt,
                "prompt_tokens": request.prompt_tokens,
                "output_tokens": request.output_tokens,
                "arrival_unit_s": time_ns / 1e9,
                "group": request.group,
                **({"after": request.after, "pause_s": request.pause_ns / 1e9} if drawing.rounds > 1 else {}),
                **({"joins": request.joins} if request.joins else {}),
                **({} if request.priority is None else {"priority": request.priority}),
                **({} if request.adapter is None else {"adapter": request.adapter}),
            },
            ensure_ascii=False,
        )
        for index, (request, time_ns) in enumerate(zip(requests, times_ns, strict=True))
    ]
    outputs = [request.output_tokens for request in requests]
    shares = isinstance(workload, SharedPrefix | MultiTurn | AgentLoop | Branches)
    groups = [request.group for request in requests] if shares else []
    asked = [request.adapter for request in requests]
    card = make_card(identity, seed, prompts, outputs, groups, arrivals_ns, drawing.rounds, drawing.sharing, asked)
    write_json(folder / CARD_FILE, card)
    write_bytes(folder / REQUESTS_FILE, "".join(f"{line}\n" for line in lines).encode())


def _with_adapters(requests: Sequence[DrawnRequest], adapters: int, stream: Stream) -> Sequence[DrawnRequest]:
    """`requests`, each of the base model or of one of so many adapters: all equally often, in a random order."""
    if not adapters:
        return requests
    names = [None, *adapter_names(adapters)]
    order = stream.shuffled([names[index % len(names)] for index in range(len(requests))])
    return [replace(request, adapter=name) for request, name in zip(requests, order, strict=True)]


def _arrivals_ns(seed: int, count: int, rounds: int) -> list[int]:
    """`count` arrivals at a rate of 1 / `rounds`: with so many requests each, one request a second."""
    stream, time_ns, times_ns = Stream(seed, "arrivals"), 0, []
    for _ in range(count):
        time_ns += rounds * stream.exponential_ns()
        times_ns.append(time_ns)
    return times_ns


def _compose(workload: Composed, seed: int, words: Words) -> Drawing:
    """The requests of a workload that is made of words, in order of arrival."""
    lengths, content = Stream(seed, "lengths"), Stream(seed, "words")
    match workload:
        case SharedPrefix():
            return Drawing(_shared_prefix(workload, lengths, content, words))
        case MultiTurn() | AgentLoop():
            return conversations(workload, seed, content, words)
        case Branches():
            return branches(workload, content, words)
        case Retrieval():
            return retrieval(workload, lengths, content, words)
        case NearMiss():
            return near_miss(workload, lengths, content, words)
        case InteractiveBatch():
            return Drawing(_classes(workload, lengths, content, words), _CLASSES_SHARE_NOTHING)
        case _:
            return Drawing(_unshared(workload, lengths, content, words))


def _unshared(
    workload: Random | ShareGptShaped | MixedLongShort | VariableOutput, lengths: Stream, content: Stream, words: Words
) -> list[DrawnRequest]:
    """Requests whose prompts have nothing in common."""
    groups: list[str | None] = [None] * workload.requests
    if isinstance(workload, Random):
        sizes = [
            (
                _spread(lengths, workload.prompt_tokens, workload.spread),
                _spread(lengths, workload.output_tokens, workload.spread),
            )
            for _ in range(workload.requests)
        ]
    elif isinstance(workload, VariableOutput):
        outputs = [workload.outputs[index % len(workload.outputs)] for index in range(workload.requests)]
        sizes = [(workload.prompt_tokens, output) for output in lengths.shuffled(outputs)]
    elif isinstance(workload, ShareGptShaped):
        sizes = sharegpt_lengths(
            lengths, workload.requests, workload.maximum_prompt_tokens, workload.maximum_total_tokens
        )
    else:
        long = min(max(round(workload.requests * workload.long_share), 1), workload.requests - 1)
        groups = lengths.shuffled(["long"] * long + ["short"] * (workload.requests - long))
        tokens = {"long": workload.long_tokens, "short": workload.short_tokens}
        sizes = [(tokens[str(group)], workload.output_tokens) for group in groups]
    runs = words.distinct_runs(content, [words.words_in(prompt) for prompt, _ in sizes])
    return [
        DrawnRequest(" ".join(run), prompt, output, group)
        for run, (prompt, output), group in zip(runs, sizes, groups, strict=True)
    ]


_CLASSES_SHARE_NOTHING: Final = "nothing, within a class or between the two"


def _classes(workload: InteractiveBatch, lengths: Stream, content: Stream, words: Words) -> list[DrawnRequest]:
    """Interactive requests (priority 0) and those of the batch class (1), whose prompts have nothing in common."""
    interactive = min(max(round(workload.requests * workload.interactive_share), 1), workload.requests - 1)
    order = lengths.shuffled([0] * interactive + [1] * (workload.requests - interactive))
    sizes = (
        (workload.interactive_prompt_tokens, workload.interactive_output_tokens),
        (workload.batch_prompt_tokens, workload.batch_output_tokens),
    )
    runs = words.distinct_runs(content, [words.words_in(sizes[priority][0]) for priority in order])
    return [
        DrawnRequest(" ".join(run), *sizes[priority], ("interactive", "batch")[priority], priority=priority)
        for run, priority in zip(runs, order, strict=True)
    ]


def _shared_prefix(workload: SharedPrefix, lengths: Stream, content: Stream, words: Words) -> list[DrawnRequest]:
    prefixes = words.distinct_runs(content, [words.words_in(workload.prefix_tokens)] * workload.groups)
    suffixes = words.distinct_runs(content, [workload.suffix_tokens] * workload.requests)
    order = lengths.shuffled([index % workload.groups for index in range(workload.requests)])
    return [
        DrawnRequest(
            " ".join(prefixes[group] + suffix),
            workload.prefix_tokens + workload.suffix_tokens,
            workload.output_tokens,
            str(group),
        )
        for group, suffix in zip(order, suffixes, strict=True)
    ]


def _spread(stream: Stream, mean: int, spread: float) -> int:
    return stream.between(max(1, round(mean * (1 - spread))), round(mean * (1 + spread)))
