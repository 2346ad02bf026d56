"""Prompts that look alike and that a prefix cache cannot use again: retrieved chunks, and a token changed at the top."""

from leverlab.config.workload import NearMiss, Retrieval
from leverlab.workloads.drawn import Drawing, DrawnRequest
from leverlab.workloads.prompts import Words
from leverlab.workloads.stream import Stream


def retrieval(workload: Retrieval, lengths: Stream, content: Stream, words: Words) -> Drawing:
    """Prompts of an instruction that all share, chunks, and a question of their own.

    The share of repeated chunks is rounded to whole chunks of a prompt. A repeated one is drawn from those of earlier prompts that
    have not stood at that position before, so that no two prompts have the same chunk in the same place; where there is none
    left a new one is taken.
    """
    repeated = round(workload.chunks * workload.repeated_share)
    total = workload.requests * workload.chunks
    [instruction] = words.distinct_runs(content, [words.words_in(workload.instruction_tokens)])
    texts = iter(words.distinct_runs(content, [workload.chunk_tokens] * total))
    questions = words.distinct_runs(content, [workload.question_tokens] * workload.requests)
    chunks: list[list[str]] = []
    places: list[set[int]] = []
    requests: list[DrawnRequest] = []
    found = 0
    for question in questions:
        again = set(lengths.shuffled(range(workload.chunks))[:repeated])
        known = len(chunks)
        chosen: list[int] = []
        for place in range(workload.chunks):
            wanted = range(known) if place in again else ()
            free = [one for one in wanted if place not in places[one] and one not in chosen]
            if free:
                one = free[lengths.below(len(free))]
                found += 1
            else:
                one = len(chunks)
                chunks.append(next(texts))
                places.append(set())
            places[one].add(place)
            chosen.append(one)
        text = [*instruction, *(word for one in chosen for word in chunks[one]), *question]
        tokens = workload.instruction_tokens + workload.chunks * workload.chunk_tokens + workload.question_tokens
        requests.append(DrawnRequest(" ".join(text), tokens, workload.output_tokens))
    told = (
        f"all begin with the same {workload.instruction_tokens} tokens; {found} of {total} chunks stood in an earlier prompt, at "
        f"another position, where a prefix cache cannot find them"
    )
    return Drawing(requests, told)


def near_miss(workload: NearMiss, lengths: Stream, content: Stream, words: Words) -> Drawing:
    """Prompts that share a prefix but for one token, which no two of them have in common.

    Raises ValueError where the tokenizer itself makes that token, or has too few words.
    """
    place = workload.changed_token - 1 - words.added
    if place < 0:
        raise ValueError(f"changed_token: the tokenizer adds the first {words.added} tokens itself: give a later one")
    prefixes = words.distinct_runs(content, [words.words_in(workload.prefix_tokens)] * workload.groups)
    suffixes = words.distinct_runs(content, [workload.suffix_tokens] * workload.requests)
    changed = words.distinct(content, workload.requests)
    order = lengths.shuffled([index % workload.groups for index in range(workload.requests)])
    requests = [
        DrawnRequest(
            " ".join([*prefixes[group][:place], word, *prefixes[group][place + 1 :], *suffix]),
            workload.prefix_tokens + workload.suffix_tokens,
            workload.output_tokens,
            str(group),
        )
        for group, word, suffix in zip(order, changed, suffixes, strict=True)
    ]
    told = (
        f"prompts begin with one of {workload.groups} prefixes of {workload.prefix_tokens} tokens, in which token "
        f"{workload.changed_token} is another one in every request: what comes after it is never found again"
    )
    return Drawing(requests, told)
