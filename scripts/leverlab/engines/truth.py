"""The truth engine (`python -m leverlab.truth`): declared times, part of leverlab, started and asked like any other."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Final

import httpx

from leverlab.config.base import nearest
from leverlab.engines.base import OPENAI_REQUEST_EXTRAS, Difference, Launch, Settings, Transfer
from leverlab.engines.flags import flag_words
from leverlab.engines.prometheus import VLLM_METRICS, cache_info, canonical_metrics
from leverlab.engines.vllm_settings import COMPILATION
from leverlab.load.plan import KEY_VARIABLE
from leverlab.records import Reason
from leverlab.truth.settings import Settings as TruthSettings
from leverlab.truth.settings import parse_settings

RESERVED_FLAGS: Final = frozenset({"host", "port", "served-model-name", "truth-log"})
TRUTH_LOG: Final = "truth.log"

_RESET_ATTEMPTS: Final = 20
_RESET_PAUSE_S: Final = 0.1
_TAIL_LINES: Final = 20


class TruthEngine:
    """One truth engine, in the environment of leverlab itself. It logs its true send times into the trial's folder."""

    kind = "truth"
    served_model_name = "truth"
    adapter_field = "model"
    own_variables: Sequence[str] = ()
    compilation = COMPILATION

    def command(self, launch: Launch) -> list[str]:
        return [
            *(launch.command_prefix or [sys.executable]),
            *("-m", "leverlab.truth", "--host", launch.host, "--port", str(launch.port)),
            *("--served-model-name", self.served_model_name),
            *("--truth-log", str(launch.folder / TRUTH_LOG)),
            *flag_words(launch.identity["flags"]),
        ]

    def environment(self, launch: Launch) -> dict[str, str]:
        return {KEY_VARIABLE: launch.api_key, **launch.identity["environment"]}

    def handing_over(self, transfer: Transfer, flags: Mapping[str, Any]) -> Settings:
        # It takes over what a request says was handed over, whoever sends it.
        return Settings({}, {})

    def check_flags(self, command_prefix: Sequence[str], treatments: Sequence[Settings]) -> list[Reason | None]:
        return [_refusal(treatment.flags) for treatment in treatments]

    def check_configuration(self, launch: Launch) -> Reason | None:
        return _refusal(launch.identity["flags"])

    def ready(self, client: httpx.Client) -> bool:
        # Only this server knows the key: another one that took the port meanwhile would refuse it.
        return all(client.get(path).status_code == httpx.codes.OK for path in ("/health", "/v1/models"))

    def reset_cache(self, client: httpx.Client, *, tiers: bool = True) -> bool:
        """Asks again while requests are just ending; about two seconds at most."""
        for _ in range(_RESET_ATTEMPTS):
            answer = client.post("/reset_prefix_cache", params={"reset_external": str(tiers).lower()})
            if answer.status_code == httpx.codes.OK and answer.json().get("success") is True:
                return True
            time.sleep(_RESET_PAUSE_S)
        return False

    def empty_tiers(self, scratch: Path) -> bool:
        return True

    def keeps_prefix_cache(self, client: httpx.Client) -> bool | None:
        return None

    def request_extras(self) -> dict[str, Any]:
        return dict(OPENAI_REQUEST_EXTRAS)

    def effective_configuration(self, client: httpx.Client, log: str) -> dict[str, Any]:
        return {
            "settings": client.get("/leverlab/config").json(),
            "environment": {},
            "cache": cache_info(client.get("/metrics").text),
        }

    def differences(self, identity: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Difference]:
        settings = effective["settings"]
        return [
            Difference(flag, intended, settings.get(flag.replace("-", "_")), expected=False)
            for flag, intended in identity["flags"].items()
            if settings.get(flag.replace("-", "_")) != intended
        ]

    def canonical_metrics(self, text: str) -> dict[str, float]:
        return canonical_metrics(text, VLLM_METRICS)

    def log_counters(self, log: str) -> dict[str, float]:
        return {}

    def explain_exit(self, log: str) -> Reason:
        lines = [line for line in log.splitlines() if line.strip()]
        tail = lines[-_TAIL_LINES:]
        for line in reversed(tail):
            if "cannot listen" in line:
                return Reason(code="port_taken", message=line, log=tail)
            if "error:" in line or line.startswith("ValueError:"):
                return Reason(code="configuration_refused", message=line, log=tail)
        said = lines[-1] if lines else "it wrote nothing"
        return Reason(code="server_died", message=f"the server ended: {said}", log=tail)


def _refusal(flags: Mapping[str, Any]) -> Reason | None:
    known = {name.replace("_", "-") for name in TruthSettings.__slots__}
    for name in flags:
        if name in RESERVED_FLAGS:
            return Reason(code="reserved_flag", message=f"--{name} is set by leverlab itself: take it out of the flags")
        if name not in known:
            return Reason(code="unknown_flag", message=f"the truth engine has no flag --{name}{nearest(name, known)}")
    said = StringIO()
    try:
        with redirect_stderr(said):
            parse_settings(flag_words(flags))
    except SystemExit:
        message = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        return Reason(code="bad_flag_value", message=f"the truth engine: {message}")
    return None
