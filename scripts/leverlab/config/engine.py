"""An engine: which module drives it, how it is started on this machine or cluster, and the flags it always gets."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from leverlab.config.base import Environment, Flags, Seconds, StrictModel

EngineKind = Literal["vllm", "sglang", "static", "truth"]
"""The modules of leverlab.engines. Levers and models say per kind what they set."""

Device = Literal["cpu", "cuda"]
"""What an engine computes on, and a GPU type is."""


class LockedEnvironment(StrictModel):
    """An environment made from a lock under envs/ and kept in `.envs/<engine>`."""

    kind: Literal["lock"] = "lock"
    lock: str = Field(description="the requirement file with hashes, relative to the repository")
    torch: str | None = Field(default=None, description="torch's own build, installed before the lock: `2.13.0+cpu`")
    local: list[str] = Field(
        default=[], description="local packages installed after the lock, relative to the repository"
    )


class Interpreter(StrictModel):
    """An existing Python that has the engine installed."""

    kind: Literal["python"] = "python"
    python: str = Field(description="path of the interpreter")


class Container(StrictModel):
    """A container image that has the engine installed."""

    kind: Literal["container"] = "container"
    runtime: Literal["apptainer", "docker", "podman"] = Field(default="apptainer", description="what runs the image")
    image: str = Field(description="the image: a file `….sif`, or a name in a registry")
    digest: str = Field(description="the image's digest, `sha256:…`: it is part of the result's identity")
    python: str = Field(default="python3", description="the interpreter inside the image")


class Module(StrictModel):
    """Environment modules of a cluster."""

    kind: Literal["module"] = "module"
    load: list[str] = Field(min_length=1, description="modules to load, in order")
    python: str = Field(default="python3", description="the interpreter once they are loaded")


class InProcess(StrictModel):
    """The pipeline's own environment: for the truth engine, which is part of leverlab."""

    kind: Literal["pipeline"] = "pipeline"


Launch = Annotated[LockedEnvironment | Interpreter | Container | Module | InProcess, Field(discriminator="kind")]


class Engine(StrictModel):
    """How a server of this engine is started, and what of it belongs to a result's identity."""

    kind: EngineKind = Field(description="the module of leverlab.engines that drives it; levers name it")
    device: Device = Field(description="what it computes on: GPUs of the same device may be combined with it")
    launch: Launch = Field(description="where its Python is: one of the kinds below")
    identity_packages: list[str] = Field(
        default=[], description="packages of the lock whose versions affect a measurement"
    )
    versions: dict[str, str] = Field(
        default={}, description="the same, declared, where there is no lock to read them from"
    )
    flags: Flags = Field(default={}, description="flags that every server of this engine gets")
    environment: Environment = Field(
        default={}, description="environment variables that every server of this engine gets"
    )
    start_timeout: Seconds = Field(default=600, description="how long a start may take")
    typical_start: Seconds = Field(
        default=90, description="how long a start takes, for estimates before there is history"
    )

    @model_validator(mode="after")
    def _versions_are_known(self) -> "Engine":
        if isinstance(self.launch, Interpreter | Module) and not self.versions:
            raise ValueError(
                "an engine from an interpreter or a module must declare `versions`: they identify its results"
            )
        return self
