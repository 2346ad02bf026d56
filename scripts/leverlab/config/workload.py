"""A workload: prompts, output lengths and unit-rate arrivals, drawn once from a seed and replayed by every server."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from leverlab.config.base import StrictModel

Tokens = Annotated[int, Field(ge=1)]
Requests = Annotated[int, Field(ge=1, description="requests a phase sends")]


class SharedPrefix(StrictModel):
    """Requests of `groups` that share a prefix each; the suffix is unique."""

    kind: Literal["shared-prefix"] = "shared-prefix"
    requests: Requests
    groups: int = Field(ge=1, description="distinct prefixes; requests take them in a random order, equally often")
    prefix_tokens: Tokens
    suffix_tokens: Tokens
    output_tokens: Tokens


class Random(StrictModel):
    """Runs of unique tokens: no prompt shares a prefix with another."""

    kind: Literal["random"] = "random"
    requests: Requests
    prompt_tokens: Tokens
    output_tokens: Tokens
    spread: float = Field(default=0, ge=0, lt=1, description="lengths are uniform in [L(1-spread), L(1+spread)]")


class ShareGpt(StrictModel):
    """The real ShareGPT file, read from a path that the user gives (`--config sharegpt_path=…`)."""

    kind: Literal["sharegpt"] = "sharegpt"
    requests: Requests
    maximum_prompt_tokens: Tokens = 1024
    maximum_total_tokens: Tokens = 2048


class ShareGptShaped(StrictModel):
    """Lengths drawn from the published distributions of ShareGPT; for machines without the file."""

    kind: Literal["sharegpt-shaped"] = "sharegpt-shaped"
    requests: Requests
    maximum_prompt_tokens: Tokens = 1024
    maximum_total_tokens: Tokens = 2048


class MixedLongShort(StrictModel):
    """Long prompts among short ones: what chunked prefill is for."""

    kind: Literal["mixed-long-short"] = "mixed-long-short"
    requests: Requests
    short_tokens: Tokens
    long_tokens: Tokens
    long_share: float = Field(gt=0, lt=1)
    output_tokens: Tokens

    @model_validator(mode="after")
    def _long_is_longer(self) -> "MixedLongShort":
        if self.long_tokens <= self.short_tokens:
            raise ValueError("long_tokens must be more than short_tokens")
        return self


Workload = Annotated[SharedPrefix | Random | ShareGpt | ShareGptShaped | MixedLongShort, Field(discriminator="kind")]
