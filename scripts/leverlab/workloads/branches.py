"""Programs that fork and join: requests that go on from one text at once, and one that takes up all their answers."""

from leverlab.config.workload import Branches
from leverlab.workloads.drawn import Drawing, DrawnRequest
from leverlab.workloads.prompts import Words
from leverlab.workloads.stream import Stream


def branches(workload: Branches, content: Stream, words: Words) -> Drawing:
    """The programs of `workload`, one after another: the first request, its branches, and the one that joins them.

    A branch's prompt is the whole first prompt, drawn words for what was answered, and its own question. That of the last request is
    the first prompt and its answer again, drawn words for the answers of all branches, and a question.
    """
    size, output = workload.branches + 2, workload.output_tokens
    count = workload.requests // size
    [prefix] = words.distinct_runs(content, [words.words_in(workload.prefix_tokens)])
    tasks = words.distinct_runs(content, [workload.task_tokens] * count)
    requests: list[DrawnRequest] = []
    for number, task in enumerate(tasks):
        first, group = len(requests), str(number)
        begun = workload.prefix_tokens + workload.task_tokens
        requests.append(DrawnRequest(" ".join(prefix + task), begun, output, group))
        shared = prefix + task + words.run(content, output)
        for question in words.distinct_runs(content, [workload.branch_tokens] * workload.branches):
            tokens = begun + output + workload.branch_tokens
            requests.append(DrawnRequest(" ".join(shared + question), tokens, output, group, after=first))
        said = words.run(content, workload.branches * output + workload.join_tokens)
        tokens = begun + (1 + workload.branches) * output + workload.join_tokens
        joins = tuple(range(first + 1, len(requests)))
        requests.append(DrawnRequest(" ".join(shared + said), tokens, output, group, after=joins[-1], joins=joins))
    told = (
        f"{count} programs of {size} requests: {workload.branches} branches begin with the whole text of the first and wait for its answer, and "
        f"the last one begins with it too and waits for theirs; all begin with the same {workload.prefix_tokens} tokens. Drawn words stand for "
        "the answers, so that no answer that the server has cached is used again"
    )
    return Drawing(requests, told, size)
