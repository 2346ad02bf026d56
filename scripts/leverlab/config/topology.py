"""How many servers a treatment starts, and what stands before them: a topology and its parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from leverlab.config.base import Environment, Flags, FlagValue, StrictModel, Written

Role = Literal["server", "replica", "prefill", "decode"]

Policy = Literal["round-robin", "random", "cache-aware"]

Connector = Literal["nixl", "example", "mooncake"]

LMCACHE_DAEMON: Final = "lmcache-daemon"
"""How the KV cache comes to LMCache's daemon and back."""

CACHE_DAEMONS: Final = ("vllm",)
"""Kinds of engines that can keep blocks in it."""

OFFLINE_ENGINES: Final = ("vllm", "sglang")
"""Kinds of engines that are called by a program of their own, without a server."""

CONNECTORS: Final[Mapping[str, tuple[Connector, ...]]] = {
    "vllm": ("nixl", "example"),
    "sglang": ("nixl", "mooncake"),
    "truth": ("nixl", "example"),
    "static": (),
}
"""Kind of engine → how the KV cache can come from a prefill server to a decode server of it. The truth engine imitates vLLM."""


class Pool(StrictModel):
    """Servers of one role, and what they are told besides the treatment's flags."""

    servers: int = Field(default=1, ge=1, description="how many there are; each takes the same share of the GPUs")
    flags: Flags = Field(default={}, description="flags of these servers alone, laid over the treatment's")
    environment: Environment = Field(default={}, description="environment variables of these servers alone")


class Single(StrictModel):
    """One server, asked directly."""

    kind: Literal["single"] = "single"

    @property
    def engine_servers(self) -> int:
        """How many engine servers there are; each takes the same share of the GPUs."""
        return 1


class Replicas(StrictModel):
    """Equal servers behind a router, each with its share of the GPUs."""

    kind: Literal["replicas"] = "replicas"
    servers: int = Field(default=2, ge=1, description="how many servers share the GPUs; 1: one server behind a router")
    policy: Policy = Field(default="round-robin", description="which server gets the next request")
    router: Literal["own", "sglang"] = Field(
        default="own", description="leverlab's own proxy, or SGLang's router from the engine's environment"
    )

    @property
    def engine_servers(self) -> int:
        """How many engine servers there are; each takes the same share of the GPUs."""
        return self.servers

    @model_validator(mode="after")
    def _who_knows_caches(self) -> "Replicas":
        if self.policy == "cache-aware" and self.router != "sglang":
            raise ValueError("policy cache-aware: only SGLang's router has it: add `router: sglang`")
        return self


class PrefillDecode(StrictModel):
    """Prefill servers that compute a prompt's KV cache, decode servers that take it over and generate, and a proxy."""

    kind: Literal["prefill-decode"] = "prefill-decode"
    connector: Connector = Field(description="how the KV cache comes from one to the other")
    prefill: Pool = Field(default=Pool(), description="the prefill servers")
    decode: Pool = Field(default=Pool(), description="the decode servers")

    @property
    def engine_servers(self) -> int:
        """How many engine servers there are; each takes the same share of the GPUs."""
        return self.prefill.servers + self.decode.servers


class CacheDaemon(StrictModel):
    """One server, asked directly, and beside it LMCache's daemon, which keeps KV blocks below its cache and outlives it."""

    kind: Literal["cache-daemon"] = "cache-daemon"
    memory: float = Field(default=20, gt=0, description="GiB of the host's memory that the daemon keeps blocks in")
    chunk: int = Field(default=256, ge=16, description="tokens of a chunk, which is stored and found as a whole")

    @property
    def engine_servers(self) -> int:
        """How many engine servers there are; each takes the same share of the GPUs."""
        return 1


class Offline(StrictModel):
    """The engine in a program of its own, which is handed whole batches: there is no server, and nothing is streamed."""

    kind: Literal["offline"] = "offline"

    @property
    def engine_servers(self) -> int:
        """How many engine servers there are; each takes the same share of the GPUs."""
        return 1


Topology = Annotated[Single | Replicas | PrefillDecode | CacheDaemon | Offline, Field(discriminator="kind")]

_TOPOLOGY: Final[TypeAdapter[Topology]] = TypeAdapter(Topology)


def _named(value: Any) -> Any:  # noqa: ANN401 - not validated yet
    return {"kind": value} if isinstance(value, str) else value


TopologyChoice = Annotated[
    Topology,
    BeforeValidator(_named, json_schema_input_type=str | dict[str, Any]),
    Written("a kind, or a mapping with `kind`: one of the kinds below"),
]
"""A topology as a level names it: `prefill-decode` alone, or with its parameters."""


@dataclass(frozen=True, slots=True)
class Part:
    """One engine server of a topology. `answers`: whether what it generates reaches the client."""

    name: str
    role: Role
    answers: bool
    flags: Mapping[str, FlagValue]
    environment: Mapping[str, str]


def topology_from(settings: Mapping[str, Any]) -> Topology:
    """The topology with `kind` and parameters as `settings`. Raises pydantic.ValidationError."""
    return _TOPOLOGY.validate_python(dict(settings))


def topology_of(identity: Mapping[str, Any]) -> Topology:
    """The topology in a server's identity. Raises ValueError for one that there is not."""
    return topology_from({"kind": identity["topology"], **identity.get("topology_settings", {})})


def parts_of(identity: Mapping[str, Any]) -> list[Part]:
    """The engine servers of a server's identity, in the order of their names' numbers, prefill before decode."""
    topology = topology_of(identity)
    if isinstance(topology, Single | CacheDaemon | Offline):
        return [_part("server", "server", identity, Pool())]
    if isinstance(topology, Replicas):
        return list(_pool("replica", identity, Pool(servers=topology.servers), numbered=True))
    return [*_pool("prefill", identity, topology.prefill), *_pool("decode", identity, topology.decode)]


def _pool(role: Role, identity: Mapping[str, Any], pool: Pool, *, numbered: bool = False) -> Iterator[Part]:
    for number in range(1, pool.servers + 1):
        yield _part(f"{role}-{number}" if numbered or pool.servers > 1 else role, role, identity, pool)


def _part(name: str, role: Role, identity: Mapping[str, Any], pool: Pool) -> Part:
    return Part(
        name,
        role,
        role != "prefill",
        {**identity["flags"], **pool.flags},
        {**identity["environment"], **pool.environment},
    )
