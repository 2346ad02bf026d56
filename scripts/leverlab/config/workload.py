"""A workload: prompts, output lengths and unit-rate arrivals, drawn once from a seed and replayed by every server."""

import math
from typing import Annotated, Final, Literal

from pydantic import Field, RootModel, model_validator

from leverlab.config.base import Pause, StrictModel

Tokens = Annotated[int, Field(ge=1)]
Requests = Annotated[int, Field(ge=1, description="requests a phase sends")]
Adapters = Annotated[
    int,
    Field(
        ge=0,
        description="LoRA adapters that requests name: each asks one of these or the base model, all equally often, in a random order; 0: all ask "
        "the base model. Part of the identity, but of no seed: prompts and arrivals are the same whoever is asked",
    ),
]

SHAREGPT_V3_SHA256: Final = "35f0e213ce091ed9b9af2a1f0755e9d39f9ccec34ab281cd4ca60d70f6479ba4"
"""Of ShareGPT_V3_unfiltered_cleaned_split.json, the file that serving benchmarks mean by ShareGPT."""


class SharedPrefix(StrictModel):
    """Requests of `groups` that share a prefix each; the suffix is unique."""

    kind: Literal["shared-prefix"] = "shared-prefix"
    requests: Requests
    groups: int = Field(ge=1, description="distinct prefixes; requests take them in a random order, equally often")
    prefix_tokens: Tokens = Field(
        description="tokens that the requests of a group share, what the tokenizer adds included"
    )
    suffix_tokens: Tokens = Field(description="tokens after them, unlike those of any other request from the first on")
    output_tokens: Tokens = Field(description="tokens to generate")
    adapters: Adapters = 0

    @model_validator(mode="after")
    def _groups_are_used(self) -> "SharedPrefix":
        if self.groups > self.requests:
            raise ValueError(f"there are more groups ({self.groups}) than requests ({self.requests})")
        _check_adapters(self.requests, self.adapters)
        return self


class Random(StrictModel):
    """Runs of random words: no prompt shares even its first token with another while the vocabulary allows it."""

    kind: Literal["random"] = "random"
    requests: Requests
    prompt_tokens: Tokens = Field(description="tokens of a prompt, what the tokenizer adds included")
    output_tokens: Tokens = Field(description="tokens to generate")
    spread: float = Field(
        default=0, ge=0, lt=1, description="both lengths are uniform in [L(1-spread), L(1+spread)], rounded"
    )
    adapters: Adapters = 0

    @model_validator(mode="after")
    def _adapters_are_asked(self) -> "Random":
        _check_adapters(self.requests, self.adapters)
        return self


class ShareGpt(StrictModel):
    """The real ShareGPT file, read from a path that the user gives (`--config sharegpt_path=…`).

    As serving benchmarks do it: the first two turns of a conversation are prompt and answer; the answer's length is the
    output's; pairs below 4 tokens or above the limits are left out.
    """

    kind: Literal["sharegpt"] = "sharegpt"
    requests: Requests
    maximum_prompt_tokens: int = Field(default=1024, ge=4, description="longest prompt that is kept")
    maximum_total_tokens: int = Field(default=2048, ge=8, description="longest prompt and output together")
    sha256: str = Field(
        default=SHAREGPT_V3_SHA256,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the file: part of the result's identity; default: ShareGPT_V3_unfiltered_cleaned_split.json",
    )


class ShareGptShaped(StrictModel):
    """Lengths with the joint distribution of ShareGPT's, prompts of random words; for machines without the file."""

    kind: Literal["sharegpt-shaped"] = "sharegpt-shaped"
    requests: Requests
    maximum_prompt_tokens: int = Field(default=1024, ge=32, description="longest prompt that is kept")
    maximum_total_tokens: int = Field(default=2048, ge=64, description="longest prompt and output together")


class MixedLongShort(StrictModel):
    """Long prompts among short ones: what chunked prefill is for."""

    kind: Literal["mixed-long-short"] = "mixed-long-short"
    requests: Requests
    short_tokens: Tokens = Field(description="tokens of a short prompt")
    long_tokens: Tokens = Field(description="tokens of a long prompt")
    long_share: float = Field(gt=0, lt=1, description="share of long prompts, rounded to whole requests, at least one")
    output_tokens: Tokens = Field(description="tokens to generate")

    @model_validator(mode="after")
    def _both_lengths_occur(self) -> "MixedLongShort":
        if self.long_tokens <= self.short_tokens:
            raise ValueError("long_tokens must be more than short_tokens")
        if self.requests < 2:
            raise ValueError("a mix of long and short prompts needs two requests or more")
        return self


