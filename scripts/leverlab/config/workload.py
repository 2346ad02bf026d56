"""A workload: prompts, output lengths and unit-rate arrivals, drawn once from a seed and replayed by every server."""

from typing import Annotated, Final, Literal

from pydantic import Field, RootModel, model_validator

from leverlab.config.base import StrictModel

Tokens = Annotated[int, Field(ge=1)]
Requests = Annotated[int, Field(ge=1, description="requests a phase sends")]

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

    @model_validator(mode="after")
    def _groups_are_used(self) -> "SharedPrefix":
        if self.groups > self.requests:
            raise ValueError(f"there are more groups ({self.groups}) than requests ({self.requests})")
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


Workload = Annotated[SharedPrefix | Random | ShareGpt | ShareGptShaped | MixedLongShort, Field(discriminator="kind")]


class WorkloadEntry(RootModel[Workload]):
    """A workload as an entry of config/workloads.yaml."""
