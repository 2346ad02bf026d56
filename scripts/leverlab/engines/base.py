"""What the trial runner needs of an engine. Each engine is one module beside this one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import httpx

from leverlab.config.model_reference import replaced
from leverlab.records import Reason


class EngineUnreachableError(Exception):
    """The engine's environment could not be run on this machine. The text says what was tried and what it answered."""


OPENAI_REQUEST_EXTRAS: Final[Mapping[str, Any]] = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "ignore_eos": True,
    "temperature": 0,
}
"""What vLLM and SGLang take to make lengths exact and tokens countable; engines that take the same get the same bytes."""


SCRATCH: Final = "{scratch}"
"""What stands in flags and variables for the folder that a server keeps its own files in; no identity knows where that is."""

TIER_FOLDER: Final = "tier"
"""Where in it a tier on disk keeps its files, so that they can be removed: `{scratch}/tier`."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One server to be started: what is requested (the identity, with folders where its flags name models), and where on this
    machine."""

    command_prefix: Sequence[str]
    model_folder: Path
    identity: Mapping[str, Any]
    host: str
    port: int
    api_key: str = field(repr=False)
    cores: Sequence[int]
    """Cores the engine may compute on; the client has another. Empty: no restriction."""
    folder: Path
    """The trial's folder, for what the engine writes besides its log."""
    gpus: Sequence[str] = ()
    """GPUs that the server may see, as UUIDs or indices; empty: those that this process sees."""
    scratch: Path | None = None
    """A folder of the trial's on this machine's own disk, gone with it: for a tier on disk, and for sockets."""
    around: Callable[[str, "Launch"], "Launch"] | None = None
    """What becomes of each engine server's own launch, by the server's name: so a profiler comes round every one of them, and
    round nothing that stands before or beside them."""


def placed(identity: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """A server's `identity` with the folder `scratch` where flags and variables say `{scratch}`."""

    def fill(text: str) -> str:
        return text.replace(SCRATCH, str(scratch))

    return {**identity, **{part: replaced(identity[part], fill) for part in ("flags", "environment")}}


@dataclass(frozen=True, slots=True)
class Settings:
    """Flags and environment variables of one treatment, as a server's identity holds them."""

    flags: Mapping[str, Any]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Transfer:
    """How a prefill server's KV cache comes to a decode server, or a server's to a daemon beside it and back
    (`leverlab.config.topology`), and where on this machine."""

    role: Literal["prefill", "decode", "server"]
    connector: str
    port: int
    """A free port of this server's own, on which a connector may be asked where the KV cache is; the daemon's, where it is one."""
    folder: Path
    """What a connector hands over in files goes here."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An intended setting against the effective one. `expected`: a difference that the flag's own meaning explains."""

    key: str
    intended: Any
    effective: Any
    expected: bool


class Engine(Protocol):
    """How one kind of engine is started, asked, reset and understood."""

    kind: str
    served_model_name: str
    adapter_field: str
    """Field of a request's body that names a LoRA adapter."""
    own_variables: Sequence[str]
    """Patterns (fnmatch) of environment variables that change how this engine serves. Those of the user's shell are not
    passed on: what is not in the identity must not reach the server."""

    compilation: re.Pattern[str]
    """What a line of the server's log holds when a graph is compiled or captured: nothing that may happen in a measurement."""

    def command(self, launch: Launch) -> list[str]:
        """The command line of the server. Never holds the API key."""

    def environment(self, launch: Launch) -> dict[str, str]:
        """Variables to add to the server's environment: the identity's, those that keep it offline, the API key."""

    def handing_over(self, transfer: Transfer, flags: Mapping[str, Any]) -> Settings:
        """Flags and variables with which a server of `flags` takes its part in prefill/decode disaggregation, or keeps KV in a
        daemon.

        Raises ValueError for a connector that this engine has not.
        """

    def check_flags(self, command_prefix: Sequence[str], treatments: Sequence[Settings]) -> list[Reason | None]:
        """What the engine's own argument parser, in its own environment, says of each treatment: None or the refusal.

        Codes: `unknown_flag`, `bad_flag_value`, `reserved_flag`, `unknown_variable`. All treatments in one process, as
        importing an engine takes many seconds. Raises EngineUnreachableError where the environment does not run.
        """

    def check_configuration(self, launch: Launch) -> Reason | None:
        """The full check, in the job, where the device is: None, or why the engine refuses this configuration."""

    def ready(self, client: httpx.Client) -> bool:
        """Whether the server answers that it is ready for requests. `client` has its base URL and key."""

    def reset_cache(self, client: httpx.Client, *, tiers: bool = True) -> bool:
        """Empty the prefix cache and, with `tiers`, what the server can empty below it; whether the server says that it did.

        Without `tiers` what lies below keeps what it has. False where that cannot be had.
        """

    def empty_tiers(self, scratch: Path) -> bool:
        """Empty what lies below the prefix cache and the server's own reset does not reach; whether that was possible.

        `scratch` is the launch's. What a tier keeps there on disk is removed by the caller.
        """

    def keeps_prefix_cache(self, client: httpx.Client) -> bool | None:
        """Whether the server keeps a prefix cache. None where that is left to its counters: without one it looks nothing up."""

    def request_extras(self) -> dict[str, Any]:
        """Fields of each request's body that make lengths exact and tokens countable."""

    def effective_configuration(self, client: httpx.Client, log: str) -> dict[str, Any]:
        """What the server says it runs with: from its endpoints, metrics and start-up log.

        Among it, where the server tells them, the facts that are metrics (`leverlab.metrics.SERVER_FACTS`) but its time to start.
        """

    def differences(self, identity: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Difference]:
        """Every setting whose effective value is not the intended one."""

    def canonical_metrics(self, text: str) -> dict[str, float]:
        """`/metrics` in canonical names: `prompt_tokens`, `generation_tokens`, `requests_finished`, `prefix_queried_tokens`,
        `prefix_hit_tokens`, `preemptions`, `drafts`, `draft_tokens`, `accepted_tokens` (of speculation), `external_queried_tokens`,
        `external_hit_tokens` (of a tier below the engine's own cache), `restores`, `restored_bytes`, `restore_s` (loads from there:
        how many, how much, in what time), `running`, `waiting`, `kv_cache_usage`, and `<histogram>_sum` and `<histogram>_count`
        for ttft_s, queue_time_s, prefill_time_s, decode_time_s, e2e_s, kv_transfer_s, kv_transfer_bytes. Sums over all label sets, of `kv_cache_usage` the
        largest; what is missing is left out. An engine may add counters that only it has.
        """

    def log_counters(self, log: str) -> dict[str, float]:
        """What only the log counts, of that part of it: canonical names as in `canonical_metrics`, `restored_tokens` (of the loads),
        and `expert_load_mean` and `expert_load_most` (of a mixture's experts).
        """

    def explain_exit(self, log: str) -> Reason:
        """Why a server ended, from its log: `configuration_refused`, `out_of_memory`, `port_taken`, or `server_died`."""
