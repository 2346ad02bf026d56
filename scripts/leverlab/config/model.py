"""A model: where its files come from, and the dimensions that theory needs."""

from typing import Annotated, Any, Literal

from pydantic import Field

from leverlab.config.base import Flags, StrictModel
from leverlab.config.engine import EngineKind

AdaptedProjection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class HubSource(StrictModel):
    """A repository of the Hugging Face hub at a pinned revision: fetched once, then used offline."""

    kind: Literal["hub"] = "hub"
    id: str = Field(description="the repository, such as meta-llama/Llama-3.1-8B-Instruct")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="the commit, 40 hexadecimal digits: a branch can move")


class PathSource(StrictModel):
    """A folder with config.json, a tokenizer and weights."""

    kind: Literal["path"] = "path"
    path: str = Field(description="the folder; relative to the repository, or absolute, or below `~`")
    revision: str = Field(description="what identifies the folder's content: part of the result's identity")


class SyntheticSource(StrictModel):
    """A shape with dummy weights and a tokenizer made on the spot."""

    kind: Literal["synthetic"] = "synthetic"
    shape: dict[str, Any] = Field(description="keys of a Hugging Face config.json")
    vocabulary: int = Field(default=16384, ge=10000, description="entries of the tokenizer that is made")


class AdaptersSource(StrictModel):
    """LoRA adapters of a model, with random weights made on the spot: `adapter-1`, `adapter-2`, …, a folder each in PEFT's format."""

    kind: Literal["adapters"] = "adapters"
    base: str = Field(description="the model that they adapt: a name of models.yaml")
    count: int = Field(ge=1, description="how many adapters")
    rank: int = Field(default=16, ge=1, description="the inner dimension of their two factors")
    targets: list[AdaptedProjection] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj"],
        min_length=1,
        description="the projections of every layer that they adapt",
    )


Source = Annotated[HubSource | PathSource | SyntheticSource | AdaptersSource, Field(discriminator="kind")]


class Model(StrictModel):
    """A model that engines serve."""

    source: Source = Field(description="where the files come from: one of the kinds below")
    flags: dict[EngineKind, Flags] = Field(default={}, description="kind of engine → flags that this model needs")
    title: str | None = Field(default=None, description="the model's name for a reader")
    draft: str | None = Field(
        default=None,
        description="the model that drafts for it where a lever asks for `{draft}`: a name of models.yaml, of the same vocabulary",
    )
    eagle: str | None = Field(
        default=None,
        description="its EAGLE-3 head, which drafts for it where a lever asks for `{eagle}`: a name of models.yaml, of one layer and the same "
        "hidden size",
    )
    adapters: str | None = Field(
        default=None,
        description="its LoRA adapters, which are served with it where a lever asks for `{adapters}`: a name of models.yaml whose source is of "
        "kind `adapters`",
    )
    dimensions: dict[str, Any] = Field(
        default={},
        description="keys of its config.json, for theory where the files are not on the machine; part of no identity",
    )