class MultiTurn(StrictModel):
    """Conversations whose prompts grow: a turn is asked after the answer before it, and its prompt holds all that was said.

    What was answered is not known when a workload is drawn: drawn words, as many as were asked for, stand in its place.
    """

    kind: Literal["multi-turn"] = "multi-turn"
    requests: Requests
    turns: int = Field(ge=1, description="turns of a conversation; `requests` is a multiple of it")
    system_tokens: Tokens = Field(
        description="tokens that all conversations begin with, what the tokenizer adds included"
    )
    message_tokens: Tokens = Field(description="tokens of what the user says in a turn")
    output_tokens: Tokens = Field(
        description="tokens to generate in a turn, and of the drawn answer that stands for them in later prompts"
    )
    think_time: Pause = Field(
        default=0, description="mean time from the end of an answer to the next turn, drawn exponentially"
    )

    @model_validator(mode="after")
    def _whole_conversations(self) -> "MultiTurn":
        _check_rounds(self.requests, self.turns, "turns")
        return self


class AgentLoop(StrictModel):
    """Agents that work in a loop: each step's prompt is the one before it, what was generated, and what a tool returned.

    Drawn words stand for what was generated, as in multi-turn.
    """

    kind: Literal["agent-loop"] = "agent-loop"
    requests: Requests
    steps: int = Field(ge=1, description="steps of a loop; `requests` is a multiple of it")
    prefix_tokens: Tokens = Field(
        description="instructions and tools that all loops begin with, what the tokenizer adds included"
    )
    task_tokens: Tokens = Field(description="tokens of a loop's own task, after the prefix")
    result_tokens: Tokens = Field(description="tokens that a tool returns after each step")
    output_tokens: Tokens = Field(
        description="tokens to generate in a step, and of the drawn words that stand for them in later prompts"
    )
    tool_time: Pause = Field(default=0, description="mean time that a tool takes, drawn exponentially")

    @model_validator(mode="after")
    def _whole_loops(self) -> "AgentLoop":
        _check_rounds(self.requests, self.steps, "steps")
        return self


def _check_adapters(requests: int, adapters: int) -> None:
    if adapters >= requests:
        raise ValueError(f"{adapters} adapters and the base model are more than there are requests ({requests})")


def _check_rounds(requests: int, rounds: int, name: str) -> None:
    if requests % rounds:
        raise ValueError(f"requests ({requests}) must be a multiple of {name} ({rounds})")


class Retrieval(StrictModel):
    """Questions after retrieved chunks: a short common instruction, then chunks that a prefix cache cannot use again.

    A share of the chunks stood in an earlier prompt, at another position, as popular documents do.
    """

    kind: Literal["retrieval"] = "retrieval"
    requests: Requests
    instruction_tokens: Tokens = Field(
        description="tokens that all prompts begin with, what the tokenizer adds included"
    )
    chunks: int = Field(ge=1, description="chunks of a prompt")
    chunk_tokens: Tokens = Field(description="tokens of a chunk")
    question_tokens: Tokens = Field(description="tokens of the question after the chunks")
    output_tokens: Tokens = Field(description="tokens to generate")
    repeated_share: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="share of a prompt's chunks that stood in an earlier one, at another position",
    )

    @model_validator(mode="after")
    def _has_other_positions(self) -> "Retrieval":
        if self.repeated_share and self.chunks < 2:
            raise ValueError(
                "repeated_share: a chunk can only stand at another position where there are two chunks or more"
            )
        return self


class NearMiss(StrictModel):
    """Shared prefixes in which one early token differs from request to request: a date or a name at the top."""

    kind: Literal["near-miss"] = "near-miss"
    requests: Requests
    groups: int = Field(ge=1, description="distinct prefixes; requests take them in a random order, equally often")
    prefix_tokens: Tokens = Field(
        description="tokens of a prefix, the changed one and what the tokenizer adds included"
    )
    changed_token: Tokens = Field(
        description="which token of the prefix is another one in every request, counted from 1"
    )
    suffix_tokens: Tokens = Field(description="tokens after the prefix, unlike those of any other request")
    output_tokens: Tokens = Field(description="tokens to generate")

    @model_validator(mode="after")
    def _token_is_of_the_prefix(self) -> "NearMiss":
        if self.groups > self.requests:
            raise ValueError(f"there are more groups ({self.groups}) than requests ({self.requests})")
        if self.changed_token > self.prefix_tokens:
            raise ValueError(f"changed_token ({self.changed_token}) is beyond prefix_tokens ({self.prefix_tokens})")
        return self


