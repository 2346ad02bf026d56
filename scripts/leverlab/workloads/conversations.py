"""Conversations and agents' loops: prompts that grow, each sent after the answer to the one before it."""

from leverlab.config.workload import AgentLoop, MultiTurn
from leverlab.workloads.drawn import Drawing, DrawnRequest
from leverlab.workloads.prompts import Words
from leverlab.workloads.stream import Stream


def conversations(workload: MultiTurn | AgentLoop, seed: int, content: Stream, words: Words) -> Drawing:
    """The conversations of `workload`, one after another, each with its rounds in order.

    The prompt of a round is the whole prompt before it, drawn words for what was answered, and what is said next: the user's
    message or the tool's result. So it begins with all that the server has seen of its conversation, answers left out.
    """
    if isinstance(workload, MultiTurn):
        rounds, common, pause_s = workload.turns, workload.system_tokens, workload.think_time
        first = following = workload.message_tokens
        what = "conversations"
    else:
        rounds, common, pause_s = workload.steps, workload.prefix_tokens, workload.tool_time
        first, following = workload.task_tokens, workload.result_tokens
        what = "loops"
    count = workload.requests // rounds
    [beginning] = words.distinct_runs(content, [words.words_in(common)])
    openings = words.distinct_runs(content, [first] * count)
    pauses = Stream(seed, "pauses")
    requests: list[DrawnRequest] = []
    for number, opening in enumerate(openings):
        said, tokens = beginning + opening, common + first
        for position in range(rounds):
            if position:
                said = said + words.run(content, workload.output_tokens + following)
                tokens += workload.output_tokens + following
            requests.append(
                DrawnRequest(
                    " ".join(said),
                    tokens,
                    workload.output_tokens,
                    str(number),
                    after=len(requests) - 1 if position else None,
                    pause_ns=round(pauses.exponential_ns() * pause_s) if position else 0,
                )
            )
    told = (
        f"{count} {what} of {rounds} requests, each of which begins with the whole prompt before it; all begin with the same "
        f"{common} tokens. Drawn words stand for the answers, so that no answer that the server has cached is used again"
    )
    return Drawing(requests, told, rounds)
