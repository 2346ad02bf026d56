"""A workload's card: what was drawn, for the report and for whoever wonders whether it is what was asked for."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

BLOCK_SIZES: Final = (1, 16, 128)
"""Tokens of a KV block: a radix tree (SGLang), vLLM on a GPU, vLLM on a CPU."""

_QUANTILES: Final = (5, 25, 50, 75, 95, 99)
_BINS: Final = 20


def ideal_hits(prompts: Sequence[Sequence[int]], block_size: int, asked: Sequence[str | None] = ()) -> int:
    """Prompt tokens that a prefix cache would serve, were it infinite and each request done before the next one came.

    `prompts` are token ids in order of arrival. A cache finds whole blocks of `block_size` tokens from the start on, and
    never all of a prompt: its last token has to be computed (vLLM's `max_cache_hit_length`). `asked` names the LoRA adapter of each,
    None for the base model: keys and values of one are not those of another, so that each has blocks of its own.
    """
    known: set[tuple[int, ...]] = set()
    chains: dict[tuple[int, ...], int] = {}
    # Below every chain: 0 and down, one for each of those asked.
    roots = {name: -number for number, name in enumerate(dict.fromkeys(asked))}
    hits = 0
    for number, tokens in enumerate(prompts):
        parent, matched, unbroken = roots[asked[number]] if asked else 0, 0, True
        for start in range(0, len(tokens) - len(tokens) % block_size, block_size):
            key = (parent, *tokens[start : start + block_size])
            if unbroken and key in known and start + block_size <= len(tokens) - 1:
                matched += block_size
            else:
                unbroken = False
            known.add(key)
            parent = chains.setdefault(key, len(chains) + 1)
        hits += matched
    return hits


def _distribution(values: Sequence[int]) -> dict[str, Any]:
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    bins = min(_BINS, high - low + 1)
    edges = [low + (high + 1 - low) * index // bins for index in range(bins + 1)]
    counts = [sum(start <= value < end for value in ordered) for start, end in pairwise(edges)]
    return {
        "total": sum(values),
        "mean": round(sum(values) / len(values), 3),
        "minimum": low,
        # The smallest value that this share of the requests does not exceed: always one that occurs.
        **{f"p{share}": ordered[-(-len(ordered) * share // 100) - 1] for share in _QUANTILES},
        "maximum": high,
        "histogram": {"edges": edges, "counts": counts},
    }


def _arrivals(times_ns: Sequence[int], rounds: int) -> dict[str, Any]:
    gaps = [(later - earlier) / 1e9 for earlier, later in pairwise([0, *times_ns])]
    mean = statistics.fmean(gaps)
    return {
        "process": _process(rounds),
        "last_s": round(times_ns[-1] / 1e9, 6),
        "mean_gap_s": round(mean, 6),
        "variation_of_gaps": round(statistics.pstdev(gaps) / mean, 6),
    }


def _process(rounds: int) -> str:
    ending = "drawn once and not rescaled; a rate divides these times"
    if rounds == 1:
        return f"Poisson at 1 request/s, {ending}"
    return (
        f"conversations: Poisson at 1/{rounds} a second, which with {rounds} requests each is 1 request/s, {ending}; a later request "
        f"is due a drawn pause after the end of the one before it, and no rate divides the pauses"
    )


def make_card(
    identity: Mapping[str, Any],
    seed: int,
    prompts: Sequence[Sequence[int]],
    output_tokens: Sequence[int],
    sharing: Sequence[str | None],
    times_ns: Sequence[int],
    rounds: int = 1,
    told_sharing: str | None = None,
    asked: Sequence[str | None] = (),
) -> dict[str, Any]:
    """The card of a drawn workload; `prompts` are token ids, all sequences are in order of arrival.

    `sharing` names the group with which each request shares a prefix; empty where prompts are not made to share one.
    `told_sharing` says in words what is shared where groups alone do not. `times_ns` are arrivals, each of which `rounds` requests
    follow. `asked` names the LoRA adapter that each asks, None for the base model.

    `expected_prefix_hit_ratio` gives, for each block size, hit tokens / prompt tokens of an ideal prefix cache that is
    empty at the start (see `ideal_hits`). A shared prefix counts only as far as it fills whole blocks.
    """
    lengths = [len(prompt) for prompt in prompts]
    total = sum(lengths)
    named = sorted({name for name in asked if name is not None})
    sizes = {group: sharing.count(group) for group in sorted({group for group in sharing if group is not None})}
    return {
        "workload": dict(identity["workload"]),
        "tokenizer": identity["tokenizer"]["name"],
        "seed": seed,
        "requests": len(prompts),
        "prompt_tokens": _distribution(lengths),
        "output_tokens": _distribution(output_tokens),
        "total_tokens": total + sum(output_tokens),
        "groups": sizes,
        **({"adapters": {name: asked.count(name) for name in named}} if named else {}),
        **({} if told_sharing is None else {"sharing": told_sharing}),
        "expected_prefix_hit_ratio": {
            str(size): round(ideal_hits(prompts, size, asked) / total, 6) for size in BLOCK_SIZES
        },
        "arrivals": _arrivals(times_ns, rounds),
    }
