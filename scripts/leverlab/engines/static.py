"""Static batching with transformers' `generate` (`leverlab.static_batching`), run by path in an engine's environment."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Final

import httpx

from leverlab import static_batching
from leverlab.config.base import nearest
from leverlab.engines.base import (
    OPENAI_REQUEST_EXTRAS,
    Difference,
    EngineUnreachableError,
    Launch,
    Settings,
    Transfer,
)
from leverlab.engines.flags import flag_words
from leverlab.engines.inherited import LIBRARY_VARIABLES
from leverlab.engines.prometheus import VLLM_METRICS, MetricNames, canonical_metrics
from leverlab.engines.vllm_settings import COMPILATION
from leverlab.load.plan import KEY_VARIABLE
from leverlab.records import Reason
from leverlab.static_batching.settings import Settings as StaticSettings
from leverlab.static_batching.settings import parse_settings

RESERVED_FLAGS: Final = frozenset({"host", "port", "served-model-name", "model", "device"})

_PROGRAM: Final = Path(static_batching.__file__).with_name("__main__.py")
_METRICS: Final = MetricNames(
    summed={
        **VLLM_METRICS.summed,
        "static:batches_total": "batches",
        "static:padded_prompt_tokens_total": "padded_prompt_tokens",
        "static:sequence_steps_total": "sequence_steps",
        "static:idle_sequence_steps_total": "idle_sequence_steps",
    },
    largest={},
)
_ALWAYS: Final[Mapping[str, str]] = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
_NEEDED: Final = ("torch", "transformers", "tokenizers")
_LOOK: Final = (
    f"import importlib.util as u, sys; sys.exit(' '.join(n for n in {_NEEDED!r} if u.find_spec(n) is None) or None)"
)
_LOOK_TIMEOUT_S: Final = 120.0
_OUT_OF_MEMORY: Final = re.compile(
    r"OutOfMemoryError|CUDA out of memory|can't allocate memory|MemoryError|std::bad_alloc"
)
_TAIL_LINES: Final = 20


class StaticEngine:
    """One static-batching server. It takes nothing but flags that leverlab itself defines, so they are checked here."""

    kind = "static"
    served_model_name = "model"
    adapter_field = "model"
    own_variables: Sequence[str] = ("TRANSFORMERS_*", *LIBRARY_VARIABLES)
    compilation = COMPILATION

    def command(self, launch: Launch) -> list[str]:
        return [
            *launch.command_prefix,
            str(_PROGRAM),
            *("--model", str(launch.model_folder), "--served-model-name", self.served_model_name),
            *("--host", launch.host, "--port", str(launch.port)),
            *("--device", launch.identity["engine"]["device"]),
            *flag_words(launch.identity["flags"]),
        ]

    def environment(self, launch: Launch) -> dict[str, str]:
        environment = {**_ALWAYS, KEY_VARIABLE: launch.api_key}
        if launch.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(launch.gpus)
        if launch.identity["engine"]["device"] == "cpu" and launch.cores:
            environment["OMP_NUM_THREADS"] = str(len(launch.cores))
        return environment | dict(launch.identity["environment"])

    def handing_over(self, transfer: Transfer, flags: Mapping[str, Any]) -> Settings:
        raise ValueError("static batching hands no KV cache over")

    def check_flags(self, command_prefix: Sequence[str], treatments: Sequence[Settings]) -> list[Reason | None]:
        _look_at(command_prefix)
        return [_refusal(treatment.flags) for treatment in treatments]

    def check_configuration(self, launch: Launch) -> Reason | None:
        """What flags and GPUs say. The rest, such as too long a context, the server's own start says within seconds."""
        count = launch.identity["gpu"]["count"]
        if count > 1:
            return Reason(code="configuration_refused", message=f"static batching computes on one GPU, not on {count}")
        return _refusal(launch.identity["flags"])

    def ready(self, client: httpx.Client) -> bool:
        # Only this server knows the key: another one that took the port meanwhile would refuse it.
        return all(client.get(path).status_code == httpx.codes.OK for path in ("/health", "/v1/models"))

    def reset_cache(self, client: httpx.Client, *, tiers: bool = True) -> bool:
        """True: a batch's KV cache ends with it, so there is never anything that a later prompt could find."""
        return True

    def empty_tiers(self, scratch: Path) -> bool:
        return True

    def keeps_prefix_cache(self, client: httpx.Client) -> bool | None:
        return False

    def request_extras(self) -> dict[str, Any]:
        return dict(OPENAI_REQUEST_EXTRAS)

    def effective_configuration(self, client: httpx.Client, log: str) -> dict[str, Any]:
        """Flags as the server took them; where the loaded model itself tells the value, as the model tells it."""
        told = client.get("/server_info").json()
        facts = told["facts"]
        return {
            "settings": {
                **told["settings"],
                **{name: facts[name] for name in ("dtype", "attn_implementation", "device")},
            },
            "environment": {},
            "cache": {},
            "version": facts["transformers"],
            **facts,
        }

    def differences(self, identity: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Difference]:
        settings = effective["settings"]
        return [
            Difference(flag, intended, settings.get(flag.replace("-", "_")), expected=intended == "auto")
            for flag, intended in identity["flags"].items()
            if settings.get(flag.replace("-", "_")) != intended
        ]

    def canonical_metrics(self, text: str) -> dict[str, float]:
        """And of its own: `batches`, `padded_prompt_tokens`, `sequence_steps` (places summed over steps) and, of these,
        `idle_sequence_steps`, whose sequence had ended.
        """
        return canonical_metrics(text, _METRICS)

    def log_counters(self, log: str) -> dict[str, float]:
        return {}

    def explain_exit(self, log: str) -> Reason:
        lines = [line for line in log.splitlines() if line.strip()]
        tail = lines[-_TAIL_LINES:]
        for line in reversed(tail):
            if "cannot listen" in line:
                return Reason(code="port_taken", message=line, log=tail)
            if _OUT_OF_MEMORY.search(line):
                return Reason(
                    code="out_of_memory", message=f"the configuration does not fit into memory: {line}", log=tail
                )
            if "error: " in line:
                return Reason(code="configuration_refused", message=line, log=tail)
        said = lines[-1] if lines else "it wrote nothing"
        return Reason(code="server_died", message=f"the server ended: {said}", log=tail)


def _look_at(prefix: Sequence[str]) -> None:
    shown = " ".join(prefix)
    try:
        done = subprocess.run(
            [*prefix, "-c", _LOOK], capture_output=True, text=True, timeout=_LOOK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnreachableError(f"`{shown}` does not run: {type(error).__name__}") from error
    if done.returncode:
        raise EngineUnreachableError(f"static batching needs {', '.join(_NEEDED)} in `{shown}`: {done.stderr.strip()}")


def _refusal(flags: Mapping[str, Any]) -> Reason | None:
    known = {name.replace("_", "-") for name in StaticSettings.__slots__}
    for name in flags:
        if name in RESERVED_FLAGS:
            return Reason(code="reserved_flag", message=f"--{name} is set by leverlab itself: take it out of the flags")
        if name not in known:
            return Reason(
                code="unknown_flag", message=f"the static-batching server has no flag --{name}{nearest(name, known)}"
            )
    said = StringIO()
    try:
        with redirect_stderr(said):
            parse_settings(["--model", "any", *flag_words(flags)])
    except SystemExit:
        message = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        return Reason(code="bad_flag_value", message=f"the static-batching server: {message}")
    return None