class VariableOutput(StrictModel):
    """Random prompts of one length whose outputs differ widely: what a batch that waits for its longest loses by.

    One output length that is the mean of the list is the control: the same tokens, evenly spread.
    """

    kind: Literal["variable-output"] = "variable-output"
    requests: Requests
    prompt_tokens: Tokens = Field(description="tokens of a prompt, what the tokenizer adds included")
    outputs: list[Tokens] = Field(
        min_length=1, description="tokens to generate: the lengths occur equally often, in a random order"
    )


class Branches(StrictModel):
    """Programs that fork and join: a request, `branches` that go on from its text at once, and one that takes up what they answered.

    Drawn words stand for the answers, as in multi-turn.
    """

    kind: Literal["branches"] = "branches"
    requests: Requests
    branches: int = Field(
        ge=2, description="branches of a program, which is of `branches` + 2 requests; `requests` is a multiple of that"
    )
    prefix_tokens: Tokens = Field(
        description="instructions that all programs begin with, what the tokenizer adds included"
    )
    task_tokens: Tokens = Field(description="tokens of a program's own task, after the prefix")
    branch_tokens: Tokens = Field(description="tokens that a branch adds to the text that it goes on from")
    join_tokens: Tokens = Field(description="tokens that the last request adds after the answers of all branches")
    output_tokens: Tokens = Field(
        description="tokens to generate in a request, and of the drawn words that stand for them in later prompts"
    )

    @model_validator(mode="after")
    def _whole_programs(self) -> "Branches":
        _check_rounds(self.requests, self.branches + 2, "branches + 2")
        return self


class InteractiveBatch(StrictModel):
    """Users who wait for their tokens among batch work that can wait: two classes of requests, in a random order.

    An interactive request carries the priority 0 in its body and one of the batch class 1: with vLLM the smaller goes first.
    """

    kind: Literal["interactive-batch"] = "interactive-batch"
    requests: Requests
    interactive_share: float = Field(
        gt=0, lt=1, description="share of interactive requests, rounded to whole requests, at least one of each class"
    )
    interactive_prompt_tokens: Tokens = Field(description="tokens of an interactive request's prompt")
    interactive_output_tokens: Tokens = Field(description="tokens that it asks for")
    batch_prompt_tokens: Tokens = Field(description="tokens of a prompt of the batch class")
    batch_output_tokens: Tokens = Field(description="tokens that it asks for")

    @model_validator(mode="after")
    def _both_classes_occur(self) -> "InteractiveBatch":
        if self.requests < 2:
            raise ValueError("two classes need two requests or more")
        return self


Composed = (
    SharedPrefix
    | Random
    | ShareGptShaped
    | MixedLongShort
    | MultiTurn
    | AgentLoop
    | Retrieval
    | NearMiss
    | VariableOutput
    | Branches
    | InteractiveBatch
)
"""Workloads whose prompts are made of words."""

Workload = Annotated[Composed | ShareGpt, Field(discriminator="kind")]


def adapters_of(workload: Workload) -> int:
    """LoRA adapters that the requests of `workload` name."""
    return workload.adapters if isinstance(workload, SharedPrefix | Random) else 0


def rounds_of(workload: Workload) -> tuple[int, float]:
    """Requests that follow one another, each after the answer to the one before it, and the mean pause between, in seconds."""
    match workload:
        case MultiTurn():
            return workload.turns, workload.think_time
        case AgentLoop():
            return workload.steps, workload.tool_time
        case Branches():
            return 3, 0.0  # the branches wait for the first request together, and the last one for them
        case _:
            return 1, 0.0


def mean_output_tokens(workload: Workload) -> float | None:
    """Tokens that a request asks for, on average; None where they are drawn from the lengths of ShareGPT's answers."""
    match workload:
        case ShareGpt() | ShareGptShaped():
            return None
        case VariableOutput():
            return sum(workload.outputs) / len(workload.outputs)
        case InteractiveBatch():
            share = workload.interactive_share
            return share * workload.interactive_output_tokens + (1 - share) * workload.batch_output_tokens
        case _:
            return workload.output_tokens


def with_requests(workload: Workload, requests: int) -> Workload:
    """`workload` with so many requests, rounded up to whole conversations, loops or programs.

    Raises pydantic's ValidationError where its other keys do not allow as few.
    """
    whole = _requests_of_one(workload)
    wanted = math.ceil(requests / whole) * whole
    if wanted == workload.requests:
        return workload
    return type(workload).model_validate({**workload.model_dump(), "requests": wanted})


def _requests_of_one(workload: Workload) -> int:
    """Requests of a conversation, a loop or a program; 1 where each stands alone."""
    match workload:
        case MultiTurn():
            return workload.turns
        case AgentLoop():
            return workload.steps
        case Branches():
            return workload.branches + 2
        case _:
            return 1


class WorkloadEntry(RootModel[Workload]):
    """A workload as an entry of config/workloads.yaml."""
